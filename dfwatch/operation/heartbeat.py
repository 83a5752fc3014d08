"""Proof of progress: whether every stage of the service did something lately. Feeds the watchdog, and health checks.

Each stage (watcher, reader, detector …) reports a beat when it has finished a step of real work, not when a timer runs.
A stage that waits for work says so (``idle``) and owes no beats until it takes some (``busy``); one that hangs within a
piece of work goes over its allowance, and from then on the watchdog is not fed and systemd starts the service anew.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from dfwatch.systemd import Notifier


@dataclass(frozen=True, slots=True)
class Lateness:
    """A stage that is over its allowance."""

    stage: str
    silent_s: float
    allowance_s: float
    doing: str

    def __str__(self) -> str:
        doing = f" while {self.doing}" if self.doing else ""
        return f"{self.stage} silent for {self.silent_s:.0f} s{doing} (allowed {self.allowance_s:.0f} s)"


@dataclass(slots=True)
class _Stage:
    usual_allowance_s: float
    allowance_s: float
    last_beat: float
    idle: bool
    doing: str


class Heartbeat:
    """What every stage reported last, by an injected monotonic clock in seconds. Safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stages: dict[str, _Stage] = {}
        self._lock = threading.Lock()
        self._closed = False

    def register(self, stage: str, allowance_s: float, *, idle: bool = False) -> None:
        """Expect beats of ``stage``, never more than ``allowance_s`` apart unless it is idle.

        A stage registered again begins anew.

        Raises:
            ValueError: ``allowance_s`` is not positive.
        """
        if allowance_s <= 0:
            raise ValueError(f"allowance of {allowance_s} s")
        with self._lock:
            self._stages[stage] = _Stage(allowance_s, allowance_s, self._clock(), idle, "")

    def remove(self, stage: str) -> None:
        """Expect nothing of ``stage`` any more: it ended as it should."""
        with self._lock:
            self._stages.pop(stage, None)

    def beat(self, stage: str) -> None:
        """``stage`` finished a step. It stays busy, or idle, as it was.

        Raises:
            KeyError: ``stage`` is not registered.
        """
        with self._lock:
            self._stages[stage].last_beat = self._clock()

    def busy(self, stage: str, allowance_s: float | None = None, doing: str = "") -> None:
        """``stage`` begins a piece of work, with an allowance of its own where that piece may take longer.

        Args:
            stage: Who.
            allowance_s: Holds until the next ``busy`` or ``idle``; the stage's usual one when None.
            doing: What, for the log.
        """
        with self._lock:
            entry = self._stages[stage]
            entry.last_beat, entry.idle, entry.doing = self._clock(), False, doing
            entry.allowance_s = entry.usual_allowance_s if allowance_s is None else allowance_s

    def idle(self, stage: str) -> None:
        """``stage`` has nothing to do and waits for work; it owes no beats until it is ``busy``."""
        with self._lock:
            entry = self._stages[stage]
            entry.last_beat, entry.idle, entry.doing = self._clock(), True, ""
            entry.allowance_s = entry.usual_allowance_s

    def close(self) -> None:
        """Expect nothing of anybody any more: the stages end, each in its time, and whoever ends them has a limit."""
        with self._lock:
            self._closed = True

    def late(self) -> tuple[Lateness, ...]:
        """The stages that are over their allowance, the longest silent first; none once it is closed."""
        with self._lock:
            if self._closed:
                return ()
            now = self._clock()
            late = [
                Lateness(name, now - entry.last_beat, entry.allowance_s, entry.doing)
                for name, entry in self._stages.items()
                if not entry.idle and now - entry.last_beat > entry.allowance_s
            ]
        return tuple(sorted(late, key=lambda lateness: -lateness.silent_s))


class Watchdog:
    """Feeds systemd's watchdog for as long as no stage of a heartbeat is late.

    Args:
        heartbeat: Who must have made progress.
        notifier: Where WATCHDOG=1 goes.
        interval_s: systemd's interval (``systemd.watchdog_interval_s``); None: nothing is fed.
        clock: Monotonic, in seconds.
    """

    def __init__(
        self,
        heartbeat: Heartbeat,
        notifier: Notifier,
        interval_s: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._heartbeat = heartbeat
        self._notifier = notifier
        self._clock = clock
        self._period_s = None if interval_s is None else interval_s / 2
        self._last_fed: float | None = None

    @property
    def period_s(self) -> float | None:
        """Call ``feed`` at least this often, in seconds; None: no watchdog is configured."""
        return self._period_s

    def feed(self) -> tuple[Lateness, ...]:
        """Send WATCHDOG=1 when it is due and nobody is late; return who is late (a reason to log, and to be killed).

        Cheap to call more often than needed.
        """
        late = self._heartbeat.late()
        if self._period_s is None or late:
            return late
        now = self._clock()
        # Half a period early is early enough; a message for each turn of a busy loop would be noise.
        if (self._last_fed is None or now - self._last_fed >= self._period_s / 2) and self._notifier.watchdog():
            self._last_fed = now
        return late
