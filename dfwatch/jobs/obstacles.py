"""Files that cannot be moved out of the inbox: left alone for a while, told once, tried again with growing pauses."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from dfwatch.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from dfwatch.errors import UnclaimableError

_log = structlog.get_logger(__name__)

_FIRST_PAUSE_S: Final = 5.0
_LONGEST_PAUSE_S: Final = 300.0
_MOST_TOLD: Final = 20


@dataclass(slots=True)
class _Obstacle:
    cause: str
    pause_s: float
    until_s: float


@dataclass(slots=True)
class Obstacles:
    """What stands in the way of which file.

    Attributes:
        clock: Monotonic, in seconds.
    """

    clock: Callable[[], float] = time.monotonic
    _by_name: dict[str, _Obstacle] = field(default_factory=dict)

    def met(self, name: str, error: UnclaimableError) -> None:
        """A file could not be claimed."""
        known = self._by_name.get(name)
        if known is None or known.cause != error.cause:
            _log.error("a file cannot be taken in; it is tried again", error=error)
        pause_s = _FIRST_PAUSE_S if known is None else min(_LONGEST_PAUSE_S, 2 * known.pause_s)
        self._by_name[name] = _Obstacle(error.cause, pause_s, self.clock() + pause_s)

    def overcome(self, name: str) -> None:
        """A file was claimed, or is gone."""
        self._by_name.pop(name, None)

    def hold(self, name: str) -> bool:
        """Whether a file is to be left alone for now."""
        obstacle = self._by_name.get(name)
        return obstacle is not None and self.clock() < obstacle.until_s

    def told(self) -> tuple[str, ...]:
        """What ``status`` says: the file and why, for at most 20."""
        return tuple(f"{printable(name)}: {what.cause}" for name, what in list(self._by_name.items())[:_MOST_TOLD])
