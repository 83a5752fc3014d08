"""The stages between claim and disposal, as threads joined by bounded queues.

    backlog ──► readers (a thread and a child process each) ──► scorer (one thread) ──► publisher (one thread)

Nothing piles up: when the publisher waits for the disk, the queues fill, the readers wait, and the files stay in the
inbox.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from dfwatch.document import Refusal
from dfwatch.errors import (
    DeviceError,
    DfwatchError,
    FileChangedError,
    MediaError,
    ModelError,
    ReaderCrashError,
    ReaderStartError,
    StorageError,
)
from dfwatch.inbox.completeness import Fingerprint
from dfwatch.jobs import publisher
from dfwatch.jobs.backlog import Backlog
from dfwatch.jobs.ticket import Patience, Stopped, Ticket
from dfwatch.judge import FileReader, check_admissible, refusal_of, sha256_of, status_of
from dfwatch.reasons import Reason, Status
from dfwatch.storage.crashpoints import crash_point
from dfwatch.storage.source import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dfwatch.config import Settings
    from dfwatch.intake import Job
    from dfwatch.jobs.ticket import Observer
    from dfwatch.journal import Journal
    from dfwatch.judge import Scorer
    from dfwatch.provenance.credentials import Credentials
    from dfwatch.storage.layout import Layout

_LONGEST_RETRY_DELAY_S: Final = 60.0
_DISK_RETRY_DELAY_S: Final = 1.0
_IDLE_BEAT_S: Final = 1.0
_LONGEST_HURRY_S: Final = 5.0
# How long a stage may take before the watchdog calls it hung; far above what any stage needs.
_READING_SLACK_S: Final = 60.0
_LONGEST_SCORING_S: Final = 300.0
_LONGEST_PUBLISHING_S: Final = 60.0
_SCORER: Final = "scorer"

_Queue = queue.Queue[Ticket | None]


class Reader(FileReader, Protocol):
    """A reader with a child process of its own; ``dfwatch.reader.Reader`` is the real one."""

    def start(self) -> object:
        """Start the child process ahead of the first file."""

    def close(self) -> None:
        """End the child process."""


class Pipeline:
    """Runs claimed jobs to their end.

    Args:
        layout: The service's folders.
        journal: The service's journal.
        settings: The configuration; ``update`` takes a new one while running.
        scorer: The detector.
        make_reader: Makes a reader; called for each reader thread, and again when the reader's settings change.
        readers: Number of reader threads.
        observer: Who is told how things go.
        recipients: The sinks that an outcome goes to.
        credentials: Reads content credentials; None where nobody asked for them.
    """

    def __init__(
        self,
        layout: Layout,
        journal: Journal,
        settings: Settings,
        *,
        scorer: Scorer,
        make_reader: Callable[[Settings], Reader],
        readers: int,
        observer: Observer,
        recipients: Callable[[Mapping[str, Any]], Sequence[str]] = lambda _document: (),
        credentials: Credentials | None = None,
    ) -> None:
        self._journal = journal
        self._settings = settings
        self._credentials = credentials
        self._scorer = scorer
        self._observer = observer
        self._capacity = 2 * readers + 2
        self._backlog = Backlog()
        self._changed = threading.Condition()
        self._held: dict[str, tuple[Fingerprint, float]] = {}
        self._ailing: dict[str, tuple[float, str]] = {}
        self._stopping = threading.Event()
        self._hurrying = threading.Event()
        self._broken = False
        self._patience = Patience(observer, self._stopping)
        self._publisher = publisher.Publisher(layout, journal, scorer, self._patience, recipients)
        self._to_score: _Queue = queue.Queue(maxsize=readers + 1)
        self._to_publish: _Queue = queue.Queue(maxsize=readers + 1)
        self._readers = [self._thread(f"reader-{i}", self._run_reader, make_reader) for i in range(readers)]
        self._later_stages = [
            self._thread(_SCORER, self._run_scorer),
            self._thread(publisher.STAGE, self._run_publisher),
        ]

    # -- from outside --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the threads and their child processes."""
        for thread in (*self._readers, *self._later_stages):
            thread.start()

    def add(self, job: Job) -> None:
        """Take a claimed job; see ``room`` for how many it should be given."""
        with self._changed:
            self._backlog.add(job)
            self._changed.notify()

    @property
    def room(self) -> int:
        """How many more files should be claimed now."""
        with self._changed:
            return max(0, self._capacity - self._backlog.occupied)

    @property
    def load(self) -> dict[str, int]:
        """Jobs in hand: ``running``, ``waiting`` and ``delayed``; of the running ones, ``to_score``, ``to_publish``."""
        queues = {"to_score": self._to_score.qsize(), "to_publish": self._to_publish.qsize()}
        with self._changed:
            running = len(self._backlog.running)
            waiting = self._backlog.occupied - running
            return {"running": running, "waiting": waiting, "delayed": self._backlog.delayed, **queues}

    @property
    def trouble(self) -> str:
        """What the machine refuses to do at the moment; empty while all is well."""
        ailing = (cause for _, cause in self._ailing.copy().values())
        return self._patience.trouble or next(ailing, "")

    def update(self, settings: Settings) -> None:
        """Take new settings for files that are not being read yet."""
        self._settings = settings

    def stop(self, timeout_s: float) -> int:
        """Finish what is running, for ``timeout_s`` at most, and hand the rest to the next start.

        Returns:
            How many jobs were handed on.
        """
        deadline_s = time.monotonic() + timeout_s
        self._begin_stopping()
        self._join(self._readers, deadline_s)
        with suppress(queue.Full):
            self._to_score.put(None, timeout=max(0.0, deadline_s - time.monotonic()))
        self._join(self._later_stages, deadline_s)
        self._hurrying.set()
        # All of them together: systemd was told how long the end may take.
        deadline_s = time.monotonic() + _LONGEST_HURRY_S
        for thread in (*self._readers, *self._later_stages):
            if thread.ident is not None:
                thread.join(timeout=max(0.0, deadline_s - time.monotonic()))
        with self._changed:
            left = self._backlog.occupied + self._backlog.delayed
            running = list(self._backlog.running)
        # A defect that a file brought to light must not meet the same file for ever: its attempt counts, and if there
        # were several, the next start runs each alone.
        for job_id in running if not self._broken else ():
            # Stopping is not the file's fault: neither an attempt nor a reason to run alone.
            try:
                self._journal.requeue(job_id, refund=True)
            except StorageError as error:
                self._observer.event("an attempt could not be taken back", job=job_id, error=str(error))
        return left

    def hurry(self) -> None:
        """Stop without finishing what is running."""
        self._begin_stopping()
        self._hurrying.set()

    def _begin_stopping(self) -> None:
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()

    def _join(self, threads: list[threading.Thread], deadline_s: float) -> None:
        for thread in threads:
            while thread.is_alive() and time.monotonic() < deadline_s and not self._hurrying.is_set():
                thread.join(0.05)

    # -- threads -------------------------------------------------------------------------------------------------------

    def _thread(self, name: str, run: Callable[..., None], *args: Any) -> threading.Thread:  # noqa: ANN401 - passed on
        def guarded() -> None:
            try:
                run(*([name, *args] if args else []))
            except Stopped:
                return
            except BaseException as error:  # noqa: BLE001 - reported; the service ends and is started afresh
                self._broken = self._broken or not isinstance(error, DfwatchError)
                self._observer.failed(error)
                self.hurry()

        # Daemonic, so that a thread stuck in a dead disk cannot keep the process from ending.
        return threading.Thread(target=guarded, name=name, daemon=True)

    def _run_reader(self, stage: str, make_reader: Callable[[Settings], Reader]) -> None:
        settings = self._settings
        reader = make_reader(settings)
        try:
            reader.start()
            while (job := self._take(stage)) is not None:
                if (self._settings.reader, self._settings.faces) != (settings.reader, settings.faces):
                    reader.close()
                    settings = self._settings
                    reader = make_reader(settings)
                ticket = Ticket(job)
                if self._read(ticket, reader, stage):
                    self._put(self._to_publish if ticket.reading is None else self._to_score, ticket, stage)
        finally:
            reader.close()

    def _take(self, stage: str) -> Job | None:
        with self._changed:
            while not self._stopping.is_set():
                now_s = time.monotonic()
                job = self._backlog.take(now_s)
                if job is not None:
                    return job
                self._observer.beat(stage)
                due_s = self._backlog.next_due_s()
                self._changed.wait(_IDLE_BEAT_S if due_s is None else min(_IDLE_BEAT_S, max(0.0, due_s - now_s)))
        return None

    def _put(self, target: _Queue, ticket: Ticket | None, stage: str) -> None:
        while True:
            self._observer.beat(stage)
            try:
                target.put(ticket, timeout=_IDLE_BEAT_S)
            except queue.Full:
                # Waiting for the next stage is no hang of this one; if the next one hangs, its own beat stops.
                if self._hurrying.is_set():
                    raise Stopped from None
            else:
                return

    def _get(self, source: _Queue, stage: str) -> Ticket | None:
        while True:
            self._observer.beat(stage)
            try:
                return source.get(timeout=_IDLE_BEAT_S)
            except queue.Empty:
                if self._hurrying.is_set():
                    raise Stopped from None

    # -- reading -------------------------------------------------------------------------------------------------------

    def _read(self, ticket: Ticket, reader: Reader, stage: str) -> bool:
        """Read one file; False if the job was put back and there is nothing to hand on."""
        job, settings = ticket.job, self._settings
        self._observer.busy(stage, settings.reader.time_limit_s + _READING_SLACK_S)
        try:
            ticket.attempt = self._patience.until_done(lambda: self._journal.begin_attempt(job.id), stage)
            crash_point("job.attempt_raised")
            ticket.fd, ticket.fingerprint = open_regular(job.source, job.dropped.shown)
            if not self._stands_still(ticket, ticket.fingerprint, stage):
                return False
            check_admissible(job.dropped, ticket.fingerprint.size_bytes, settings)
            ticket.timer.restart()
            ticket.sha256 = sha256_of(ticket.fd, lambda: self._observer.beat(stage))
            ticket.timer.lap("hash")
            if self._publisher.published_before(ticket, settings):
                return True
            if ticket.attempt > settings.jobs.max_attempts:
                detail = f"the service died {settings.jobs.max_attempts} times while this file was in work"
                ticket.refuse(Status.QUARANTINED, Refusal(Reason.TOO_MANY_ATTEMPTS, detail, "see the service's log"))
                return True
            self._observer.busy(stage, settings.reader.time_limit_s + _READING_SLACK_S)
            ticket.reading = reader.read(ticket.fd, self._scorer.bundle.crop)
            crash_point("job.read")
            self._read_credentials(ticket, ticket.fd, stage)
        except ReaderStartError as error:
            # The machine's trouble; were it counted, a moment without memory would send every file to quarantine.
            return self._wait_out(ticket, "the reader's process cannot be started", error, stage)
        except ReaderCrashError as error:
            self._observer.reader_lost(error.reason)
            if ticket.attempt < settings.jobs.max_attempts:
                self._tell(ticket, "reading failed, will be tried again", reason=error.reason, cause=error.cause)
                self._again(ticket, settings.jobs.retry_delay_s * 2 ** (ticket.attempt - 1), stage)
                return False
            ticket.refuse(status_of(error), refusal_of(error))
        except MediaError as error:
            ticket.refuse(status_of(error), refusal_of(error))
        except (OSError, StorageError) as error:
            # The disk under the file, not the file: nothing is said about it until it can be read.
            return self._wait_out(ticket, "the disk failed while a file was read", error, stage)
        self._ailing.pop(job.id, None)
        return True

    def _wait_out(self, ticket: Ticket, event: str, error: Exception, stage: str) -> bool:
        """Put a job back because of the machine's trouble, with growing pauses and not counted as an attempt."""
        delay_s = min(_LONGEST_RETRY_DELAY_S, 2 * self._ailing.get(ticket.job.id, (_DISK_RETRY_DELAY_S / 2, ""))[0])
        self._ailing[ticket.job.id] = (delay_s, f"{event}: {error}")
        self._tell(ticket, event, cause=str(error), delay_s=delay_s)
        self._again(ticket, delay_s, stage, refund=True)
        return False

    def _read_credentials(self, ticket: Ticket, fd: int, stage: str) -> None:
        if self._credentials is None:
            return
        self._observer.busy(stage, self._settings.provenance.time_limit_s + _READING_SLACK_S)
        ticket.timer.restart()
        ticket.provenance = self._credentials.read(fd, ticket.job.dropped.name)
        ticket.timer.lap("provenance")

    def _stands_still(self, ticket: Ticket, now: Fingerprint, stage: str) -> bool:
        """Whether a file that changed during an earlier attempt has not changed since."""
        before, delay_s = self._held.get(ticket.job.id, (now, 0.0))
        if now.same_bytes(before, renamed=False):
            self._held.pop(ticket.job.id, None)
            return True
        self._hold(ticket, now, 2 * delay_s, stage)
        return False

    def _hold(self, ticket: Ticket, now: Fingerprint, delay_s: float, stage: str) -> None:
        delay_s = min(_LONGEST_RETRY_DELAY_S, max(self._settings.watch.quiet_s, delay_s))
        self._held[ticket.job.id] = (now, delay_s)
        self._again(ticket, delay_s, stage, refund=True)

    def _again(self, ticket: Ticket, delay_s: float, stage: str, *, refund: bool = False) -> None:
        """Put a job back, as ``stage``; with ``refund`` the attempt does not count against the file."""
        ticket.close()
        job = ticket.job
        self._patience.until_done(lambda: self._journal.requeue(job.id, refund=refund), stage)
        with self._changed:
            self._backlog.finish(job.id)
            self._backlog.add(job, not_before_s=time.monotonic() + min(delay_s, _LONGEST_RETRY_DELAY_S))
            self._changed.notify_all()
        self._observer.slot_free()

    def _tell(self, ticket: Ticket, event: str, **fields: object) -> None:
        self._observer.event(event, job=ticket.job.id, name=ticket.job.dropped.shown, attempt=ticket.attempt, **fields)

    # -- scoring -------------------------------------------------------------------------------------------------------

    def _run_scorer(self) -> None:
        ended = False
        while not ended and (first := self._get(self._to_score, _SCORER)) is not None:
            tickets = [first]
            with suppress(queue.Empty):
                while not ended and len(tickets) < self._to_score.maxsize:
                    following = self._to_score.get_nowait()
                    if following is None:
                        ended = True
                    else:
                        tickets.append(following)
            self._observer.busy(_SCORER, _LONGEST_SCORING_S)
            self._score(tickets)
            for ticket in tickets:
                self._put(self._to_publish, ticket, _SCORER)
        self._put(self._to_publish, None, _SCORER)

    def _score(self, tickets: list[Ticket]) -> None:
        """Score the crops of several videos together."""
        crops = [ticket.reading.crops for ticket in tickets if ticket.reading is not None]
        started_s = time.monotonic()
        try:
            scores = self._scorer.score(np.concatenate(crops))
        except DeviceError:
            raise
        except ModelError as error:
            if len(tickets) > 1:
                for ticket in tickets:
                    self._score([ticket])
            else:
                tickets[0].refuse(Status.FAILED, refusal_of(error))
            return
        spent_ms = (time.monotonic() - started_s) * 1000.0
        first = 0
        for ticket, rows in zip(tickets, map(len, crops), strict=True):
            ticket.scores = scores[first : first + rows]
            # Its share of the batch: the stages of one video still add up to what that video cost.
            ticket.timer.stages_ms["inference"] = spent_ms * rows / max(1, len(scores))
            first += rows
        crash_point("job.scored")

    # -- publishing ----------------------------------------------------------------------------------------------------

    def _run_publisher(self) -> None:
        while (ticket := self._get(self._to_publish, publisher.STAGE)) is not None:
            self._observer.busy(publisher.STAGE, _LONGEST_PUBLISHING_S)
            try:
                self._publish(ticket)
            finally:
                ticket.close()

    def _publish(self, ticket: Ticket) -> None:
        try:
            media = self._publisher.publish(ticket, self._settings)
        except FileChangedError as error:
            self._tell(ticket, "a file changed while it was read, and is held until it stands still", cause=error.cause)
            if ticket.fd is not None:
                self._hold(ticket, Fingerprint.from_stat(os.fstat(ticket.fd)), 0.0, publisher.STAGE)
            return
        with self._changed:
            self._backlog.finish(ticket.job.id)
            self._changed.notify_all()
        if ticket.document is not None and ticket.sidecar is not None:
            self._observer.finished(ticket.job, ticket.document, ticket.sidecar, media)
        self._observer.slot_free()
