"""A text file that grows by whole lines, is rotated, and may be followed by a reader (``tail -F``) meanwhile.

``AppendingSink`` is what the sinks have in common whose destination is such a file.
"""

from __future__ import annotations

import errno
import os
from abc import abstractmethod
from contextlib import suppress
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Final

from dfwatch.config import SinkSettings, setting
from dfwatch.errors import SinkError
from dfwatch.sinks import Sink
from dfwatch.storage.durable import fsync_folder

if TYPE_CHECKING:
    from dfwatch.sinks import Message

_CHUNK_BYTES: Final = 64 * 1024


class AppendedFile:
    """One growing file.

    Each call writes one line with one ``write`` and waits for the disk. A line that a crash or a full disk cut short is
    removed before the next one is written, so a reader of whole lines never sees it. The file is opened anew when
    somebody else rotated or removed it.

    Args:
        path: The file; its folder is made.
        max_bytes: Rotate (``path`` to ``path.1`` …) before it gets larger; 0: never.
        keep: How many rotated files stay.
        header: First line of each file, without its end.
    """

    def __init__(self, path: str, *, max_bytes: int, keep: int, header: bytes = b"") -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._header = header + b"\n" if header else b""
        self._fd: int | None = None

    def append(self, line: bytes) -> None:
        """Add one line, durably; ``line`` has no end of line of its own.

        Raises:
            SinkError: The disk did not take it; the file is as it was.
        """
        try:
            self._append(line + b"\n")
        except OSError as exc:
            self.close()
            raise self._error("appending to", exc) from exc

    def probe(self) -> None:
        """Open the file, and make it if need be.

        Raises:
            SinkError: It cannot be written to.
        """
        try:
            self._open()
        except OSError as exc:
            raise self._error("opening", exc) from exc

    def close(self) -> None:
        """Let go of the file; the next line opens it again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _error(self, action: str, exc: OSError) -> SinkError:
        # Under systemd everything but the service's own folders is read-only, whatever its permissions.
        shut = exc.errno == errno.EROFS
        hint = (
            "ReadWritePaths= in a drop-in opens it, see docs/sinks.md" if shut else "check path, permissions and disk"
        )
        return SinkError(action, self._path, exc.strerror or exc, hint=hint)

    def _append(self, data: bytes) -> None:
        fd = self._open()
        size = os.fstat(fd).st_size
        if 0 < self._max_bytes < size + len(data) and size > len(self._header):
            self._rotate()
            fd = self._open()
            size = os.fstat(fd).st_size
        try:
            if os.write(fd, data) < len(data):
                raise OSError(errno.ENOSPC, "the disk is full")
            os.fsync(fd)
        except OSError:
            with suppress(OSError):
                os.ftruncate(fd, size)
            raise

    def _open(self) -> int:
        if self._fd is not None:
            try:
                if os.path.samestat(os.fstat(self._fd), os.stat(self._path)):
                    return self._fd
            except FileNotFoundError:
                pass
            self.close()
        os.makedirs(os.path.dirname(self._path) or ".", exist_ok=True)
        fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._fd = fd
        self._drop_partial_line(fd)
        if self._header and os.fstat(fd).st_size == 0:
            os.write(fd, self._header)
            os.fsync(fd)
        fsync_folder(os.path.dirname(self._path) or ".")
        return fd

    @staticmethod
    def _drop_partial_line(fd: int) -> None:
        end = os.fstat(fd).st_size
        position = end
        while position > 0:
            start = max(0, position - _CHUNK_BYTES)
            newline = os.pread(fd, position - start, start).rfind(b"\n")
            if newline >= 0:
                position = start + newline + 1
                break
            position = start
        if position < end:
            os.ftruncate(fd, position)

    def _rotate(self) -> None:
        self.close()
        if self._keep == 0:
            os.unlink(self._path)
            return
        for number in range(self._keep - 1, 0, -1):
            with suppress(FileNotFoundError):
                os.replace(f"{self._path}.{number}", f"{self._path}.{number + 1}")
        os.replace(self._path, f"{self._path}.1")


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
        self._file = AppendedFile(settings.path, max_bytes=settings.max_bytes, keep=settings.keep, header=header)

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
