"""SHA-256 of an open file, computed beside whatever else is done with the file."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from dfwatch.inbox.completeness import Fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable

_BLOCK_BYTES: Final = 4 * 1024 * 1024
# Below this, handing the work to a thread takes longer than the work.
_AT_ONCE_BYTES: Final = 1024 * 1024
_LOOK_S: Final = 1.0


class _GivenUpError(Exception):
    """Nobody wants to know any more."""


def sha256_of(fd: int, size_bytes: int, progress: Callable[[], None] | None = None) -> str:
    """Lower-case hex SHA-256 of an open file, whatever its file position.

    Args:
        fd: The file, open for reading.
        size_bytes: Where to stop. Whoever holds another name of the file can let it grow without end.
        progress: Called now and then.

    Raises:
        OSError: The disk failed.
    """
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(min(_BLOCK_BYTES, size_bytes)))
    position = 0
    while count := os.preadv(fd, [buffer[: size_bytes - position]], position):
        digest.update(buffer[:count])
        position += count
        if progress is not None:
            progress()
    return digest.hexdigest()


class Digest:
    """A digest that is being computed, for a large file by a thread of its own.

    Args:
        fd: The file, open for reading. It is duplicated, so the caller may close it at any time.
        fingerprint: What the caller knows it to look like, so that no more is read than was looked at; None: look now.

    Raises:
        OSError: The descriptor cannot be duplicated, or no thread be started (EAGAIN).

    Attributes:
        fingerprint: What the file looked like before its first byte was read. Bytes beyond its size are left out.
        spent_ms: How long it took, once it is there.
    """

    def __init__(self, fd: int, fingerprint: Fingerprint | None = None) -> None:
        self.spent_ms = 0.0
        self._blocks = 0
        self._given_up = False
        self._value = ""
        self._error: OSError | None = None
        self._thread: threading.Thread | None = None
        self.fingerprint = fingerprint or Fingerprint.from_stat(os.fstat(fd))
        own_fd = os.dup(fd)
        if self.fingerprint.size_bytes <= _AT_ONCE_BYTES:
            self._compute(own_fd)
            return
        # Daemonic, so that a dead disk cannot keep the process from ending.
        self._thread = threading.Thread(target=self._compute, args=(own_fd,), name="digest", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            # Limits of tasks or memory: the machine's trouble, as it would be for a process.
            os.close(own_fd)
            raise OSError(errno.EAGAIN, str(error)) from error

    def result(self, progress: Callable[[], None] | None = None) -> str:
        """The digest, once the file was read; ``progress`` is called now and then while it is being read.

        Raises:
            OSError: The disk failed.
        """
        seen = -1
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(_LOOK_S)
            if progress is not None and self._blocks != seen:
                seen = self._blocks
                progress()
        if self._error is not None:
            raise self._error
        return self._value

    def give_up(self) -> None:
        """Stop soon; ``result`` is not to be asked for unless the digest is ``sound`` all the same."""
        self._given_up = True

    @property
    def done(self) -> bool:
        """Whether ``result`` has not to wait."""
        return self._thread is None or not self._thread.is_alive()

    @property
    def sound(self) -> bool:
        """Whether ``result`` may be asked for: it did not fail, and was not given up before its end."""
        return self._error is None and (bool(self._value) or not self._given_up)

    def _compute(self, fd: int) -> None:
        began_s = time.monotonic()
        try:
            with suppress(_GivenUpError):
                self._value = sha256_of(fd, self.fingerprint.size_bytes, self._on_block)
        except OSError as error:
            self._error = error
        finally:
            os.close(fd)
            self.spent_ms = (time.monotonic() - began_s) * 1000.0

    def _on_block(self) -> None:
        if self._given_up:
            raise _GivenUpError
        self._blocks += 1
