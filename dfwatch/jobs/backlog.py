"""Which claimed job runs next: pure, with an injected clock.

A job may have to wait (a second attempt, a file that changed) and may have to run alone (its last run ended with the
whole service, and one of several jobs was to blame). Jobs are taken in the order in which they were received.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dfwatch.intake import Job


@dataclass(slots=True)
class Backlog:
    """Claimed jobs that wait for a reader.

    Attributes:
        running: Ids of the jobs that were taken and not yet finished.
    """

    running: set[str] = field(default_factory=set)
    _waiting: list[tuple[str, Job]] = field(default_factory=list)
    _delayed: list[tuple[float, str, Job]] = field(default_factory=list)
    _places_kept: set[str] = field(default_factory=set)
    _running_alone: bool = False

    def add(self, job: Job, *, not_before_s: float | None = None, keeps_place: bool = False) -> None:
        """Enter a job.

        Args:
            job: The job.
            not_before_s: It is not taken before this time of the monotonic clock; None: as soon as it is its turn.
            keeps_place: Whether it holds a place until then.
        """
        if not_before_s is None:
            heapq.heappush(self._waiting, (job.id, job))
            return
        heapq.heappush(self._delayed, (not_before_s, job.id, job))
        if keeps_place:
            self._places_kept.add(job.id)

    def take(self, now_s: float) -> Job | None:
        """The next job to run, which then counts as running; None if nothing may run now."""
        while self._delayed and self._delayed[0][0] <= now_s:
            _, job_id, job = heapq.heappop(self._delayed)
            self._places_kept.discard(job_id)
            heapq.heappush(self._waiting, (job_id, job))
        if not self._waiting or self._running_alone:
            return None
        job = self._waiting[0][1]
        if job.alone and self.running:
            return None
        heapq.heappop(self._waiting)
        self.running.add(job.id)
        self._running_alone = job.alone
        return job

    def finish(self, job_id: str) -> None:
        """A job that was taken is done with, or will be added again."""
        self.running.discard(job_id)
        self._running_alone = False

    @property
    def occupied(self) -> int:
        """Jobs that hold a place: running, waiting for a reader, and waiting for a time if they keep theirs."""
        return len(self.running) + len(self._waiting) + len(self._places_kept)

    @property
    def waiting(self) -> int:
        """Jobs that wait for a reader."""
        return len(self._waiting)

    @property
    def delayed(self) -> int:
        """Jobs that wait for a time."""
        return len(self._delayed)

    def next_due_s(self) -> float | None:
        """When the first waiting-for-a-time job may run, on the monotonic clock; None if there is none."""
        return self._delayed[0][0] if self._delayed else None
