"""The daemon's state at one moment, as data, and what follows from it: alive? ready? Pure."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_REMEMBERED: Final = 200


class Phase(StrEnum):
    """Where in its life the daemon is."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Inbox:
    """What the service knows of the inbox after its last look.

    Attributes:
        ready: Complete files that are not claimed yet.
        oldest_ready_since_s: Monotonic time since which the oldest of them is ready; None when there is none.
        waiting: Files that are not complete yet.
        oldest_wait_s: Age of the oldest of those.
        blocked: Files that cannot be moved out of the inbox, and why (at most 20, then how many more).
        blocked_count: How many they are.
        paused: Why nothing is taken in; empty when it is.
    """

    ready: int = 0
    oldest_ready_since_s: float | None = None
    waiting: int = 0
    oldest_wait_s: float = 0.0
    blocked: tuple[str, ...] = ()
    blocked_count: int = 0
    paused: str = ""


@dataclass(frozen=True, slots=True)
class SinkLag:
    """How far behind one sink is.

    Attributes:
        sink: Its name in the configuration.
        pending: Messages that it has not taken yet.
        dead: Messages that were given up.
        oldest_s: Age of the oldest pending one, in seconds; 0 when there is none.
    """

    sink: str
    pending: int
    dead: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class Vitals:
    """Everything that changes while the daemon runs.

    Attributes:
        phase: Where in its life it is.
        inbox: What waits.
        oldest_ready_s: How long the oldest complete file has waited to be claimed; 0 when there is none.
        jobs: Jobs in hand by state: ``running``, ``waiting``, ``delayed``.
        queues: Videos between two stages: ``to_score``, ``to_publish``.
        scans: Scans of the inbox since the start.
        scan_age_s: Time since the last scan ended; None before the first.
        last_scan_s: Time it took.
        deaf: Why file events do not reach the daemon; empty when they do or are not wanted.
        event_restarts: How often listening for events was started again.
        trouble: What of the disk or the machine keeps the work from going on; empty while all is well.
        problems: Parts of the inbox that cannot be read, and why.
        late: Stages that make no progress, and for how long.
        disk_free_bytes: Room under the root; None when it cannot be told.
        device_memory_bytes: By kind; empty for a CPU.
        sinks: How far behind the sinks are.
    """

    phase: Phase = Phase.STARTING
    inbox: Inbox = field(default_factory=Inbox)
    oldest_ready_s: float = 0.0
    jobs: Mapping[str, int] = field(default_factory=dict)
    queues: Mapping[str, int] = field(default_factory=dict)
    scans: int = 0
    scan_age_s: float | None = None
    last_scan_s: float = 0.0
    deaf: str = ""
    event_restarts: int = 0
    trouble: str = ""
    problems: tuple[str, ...] = ()
    late: tuple[str, ...] = ()
    disk_free_bytes: int | None = None
    device_memory_bytes: Mapping[str, int] = field(default_factory=dict)
    sinks: tuple[SinkLag, ...] = ()


def why_not_alive(vitals: Vitals) -> list[str]:
    """Reasons to start the daemon anew; empty when it is well."""
    return [f"no progress: {late}" for late in vitals.late]


def why_not_ready(vitals: Vitals) -> list[str]:
    """Why a file that is dropped now would not be judged soon; empty when it would be."""
    reasons = [] if vitals.phase is Phase.RUNNING else [f"the service is {vitals.phase}"]
    if vitals.inbox.paused:
        reasons.append(f"intake is paused: {vitals.inbox.paused}")
    if vitals.trouble:
        reasons.append(f"work waits: {vitals.trouble}")
    # Only the inbox as a whole counts: one folder that cannot be read holds up nothing else.
    reasons += [problem for problem in vitals.problems if problem.startswith((".:", "cannot open"))]
    return reasons + why_not_alive(vitals)


class StageTimes:
    """Milliseconds that each stage took for the last 200 files. Safe to use from several threads."""

    def __init__(self) -> None:
        self._by_stage: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def add(self, timings_ms: Mapping[str, float]) -> None:
        """Take one file's timings."""
        with self._lock:
            for stage, value in timings_ms.items():
                self._by_stage.setdefault(stage, deque(maxlen=_REMEMBERED)).append(value)

    def summary(self) -> dict[str, dict[str, float]]:
        """``median_ms`` and ``slowest_ms`` of each stage."""
        # A stage that another thread has just begun with has no figure yet, and nothing has no median.
        with self._lock:
            by_stage = {stage: tuple(values) for stage, values in self._by_stage.items()}
        return {
            stage: {"median_ms": round(median(values), 1), "slowest_ms": round(max(values), 1)}
            for stage, values in by_stage.items()
        }
