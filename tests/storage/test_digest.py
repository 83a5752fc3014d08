"""The digest that is computed beside the reading."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path

import pytest

from dfwatch.inbox.completeness import Fingerprint
from dfwatch.storage.digest import Digest, sha256_of

LARGE = 9 * 1024 * 1024 + 17


@pytest.mark.parametrize("size", [0, 1, 4096, 1024 * 1024, LARGE])
def test_it_is_the_sha256_of_all_bytes_wherever_the_descriptor_stands(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    os.lseek(fd, size // 2, os.SEEK_SET)
    digest = Digest(fd)
    assert sha256_of(fd, size) == hashlib.sha256(data).hexdigest()
    assert os.lseek(fd, 0, os.SEEK_CUR) == size // 2
    # The caller's descriptor may go at any time, and its number may come to mean another file.
    os.close(fd)
    other = os.open("/dev/null", os.O_RDONLY)
    assert digest.result() == hashlib.sha256(data).hexdigest()
    os.close(other)


@pytest.mark.parametrize("size", [4096, LARGE])
def test_a_file_that_grows_is_read_no_further_than_it_was_when_it_was_looked_at(tmp_path: Path, size: int) -> None:
    """Sixteen sparse terabytes, made through a second name, would be read for hours."""
    path = tmp_path / "file"
    path.write_bytes(bytes(size))
    fd = os.open(path, os.O_RDONLY)
    fingerprint = Fingerprint.from_stat(os.fstat(fd))
    os.truncate(path, 1 << 40)
    digest = Digest(fd, fingerprint)
    assert digest.result() == hashlib.sha256(bytes(size)).hexdigest()
    os.close(fd)


@pytest.mark.parametrize("size", [10, LARGE])
def test_a_disk_that_fails_is_told_when_the_result_is_asked_for(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(size))
    fd = os.open(path, os.O_WRONLY)  # cannot be read, as a sick disk cannot
    digest = Digest(fd)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        digest.result()


def test_a_thread_that_cannot_be_started_is_the_machines_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    path = tmp_path / "file"
    path.write_bytes(bytes(LARGE))
    fd = os.open(path, os.O_RDONLY)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="can't start new thread") as caught:
        Digest(fd)
    assert caught.value.errno == errno.EAGAIN
    assert set(os.listdir("/proc/self/fd")) <= before
    os.close(fd)


def test_no_thread_and_no_descriptor_stays_behind_a_digest_that_was_given_up(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(64 * LARGE)
    fd = os.open(path, os.O_RDONLY)
    before = set(os.listdir("/proc/self/fd"))
    digest = Digest(fd)
    digest.give_up()
    for thread in threading.enumerate():
        if thread.name == "digest":
            thread.join(20)
            assert not thread.is_alive()
    assert set(os.listdir("/proc/self/fd")) <= before
    os.close(fd)
