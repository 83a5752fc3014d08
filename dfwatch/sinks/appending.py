"""A text file that grows by whole lines, is rotated, and may be followed by a reader (``tail -F``) meanwhile.

``AppendingSink`` is what the sinks have in common whose destination is such a file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from abc import abstractmethod
from contextlib import contextmanager, suppress
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Final

from dfwatch.config import SinkSettings, setting
from dfwatch.errors import SinkError
from dfwatch.sinks import Sink
from dfwatch.storage.durable import fsync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dfwatch.sinks import Message

_CHUNK_BYTES: Final = 64 * 1024
_LOCK_AGAIN_S: Final = 0.01
# How long half a line must stand still where no lock tells that its writer is gone.
_STILL_S: Final = 0.3
# What flock answers while somebody else holds the lock (EACCES: where it is made of record locks).
_TAKEN: Final = {errno.EAGAIN, errno.EACCES}
# What it answers where the file system, or its server, has no locks.
_NO_LOCKS: Final = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


class AppendedFile:
    """One growing file.

    Each call writes one line with one ``write`` and waits for the disk. A line that a crash or a full disk cut short is
    removed before the next one is written, so a reader of whole lines never sees it. The file is opened anew when
    somebody else rotated or removed it. Several of these, in any process, may share a file: each holds its lock
    (``flock``) while it writes.

    Args:
        path: The file; its folder is made.
        max_bytes: Rotate (``path`` to ``path.1`` …) before it gets larger; 0: never.
        keep: How many rotated files stay.
        header: First line of each file, without its end.
        timeout_s: How long to wait while somebody else has the file locked.
    """

    def __init__(self, path: str, *, max_bytes: int, keep: int, header: bytes = b"", timeout_s: float = 10.0) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._header = header + b"\n" if header else b""
        self._timeout_s = timeout_s
        self._fd: int | None = None

    def append(self, line: bytes) -> None:
        """Add one line, durably; ``line`` has no end of line of its own.

        Raises:
            SinkError: The disk did not take it, or somebody else kept the file locked; it is as it was.
        """
        deadline_s = time.monotonic() + self._timeout_s
        with self._failing_as_sink("appending to"):
            while not self._written(line + b"\n", deadline_s):
                pass  # it was rotated instead

    def probe(self) -> None:
        """Open the file, and make it if need be; what is in it stays as it is.

        Raises:
            SinkError: It cannot be written to.
        """
        with self._failing_as_sink("opening"), self._locked(time.monotonic() + self._timeout_s):
            pass

    def close(self) -> None:
        """Let go of the file; the next line opens it again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    @contextmanager
    def _failing_as_sink(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            self.close()
            raise self._error(action, exc) from exc

    def _error(self, action: str, exc: OSError) -> SinkError:
        # Under systemd everything but the service's own folders is read-only, whatever its permissions.
        hints = {
            errno.EROFS: "ReadWritePaths= in a drop-in opens it, see docs/sinks.md",
            errno.EAGAIN: "'lslocks' shows who has it",
            errno.EBUSY: "give each writer a file of its own, or use a file system with locks",
        }
        hint = hints.get(exc.errno or 0, "check path, permissions and disk")
        return SinkError(action, self._path, exc.strerror or exc, hint=hint)

    def _written(self, line: bytes, deadline_s: float) -> bool:
        """Write the line; False if the file was full and is rotated now."""
        with self._locked(deadline_s) as (fd, alone):
            size = _without_partial_line(fd, alone=alone)
            data = line if size else self._header + line
            if 0 < self._max_bytes < size + len(data) and size > len(self._header):
                self._rotate()
                return False
            _write(fd, size, data)
        return True

    @contextmanager
    def _locked(self, deadline_s: float) -> Iterator[tuple[int, bool]]:
        """The file, and whether nobody else writes to it for the length of the ``with`` block (else: no locks here)."""
        while True:
            fd = self._open()
            alone = self._lock(fd, deadline_s)
            try:
                # While this one waited for the lock, its holder may have rotated the file.
                if self._is_there(fd):
                    yield fd, alone
                    return
                if time.monotonic() >= deadline_s:
                    raise self._taken()
            finally:
                # Closing would not do: a child that is being started may hold the descriptor a moment longer.
                if alone:
                    with suppress(OSError):
                        fcntl.flock(fd, fcntl.LOCK_UN)

    def _lock(self, fd: int, deadline_s: float) -> bool:
        """Take the file's lock; False where there are no locks."""
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                if exc.errno in _NO_LOCKS:
                    return False
                if exc.errno not in _TAKEN:
                    raise
            else:
                return True
            if time.monotonic() >= deadline_s:
                raise self._taken()
            time.sleep(_LOCK_AGAIN_S)

    def _taken(self) -> OSError:
        return OSError(errno.EAGAIN, f"somebody else has kept it locked for {self._timeout_s:g} s")

    def _is_there(self, fd: int) -> bool:
        """Whether the open file is still the one at the path."""
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self._path))
        except FileNotFoundError:
            return False

    def _open(self) -> int:
        if self._fd is not None:
            if self._is_there(self._fd):
                return self._fd
            self.close()
        os.makedirs(os.path.dirname(self._path) or ".", exist_ok=True)
        self._fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        fsync_folder(os.path.dirname(self._path) or ".")
        return self._fd

    def _rotate(self) -> None:
        """Move the file, whose lock is held, and its forerunners by one; the next ``_open`` makes a new one."""
        if self._keep == 0:
            os.unlink(self._path)
            return
        for number in range(self._keep - 1, 0, -1):
            with suppress(FileNotFoundError):
                os.replace(f"{self._path}.{number}", f"{self._path}.{number + 1}")
        os.replace(self._path, f"{self._path}.1")


