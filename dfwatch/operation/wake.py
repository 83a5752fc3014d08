"""A flag that a thread sleeps on and that a signal handler may set.

``threading.Event`` may not be set from a signal handler: the handler runs between two steps of the very thread that may
hold the event's lock at that moment, and would wait for itself.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress


class Wake:
    """Set from any thread or signal handler; waited for by one thread."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def set(self) -> None:
        """Wake the waiting thread, or let its next wait return at once."""
        # A counter that is full wakes as well.
        with suppress(BlockingIOError):
            os.eventfd_write(self._fd, 1)

    def clear(self) -> None:
        """Take the flag back."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._fd)

    def wait(self, timeout_s: float) -> bool:
        """Sleep until the flag is set, for ``timeout_s`` at most; returns whether it is."""
        return bool(self._poll.poll(max(0.0, timeout_s) * 1000.0))

    def close(self) -> None:
        """Let go of the descriptor; the flag must not be used afterwards."""
        os.close(self._fd)
