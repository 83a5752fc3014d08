"""Exit statuses of the command line."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What a command's exit status says; printed by ``dfwatch --help``."""

    OK = 0
    FOUND = 1
    USAGE = 2
    NOT_JUDGED = 3
    CANNOT_RUN = 4