def _without_partial_line(fd: int, *, alone: bool) -> int:
    """Cut off what stands after the last end of line; returns the file's size then.

    Args:
        fd: The file.
        alone: Whether its lock is held, so that nobody can be in the midst of writing that line.

    Raises:
        OSError: The disk's answer; or somebody is writing.
    """
    end = os.fstat(fd).st_size
    if end == 0 or os.pread(fd, 1, end - 1) == b"\n":
        return end
    if not alone:
        time.sleep(_STILL_S)
        if os.fstat(fd).st_size != end:
            raise OSError(errno.EBUSY, "somebody else is writing to it, and there are no locks")
    position = end
    while position > 0:
        start = max(0, position - _CHUNK_BYTES)
        newline = os.pread(fd, position - start, start).rfind(b"\n")
        if newline >= 0:
            position = start + newline + 1
            break
        position = start
    os.ftruncate(fd, position)
    return position


def _write(fd: int, size: int, data: bytes) -> None:
    """Append to a file of this size, durably; when that fails, it is as it was."""
    written = 0
    try:
        written = os.write(fd, data)
        if written < len(data):
            raise OSError(errno.ENOSPC, "the disk is full")
        os.fsync(fd)
    except OSError:
        with suppress(OSError):
            # Where there are no locks, somebody else's line may stand behind it by now.
            if os.fstat(fd).st_size == size + written:
                os.ftruncate(fd, size)
        raise


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendingSettings(SinkSettings):
    """Settings of every sink that appends to a file."""

    path: str = setting(MISSING, doc="The file; its folder is made.", path=True)
    max_bytes: int = setting(64 * 1024**2, doc="Rotate before the file gets larger; 0: never.", minimum=0)
    keep: int = setting(5, doc="Rotated files that stay: path.1 (the newest) and on.", minimum=0, maximum=1000)


class AppendingSink(Sink):
    """Appends one line for each outcome.

    Args:
        settings: The file, and how it is rotated.
        header: First line of each file, without its end.
    """

    def __init__(self, settings: AppendingSettings, *, header: bytes = b"") -> None:
        self._path = settings.path
        self._file = AppendedFile(
            settings.path,
            max_bytes=settings.max_bytes,
            keep=settings.keep,
            header=header,
            timeout_s=settings.timeout_s,
        )

    @abstractmethod
    def line(self, message: Message) -> bytes:
        """The outcome as one line, without its end."""

    def deliver(self, message: Message) -> None:
        """See ``Sink``."""
        self._file.append(self.line(message))

    def probe(self) -> str:
        """See ``Sink``."""
        self._file.probe()
        return f"{self._path} can be written to"

    def close(self) -> None:
        """See ``Sink``."""
        self._file.close()
