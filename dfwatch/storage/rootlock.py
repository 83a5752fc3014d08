"""One daemon for one root: a lock that the kernel lets go of when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress

from dfwatch.errors import RootLockedError, StorageError
from dfwatch.storage.folderlock import lock_folder


class RootLock:
    """Holds the root of a service.

    Args:
        path: The lock file; it is made where missing and never removed, so a stale one is no obstacle.

    Raises:
        RootLockedError: Another process holds it.
        StorageError: The file cannot be made.
    """

    def __init__(self, path: str) -> None:
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise StorageError("making the lock", path, exc.strerror or exc, hint="check permissions") from exc
        root = os.path.dirname(os.path.dirname(path))
        self._root_fd: int | None = None
        try:
            # Whoever removes the lock under a running daemon must not be able to start a second one.
            self._root_fd = _locked_folder(root)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            holder = holder_of(path)
            self.release()
            raise RootLockedError(
                "taking",
                root,
                f"another dfwatch daemon runs on it{f' (pid {holder})' if holder else ''}",
                hint="stop that one, or give this one another root",
            ) from exc
        # The pid is for people; a full disk that does not take it is no reason to stay away.
        with suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let go of the root."""
        os.close(self._fd)
        if self._root_fd is not None:
            os.close(self._root_fd)


def _locked_folder(path: str) -> int | None:
    """A descriptor that holds a folder; None where it may not be read.

    Raises:
        BlockingIOError: Another process holds it.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        lock_folder(fd)
    except BlockingIOError:
        os.close(fd)
        raise
    return fd


def holder_of(path: str) -> int | None:
    """Process id of the daemon that holds the lock; None if nobody does."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        try:
            # A shared lock asks without getting in the way of a daemon that starts at this moment for long.
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            text = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            return int(text) if text.isdigit() else 0
        return None
    finally:
        os.close(fd)
