"""Folders that somebody closed to the service: their files get folders of their own, and hold up no others."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dfwatch.errors import StorageError
from dfwatch.evidence.folder import publish_folder
from dfwatch.journal import Journal
from dfwatch.sinks import sidecar
from dfwatch.storage.durable import fsync_folder
from dfwatch.storage.layout import Layout
from tests.storage.bench import Bench
from tests.users import NOBODY, somebody_else

CLOSED = pytest.mark.parametrize("mode", [0o000, 0o444, 0o555])


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A root that belongs to a user without special powers, who runs the test."""
    root = Path(tempfile.mkdtemp())
    layout = Layout(str(root / "root"))
    if os.geteuid() == 0:
        os.chown(root, NOBODY, NOBODY)
    try:
        with somebody_else():
            layout.create()
            with closing(Journal(layout.journal)) as journal:
                yield Bench(root / "root", journal)
    finally:
        shutil.rmtree(root)


def shut(folder: str, mode: int) -> str:
    os.makedirs(folder, exist_ok=True)
    os.chmod(folder, mode)
    return folder


@CLOSED
def test_a_subfolder_of_the_results(bench: Bench, mode: int) -> None:
    shut(os.path.join(bench.layout.results, "news"), mode)
    job = bench.job(1, "news/clip.mp4")
    path, media = bench.end(job)
    assert path == os.path.join(bench.layout.results, job.id, "clip.mp4.json")
    assert media == os.path.join(bench.layout.folder("done"), "news", "clip.mp4")
    evidence = publish_folder(bench.layout.results, job.dropped, job.id, {"index.html": b"page"})
    assert os.path.dirname(evidence) == os.path.dirname(path)


@CLOSED
def test_a_folder_above_the_subfolder(bench: Bench, mode: int) -> None:
    for base in (bench.layout.results, bench.layout.folder("done")):
        shut(os.path.join(base, "news"), mode)
    job = bench.job(1, "news/today/clip.mp4")
    path, media = bench.end(job)
    assert path == os.path.join(bench.layout.results, job.id, "clip.mp4.json")
    assert media == os.path.join(bench.layout.folder("done"), job.id, "clip.mp4")


@CLOSED
def test_the_results_themselves_are_waited_for(bench: Bench, mode: int) -> None:
    job = bench.job(1, "clip.mp4")
    place = sidecar.Place(shut(bench.layout.results, mode), job.dropped, None, job.id)
    with pytest.raises(StorageError) as raised:
        sidecar.publish(place, {"job_id": job.id})
    assert raised.value.retryable
    shut(bench.layout.results, 0o755)
    assert sidecar.publish(place, {"job_id": job.id}) == sidecar.find(place)
    assert os.listdir(bench.layout.results) == ["clip.mp4.json"]


def test_a_sidecar_is_found_in_a_folder_that_was_closed_to_writing_meanwhile(bench: Bench) -> None:
    job = bench.job(1, "news/clip.mp4")
    place = sidecar.Place(bench.layout.results, job.dropped, None, job.id)
    path, document = sidecar.publish(place, {"job_id": job.id})
    shut(os.path.dirname(path), 0o555)
    assert sidecar.find(place) == (path, document)


def test_a_sidecar_is_found_in_its_own_folder_when_the_subfolder_is_open_again(bench: Bench) -> None:
    job = bench.job(1, "news/clip.mp4")
    news = shut(os.path.join(bench.layout.results, "news"), 0o000)
    place = sidecar.Place(bench.layout.results, job.dropped, None, job.id)
    path, document = sidecar.publish(place, {"job_id": job.id})
    shut(news, 0o755)
    assert sidecar.find(place) == (path, document)


def test_looking_for_a_sidecar_makes_no_folder(bench: Bench) -> None:
    job = bench.job(1, "news/clip.mp4")
    assert sidecar.find(sidecar.Place(bench.layout.results, job.dropped, None, job.id)) is None
    assert os.listdir(bench.layout.results) == []


def test_a_folder_that_may_be_written_but_not_read(bench: Bench) -> None:
    shut(os.path.join(bench.layout.results, "news"), 0o333)
    path, _ = bench.end(bench.job(1, "news/clip.mp4"))
    assert path == os.path.join(bench.layout.results, "news", "clip.mp4.json")


def test_a_folder_that_may_be_neither_cannot_be_made_durable(bench: Bench) -> None:
    with pytest.raises(PermissionError):
        fsync_folder(shut(os.path.join(bench.layout.results, "news"), 0o000))
