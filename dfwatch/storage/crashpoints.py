"""Named steps at which a test may kill the process; without the environment variable they do nothing.

``DFWATCH_CRASH_AT=sidecar.written:2`` kills the process with SIGKILL the second time it passes that step. A service
under systemd never has this variable, and a person who can set it can kill the process anyway.
"""

from __future__ import annotations

import os
import signal
import threading

VARIABLE = "DFWATCH_CRASH_AT"

NAMES = (
    "intake.folder_made",
    "intake.note_written",
    "intake.claimed",
    "job.queued",
    "job.attempt_raised",
    "job.read",
    "job.scored",
    "sidecar.written",
    "sidecar.renamed",
    "job.published",
    "disposal.moved",
    "job.closed",
    "job.folder_removed",
)


class _Countdown:
    """How often the armed step may still be passed."""

    def __init__(self) -> None:
        name, _, count = os.environ.get(VARIABLE, "").partition(":")
        self.name = name
        self._left = int(count or 1) if name else 0
        self._lock = threading.Lock()

    def passed(self, name: str) -> bool:
        if name != self.name:
            return False
        with self._lock:
            self._left -= 1
            return self._left == 0


_armed: list[_Countdown] = []


def crash_point(name: str) -> None:
    """Die here, at once and without clean-up, if the environment asks for it."""
    if VARIABLE not in os.environ:
        return
    if not _armed:
        _armed.append(_Countdown())
    if _armed[0].passed(name):
        os.kill(os.getpid(), signal.SIGKILL)
