"""A disk that gives some bytes and not others: nothing is said of the file, wherever the error strikes."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from dfwatch.decode import demuxing
from dfwatch.errors import StorageError
from tests.clips import make_clip, make_still
from tests.reader.helpers import read

if TYPE_CHECKING:
    from pathlib import Path

CLIPS: dict[str, dict[str, Any]] = {
    "a.mkv": {},
    "b.mp4": {},
    "c.avi": {"codec": "mpeg4"},
    "d.ts": {"codec": "mpeg2video"},
    "e.flv": {},
    "f.wmv": {"codec": "wmv2", "options": {"qscale": "3"}},
}


class SickDisk:
    """``os``, in which bytes from ``first`` to ``end`` of every file cannot be read; counts how often it was tried."""

    def __init__(self, first: int, end: int, code: int) -> None:
        self._first, self._end, self._code = first, end, code
        self.failed = 0

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def pread(self, fd: int, count: int, offset: int) -> bytes:
        if offset < self._end and offset + count > self._first:
            self.failed += 1
            raise OSError(self._code, os.strerror(self._code))
        return os.pread(fd, count, offset)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sick")


def whole(folder: Path, name: str) -> Path:
    path = folder / name
    if path.exists():
        return path
    return make_clip(path, seconds=6, faces=(), **CLIPS[name]) if name in CLIPS else make_still(path)


@pytest.mark.parametrize("limit_bytes", [1 << 26, 1000])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("name", [*CLIPS, "g.jpg", "h.webp"])
def test_bytes_that_cannot_be_read_are_the_disks_fault(
    folder: Path, name: str, share: float, limit_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = whole(folder, name)
    monkeypatch.setattr("dfwatch.decode.frame_index.DEMUX_LIMIT_BYTES", limit_bytes)
    first, end = (int(path.stat().st_size * (share + more)) for more in (0.0, 0.1))
    disk = SickDisk(first, end, errno.EIO if share else errno.ESTALE)
    monkeypatch.setattr(demuxing, "os", disk)
    judged = False
    with suppress(StorageError):
        judged = read(path).sampling.failed == 0
    # Bytes of frames that are not sampled need not be read.
    assert judged == (disk.failed == 0)
