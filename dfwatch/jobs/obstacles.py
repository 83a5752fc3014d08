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
    seen: bool = True


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
        """Whether a file that is in the inbox is to be left alone for now."""
        obstacle = self._by_name.get(name)
        if obstacle is None:
            return False
        obstacle.seen = True
        return self.clock() < obstacle.until_s

    def looked_through(self, may_hide: Callable[[str], bool]) -> None:
        """The inbox was scanned: a file that ``hold`` was not asked about since the scan before, is gone.

        Args:
            may_hide: Says of a name whether a file may be there that the scan did not show.
        """
        self._by_name = {name: what for name, what in self._by_name.items() if what.seen or may_hide(name)}
        for what in self._by_name.values():
            what.seen = False

    @property
    def count(self) -> int:
        """How many files they are."""
        return len(self._by_name)

    def told(self) -> tuple[str, ...]:
        """What ``status`` says: the file and why, for at most 20, and how many more there are."""
        told = [f"{printable(name)}: {what.cause}" for name, what in list(self._by_name.items())[:_MOST_TOLD]]
        more = len(self._by_name) - len(told)
        return (*told, f"{more} more") if more else tuple(told)
