"""Where files and sidecars go that have long names, or lie deep, on file systems that take less."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dfwatch.config import OutcomeSettings
from dfwatch.journal import Journal
from dfwatch.storage import durable
from dfwatch.storage.layout import Layout
from tests.storage.bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    layout = Layout(str(tmp_path / "root"))
    layout.create()
    with closing(Journal(layout.journal)) as journal:
        yield Bench(tmp_path / "root", journal)


@pytest.mark.parametrize("name", ["Vol. " + "я" * 115, "n" * 251 + ".mp4", "." + "n" * 254, "a." + "n" * 220])
def test_long_names_that_are_taken(bench: Bench, name: str) -> None:
    # The last one has the bytes of the one before it, so that a digest is no name of its own.
    ends = [bench.end(bench.job(number, name), times=1) for number in (0, 1, 11)]
    assert len({path for path, _ in ends}) == len({media for _, media in ends}) == 3
    assert os.path.basename(ends[0][1]) == name
    assert all(path.endswith(".json") for path, _ in ends)


@pytest.mark.parametrize(
    "name", ["ニュース" * 20 + ".mp4", "a" + "ü" * 125 + ".mp4", "n" * 3 + "🎬" * 63], ids=["kana", "umlauts", "emoji"]
)
def test_no_character_is_cut_in_two(bench: Bench, name: str) -> None:
    """Some file systems take UTF-8 only (ZFS with ``utf8only``), and whoever reads the results may, too."""
    for number in (0, 1, 11):
        for path in bench.end(bench.job(number, name), times=1):
            os.fsencode(path).decode("utf-8")


def test_a_file_system_that_takes_shorter_names_only(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """eCryptfs takes 143 bytes, and what was dropped may have that."""
    renameat2 = durable._libc_renameat2()
    assert renameat2 is not None

    def short(source: bytes, target: bytes) -> int:
        return errno.ENAMETOOLONG if len(os.path.basename(target)) > 143 else renameat2(source, target)

    monkeypatch.setattr(durable, "_libc_renameat2", lambda: short)
    first, second = (bench.job(number, "n" * 139 + ".mp4") for number in range(2))
    assert os.path.basename(bench.end(first)[0]) == f"{first.id}.json"
    assert bench.end(second)[1] == os.path.join(bench.layout.folder("done"), second.id)


def test_a_folder_in_which_no_name_would_fit(bench: Bench) -> None:
    room = 4080 - len(bench.layout.results) - 1
    folder = "/".join(["d" * 199] * (room // 200))
    job = bench.job(1, f"{folder}/{'n' * 200}.mp4")
    path, media = bench.end(job)
    assert os.path.dirname(path) == os.path.join(bench.layout.results, job.id)
    assert os.path.dirname(media) == os.path.join(bench.layout.folder("done"), job.id)


def test_a_file_that_grew_after_its_claim_is_found_again(bench: Bench) -> None:
    job = bench.job(1, "clip.mp4")
    with open(job.source, "a", encoding="utf-8") as stream:
        stream.write(" and the rest")
    bench.end(job)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EACCES, errno.EPERM])
@pytest.mark.parametrize(
    ("outcome", "closed"),
    [
        (OutcomeSettings(), "done/news"),
        (OutcomeSettings(verdict_folders=True), "done/REAL"),
        (OutcomeSettings(real="keep"), "done/news"),
    ],
)
def test_a_folder_that_is_linked_to_another_disk_or_not_ours_any_more(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, number: int, outcome: OutcomeSettings, closed: str
) -> None:
    """Its files get folders of their own: were they waited with, they would hold up all others."""
    renameat2 = durable._libc_renameat2()
    assert renameat2 is not None
    shut = [os.path.join(bench.layout.root, each).encode() for each in (closed, "inbox/news")]

    def refusing(source: bytes, target: bytes) -> int:
        return number if any(os.path.realpath(target).startswith(each) for each in shut) else renameat2(source, target)

    monkeypatch.setattr(durable, "_libc_renameat2", lambda: refusing)
    job = bench.job(1, "news/clip.mp4")
    assert bench.end(job, outcome=outcome)[1] == os.path.join(bench.layout.folder("done"), job.id, "clip.mp4")
    assert bench.journal.kept() == {}


@pytest.mark.parametrize("leads_to", ["news", "../results"])
def test_a_kept_file_whose_folder_cannot_be_reached_any_more(bench: Bench, leads_to: str) -> None:
    job = bench.job(1, "news/clip.mp4")
    os.symlink(leads_to, os.path.join(bench.layout.inbox, "news"))
    media = bench.end(job, outcome=OutcomeSettings(real="keep"))[1]
    assert media == os.path.join(bench.layout.folder("done"), "news", "clip.mp4")
