"""Claimed jobs that are not finished: who waits for a reader, who is in work, who was put back and why.

May be used from any thread. Whose turn it is, is for ``backlog`` to say.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from dfwatch.jobs.backlog import Backlog

if TYPE_CHECKING:
    from dfwatch.inbox.completeness import Fingerprint
    from dfwatch.intake import Job
    from dfwatch.jobs.ticket import Observer, Patience, Ticket
    from dfwatch.journal import Journal

_LONGEST_RETRY_DELAY_S: Final = 60.0
_DISK_RETRY_DELAY_S: Final = 1.0
_TRIAL_INTERVAL_S: Final = 60.0
IDLE_BEAT_S: Final = 1.0


class Line:
    """The line in front of the readers.

    Args:
        journal: The service's journal.
        patience: Waits out a sick disk.
        observer: Who is told how things go.
        stopping: Set when nothing more is to be taken.
        capacity: Jobs that may be in hand at a time.
    """

    def __init__(
        self, journal: Journal, patience: Patience, observer: Observer, stopping: threading.Event, capacity: int
    ) -> None:
        self._journal = journal
        self._patience = patience
        self._observer = observer
        self._stopping = stopping
        self._capacity = capacity
        self._backlog = Backlog()
        self._changed = threading.Condition()
        self._held: dict[str, tuple[Fingerprint, float]] = {}
        self._ailing: dict[str, tuple[float, str]] = {}
        self._next_trial_s = 0.0

    def add(self, job: Job) -> None:
        """Take a claimed job; see ``room`` for how many it should be given."""
        with self._changed:
            self._backlog.add(job)
            self._changed.notify()

    @property
    def room(self) -> int:
        """How many more files should be claimed now.

        Jobs that wait for the machine keep their places: if it can do nothing at all, the inbox stays where it is. But
        it may be files that are sick. Were there as many of them as places, they would keep all others out; so those
        are tried one by one, until the next one meets trouble.
        """
        with self._changed:
            occupied = self._backlog.occupied
            if occupied >= self._capacity:
                return int(occupied <= len(self._ailing) and time.monotonic() >= self._next_trial_s)
            return self._capacity - occupied

    @property
    def load(self) -> dict[str, int]:
        """Jobs in hand: ``running``, ``waiting`` for a reader, and ``delayed``."""
        with self._changed:
            return {
                "running": len(self._backlog.running),
                "waiting": self._backlog.waiting,
                "delayed": self._backlog.delayed,
            }

    @property
    def running(self) -> list[str]:
        """Ids of the jobs that were taken and not finished."""
        with self._changed:
            return list(self._backlog.running)

    @property
    def trouble(self) -> str:
        """What the machine refuses to do for a job that was put back; empty while there is none."""
        return next((cause for _, cause in self._ailing.copy().values()), "")

    def wake(self) -> None:
        """Let those who wait for a job look whether they should stop."""
        with self._changed:
            self._changed.notify_all()

    def take(self, stage: str) -> Job | None:
        """The next job, waited for; None when the pipeline stops."""
        with self._changed:
            while not self._stopping.is_set():
                now_s = time.monotonic()
                job = self._backlog.take(now_s)
                if job is not None:
                    return job
                self._observer.beat(stage)
                due_s = self._backlog.next_due_s()
                self._changed.wait(IDLE_BEAT_S if due_s is None else min(IDLE_BEAT_S, max(0.0, due_s - now_s)))
        return None

    def finish(self, job_id: str) -> None:
        """A job came to its end."""
        self._held.pop(job_id, None)
        self._ailing.pop(job_id, None)
        with self._changed:
            self._backlog.finish(job_id)
            self._changed.notify_all()

    def again(self, ticket: Ticket, delay_s: float, stage: str) -> None:
        """Put a job back for another attempt; this one counts against the file."""
        self._ailing.pop(ticket.job.id, None)
        self._put_back(ticket, delay_s, stage, refund=False)

    def stands_still(self, ticket: Ticket, now: Fingerprint, quiet_s: float, stage: str) -> bool:
        """Whether a file that changed during an earlier attempt has not changed since; it is put back if it has."""
        before, delay_s = self._held.get(ticket.job.id, (now, 0.0))
        if now.same_bytes(before, renamed=False):
            self._held.pop(ticket.job.id, None)
            return True
        self.hold(ticket, now, max(quiet_s, 2 * delay_s), stage)
        return False

    def hold(self, ticket: Ticket, now: Fingerprint, delay_s: float, stage: str) -> None:
        """Put back a job whose file changed under the reader, to be taken once it stands still."""
        delay_s = min(_LONGEST_RETRY_DELAY_S, delay_s)
        self._held[ticket.job.id] = (now, delay_s)
        self._ailing.pop(ticket.job.id, None)
        self._put_back(ticket, delay_s, stage, refund=True)

    def wait_out(self, ticket: Ticket, event: str, error: Exception, stage: str) -> None:
        """Put a job back because of the machine's trouble, with growing pauses and not counted as an attempt.

        They grow until the job ends or is put back otherwise: one stage may work each time and a later one not.
        """
        job_id = ticket.job.id
        if job_id not in self._ailing:
            self._next_trial_s = time.monotonic() + _TRIAL_INTERVAL_S
        delay_s = min(_LONGEST_RETRY_DELAY_S, 2 * self._ailing.get(job_id, (_DISK_RETRY_DELAY_S / 2, ""))[0])
        self._ailing[job_id] = (delay_s, f"{event}: {error}")
        self.tell(ticket, event, cause=str(error), delay_s=delay_s)
        self._put_back(ticket, delay_s, stage, refund=True)

    def tell(self, ticket: Ticket, event: str, **fields: object) -> None:
        """A line in the log about a job."""
        self._observer.event(event, job=ticket.job.id, name=ticket.job.dropped.shown, attempt=ticket.attempt, **fields)

    def _put_back(self, ticket: Ticket, delay_s: float, stage: str, *, refund: bool) -> None:
        ticket.close()
        job = ticket.job
        self._patience.until_done(lambda: self._journal.requeue(job.id, refund=refund), stage)
        with self._changed:
            self._backlog.finish(job.id)
            not_before_s = time.monotonic() + min(delay_s, _LONGEST_RETRY_DELAY_S)
            self._backlog.add(job, not_before_s=not_before_s, keeps_place=job.id in self._ailing)
            self._changed.notify_all()
        self._observer.slot_free()
