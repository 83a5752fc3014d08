"""Privileges that the service keeps to itself and its child processes must not inherit."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4


def keep_capabilities_from_children() -> None:
    """Clear the ambient set of the calling thread (capabilities(7)).

    systemd's ``AmbientCapabilities=CAP_LEASE`` would otherwise reach every program that the service starts, the reader
    processes above all. What this process may do itself stays. Threads take the set over from the one that starts them,
    so this comes before the first. A kernel without ambient capabilities has nothing to clear.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
