"""Renaming without replacing where the kernel cannot, on file systems that answer oddly."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dfwatch.errors import UnclaimableError
from dfwatch.inbox.completeness import Fingerprint
from dfwatch.intake import claim
from dfwatch.storage import durable
from dfwatch.storage.durable import rename_new
from dfwatch.storage.layout import Layout

Call = Callable[..., None]


@pytest.fixture(autouse=True)
def _no_noreplace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "_libc_renameat2", lambda: None)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_text("video")
    return path


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(str(tmp_path / "root"))
    made.create()
    return made


def failing(call: Call, only: Path, number: int, *, done: bool) -> Call:
    """``call``, which fails for one path, whether the server did it or not."""

    def fail(path: str, *args: str, **kwargs: bool) -> None:
        if path != str(only):
            call(path, *args, **kwargs)
            return
        if done:
            call(path, *args, **kwargs)
        raise OSError(number, os.strerror(number), path)

    return fail


def contents(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()]


@pytest.mark.parametrize("error", [errno.ENOENT, errno.EIO, errno.ETIMEDOUT])
def test_a_server_that_does_not_say_what_it_did_loses_no_file(
    source: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    monkeypatch.setattr(os, "unlink", failing(os.unlink, source, error, done=True))
    target = source.with_name("target")
    rename_new(str(source), str(target))
    assert contents(source.parent) == ["video"]
    assert target.read_text() == "video"


def test_a_name_that_cannot_be_removed_stays_the_only_one(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "unlink", failing(os.unlink, source, errno.EACCES, done=False))
    with pytest.raises(PermissionError):
        rename_new(str(source), str(source.with_name("target")))
    assert [path.name for path in source.parent.iterdir()] == ["source"]


@pytest.mark.parametrize("error", [errno.EPERM, errno.EMLINK, errno.ENOTSUP])
def test_where_there_are_no_links_it_is_renamed_and_nothing_is_replaced(
    source: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """fs.protected_hardlinks allows none to other people's files; FAT knows none."""
    monkeypatch.setattr(os, "link", failing(os.link, source, error, done=False))
    target = source.with_name("target")
    target.write_text("another")
    with pytest.raises(FileExistsError):
        rename_new(str(source), str(target))
    assert contents(source.parent) == ["video", "another"]
    target.unlink()
    rename_new(str(source), str(target))
    assert contents(source.parent) == ["video"]
    assert target.exists()


def test_of_many_at_once_one_gets_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(source: str, *_args: str, **_kwargs: bool) -> None:
        raise PermissionError(errno.EPERM, "no links", source)

    monkeypatch.setattr(os, "link", no_link)
    sources = [tmp_path / str(number) for number in range(20)]
    for path in sources:
        path.write_text(path.name)
    barrier, refused = threading.Barrier(len(sources)), []

    def rename(path: Path) -> None:
        barrier.wait()
        try:
            rename_new(str(path), str(tmp_path / "target"))
        except FileExistsError:
            refused.append(path)

    threads = [threading.Thread(target=rename, args=(path,)) for path in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == len(sources) - 1
    assert len(contents(tmp_path)) == len(sources)


def drop(layout: Layout) -> tuple[Path, Fingerprint]:
    path = Path(layout.inbox, "clip.mp4")
    path.write_text("video")
    return path, Fingerprint.from_stat(path.lstat())


def test_a_claim_needs_no_links(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    path, fingerprint = drop(layout)
    monkeypatch.setattr(os, "link", failing(os.link, path, errno.EPERM, done=False))
    job = claim(layout, "clip.mp4", fingerprint, ())
    assert job is not None
    assert Path(job.source).read_text() == "video"
    assert not path.exists()


@pytest.mark.parametrize("error", [errno.ENOENT, errno.EIO, errno.ETIMEDOUT])
def test_a_claim_whose_reply_is_lost_is_a_claim(layout: Layout, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    path, fingerprint = drop(layout)
    monkeypatch.setattr(os, "rename", failing(os.rename, path, error, done=True))
    job = claim(layout, "clip.mp4", fingerprint, ())
    assert job is not None
    assert Path(job.source).read_text() == "video"


def test_a_claim_that_is_refused_leaves_the_file_where_it_was(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    path, fingerprint = drop(layout)
    monkeypatch.setattr(os, "rename", failing(os.rename, path, errno.EACCES, done=False))
    with pytest.raises(UnclaimableError):
        claim(layout, "clip.mp4", fingerprint, ())
    assert path.read_text() == "video"
    assert os.listdir(layout.work) == []
