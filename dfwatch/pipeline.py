"""The stages between claim and disposal, as threads joined by bounded queues.

    line ──► readers (a thread and a child process each) ──► scorer (one thread) ──► publishers (threads)

Nothing piles up: when the publishers wait for the disk, the queues fill, the readers wait, and the files stay in the
inbox. There are several publishers because what they wait for is the disk, which serves all who wait at once.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from dfwatch.errors import DfwatchError, FileChangedError, StorageError
from dfwatch.inbox.completeness import Fingerprint
from dfwatch.jobs.line import IDLE_BEAT_S, Line
from dfwatch.jobs.publisher import Publisher
from dfwatch.jobs.reading_stage import DISK_FAILED, Reader, ReadingStage
from dfwatch.jobs.scoring_stage import score
from dfwatch.jobs.ticket import Patience, Stopped, Ticket
from dfwatch.verdict import limits_in_force

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dfwatch.config import Settings
    from dfwatch.intake import Job
    from dfwatch.jobs.ticket import Observer
    from dfwatch.journal import Journal
    from dfwatch.judge import Scorer
    from dfwatch.provenance.credentials import Credentials
    from dfwatch.storage.layout import Layout
    from dfwatch.storage.rootguard import RootGuard

__all__ = ["Pipeline", "Reader"]

# What waits for the disk together waits once: the more at a time, the less each of them waits (docs/performance.md).
PUBLISHERS: Final = 8
# How long a stage may take before the watchdog calls it hung; far above what any stage needs.
_LONGEST_SCORING_S: Final = 300.0
_LONGEST_PUBLISHING_S: Final = 60.0
_LONGEST_HURRY_S: Final = 5.0
_SCORER: Final = "scorer"

_Queue = queue.Queue[Ticket | None]


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
        root: Tells whether the folders are there.
        recipients: The sinks that an outcome goes to.
        credentials: Reads content credentials; None where nobody asked for them.

    Raises:
        ConfigError: The settings do not fit the model; see ``check``.
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
        root: RootGuard,
        recipients: Callable[[Mapping[str, Any]], Sequence[str]] = lambda _document: (),
        credentials: Credentials | None = None,
    ) -> None:
        self._journal = journal
        self._settings = settings
        self._scorer = scorer
        self.check(settings)
        self._observer = observer
        self._stopping = threading.Event()
        self._hurrying = threading.Event()
        self._broken = False
        self._patience = Patience(observer, self._stopping, root.check)
        # A place for each reader, each publisher, what lies between them, and as many to be claimed meanwhile.
        self._line = Line(journal, self._patience, observer, self._stopping, 2 * (readers + 1) + 2 * PUBLISHERS)
        self._publisher = Publisher(layout, journal, scorer, self._patience, recipients)
        self._reading = ReadingStage(
            journal,
            self._line,
            self._publisher,
            crop=scorer.bundle.crop,
            patience=self._patience,
            observer=observer,
            credentials=credentials,
        )
        self._telling = threading.Lock()
        self._to_score: _Queue = queue.Queue(maxsize=readers + 1)
        self._to_publish: _Queue = queue.Queue(maxsize=readers + 1)
        self._readers = [self._thread(f"reader-{i}", self._run_reader, make_reader) for i in range(readers)]
        self._later_stages = [
            self._thread(_SCORER, self._run_scorer),
            *(self._thread(f"publisher-{i}", self._run_publisher) for i in range(PUBLISHERS)),
        ]

    # -- from outside --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the threads and their child processes."""
        for thread in (*self._readers, *self._later_stages):
            thread.start()

    def add(self, job: Job) -> None:
        """Take a claimed job; see ``room`` for how many it should be given."""
        self._line.add(job)

    @property
    def room(self) -> int:
        """How many more files should be claimed now."""
        return self._line.room

    @property
    def load(self) -> dict[str, int]:
        """Jobs in hand: ``running``, ``waiting`` and ``delayed``; of the running ones, ``to_score``, ``to_publish``."""
        return {**self._line.load, "to_score": self._to_score.qsize(), "to_publish": self._to_publish.qsize()}

    @property
    def trouble(self) -> str:
        """What the machine refuses to do at the moment; empty while all is well."""
        return self._patience.trouble or self._line.trouble

    def check(self, settings: Settings) -> None:
        """Whether settings fit the model that is loaded.

        Raises:
            ConfigError: The thresholds cross.
        """
        limits_in_force(self._scorer.bundle.thresholds, settings.verdict)

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
        left = sum(self._line.load.values())
        running = self._line.running
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
        self._line.wake()

    def _join(self, threads: list[threading.Thread], deadline_s: float) -> None:
        for thread in threads:
            while thread.is_alive() and time.monotonic() < deadline_s and not self._hurrying.is_set():
                thread.join(0.05)

    # -- threads -------------------------------------------------------------------------------------------------------

    def _thread(self, name: str, run: Callable[..., None], *args: Any) -> threading.Thread:  # noqa: ANN401 - passed on
        def guarded() -> None:
            try:
                run(name, *args)
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
            while (job := self._line.take(stage)) is not None:
                if (self._settings.reader, self._settings.faces) != (settings.reader, settings.faces):
                    reader.close()
                    settings = self._settings
                    reader = make_reader(settings)
                ticket = Ticket(job)
                if self._reading.read(ticket, reader, self._settings, stage):
                    self._put(self._to_publish if ticket.reading is None else self._to_score, ticket, stage)
        finally:
            reader.close()

    def _put(self, target: _Queue, ticket: Ticket | None, stage: str) -> None:
        while True:
            self._observer.beat(stage)
            try:
                target.put(ticket, timeout=IDLE_BEAT_S)
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
                return source.get(timeout=IDLE_BEAT_S)
            except queue.Empty:
                if self._hurrying.is_set():
                    raise Stopped from None

    def _run_scorer(self, stage: str) -> None:
        ended = False
        while not ended and (first := self._get(self._to_score, stage)) is not None:
            tickets = [first]
            with suppress(queue.Empty):
                while not ended and len(tickets) < self._to_score.maxsize:
                    following = self._to_score.get_nowait()
                    if following is None:
                        ended = True
                    else:
                        tickets.append(following)
            self._observer.busy(stage, _LONGEST_SCORING_S)
            score(self._scorer, tickets)
            for ticket in tickets:
                self._put(self._to_publish, ticket, stage)
        self._put(self._to_publish, None, stage)

    def _run_publisher(self, stage: str) -> None:
        while (ticket := self._get(self._to_publish, stage)) is not None:
            self._observer.busy(stage, _LONGEST_PUBLISHING_S)
            try:
                self._publish(ticket, stage)
            finally:
                ticket.close()
        # For the next publisher to see.
        self._put(self._to_publish, None, stage)

    def _publish(self, ticket: Ticket, stage: str) -> None:
        settings = self._settings
        try:
            ticket.await_digest(lambda: self._still_wanted(stage))
            media = self._publisher.publish(ticket, settings, stage)
        except FileChangedError as error:
            cause = error.cause
            self._line.tell(ticket, "a file changed while it was read, and is held until it stands still", cause=cause)
            if ticket.fd is not None:
                now = Fingerprint.from_stat(os.fstat(ticket.fd))
                self._line.hold(ticket, now, settings.watch.quiet_s, stage)
            return
        except OSError as error:
            self._line.wait_out(ticket, DISK_FAILED, error, stage)
            return
        self._line.finish(ticket.job.id)
        if ticket.document is not None and ticket.sidecar is not None:
            with self._telling:
                self._observer.finished(ticket.job, ticket.document, ticket.sidecar, media)
        self._observer.slot_free()

    def _still_wanted(self, stage: str) -> None:
        if self._hurrying.is_set():
            raise Stopped
        self._observer.busy(stage, _LONGEST_PUBLISHING_S)
