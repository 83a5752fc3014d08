"""The first stage: raise the attempt counter, open the file, have a reader child read it.

The file's digest is begun here, unless the watcher began it, and computed beside the reading; the last stage waits for
it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from dfwatch.document import Refusal
from dfwatch.errors import MediaError, ReaderCrashError, ReaderStartError, RefusedError, StorageError
from dfwatch.judge import FileReader, check_admissible, refusal_of, status_of
from dfwatch.reasons import Reason, Status
from dfwatch.storage.crashpoints import crash_point
from dfwatch.storage.digest import Digest
from dfwatch.storage.source import open_regular

if TYPE_CHECKING:
    from dfwatch.config import Settings
    from dfwatch.jobs.line import Line
    from dfwatch.jobs.publisher import Publisher
    from dfwatch.jobs.ticket import Observer, Patience, Ticket
    from dfwatch.journal import Journal
    from dfwatch.provenance.credentials import Credentials
    from dfwatch.reading import CropSpec

# How long a stage may take before the watchdog calls it hung; far above what any stage needs.
_SLACK_S: Final = 60.0
DISK_FAILED: Final = "the disk failed while a file was read"


class Reader(FileReader, Protocol):
    """A reader with a child process of its own; ``dfwatch.reader.Reader`` is the real one."""

    def start(self) -> object:
        """Start the child process ahead of the first file."""

    def close(self) -> None:
        """End the child process."""


class ReadingStage:
    """Reads one job's file at a time for each thread that calls it.

    Args:
        journal: The service's journal.
        line: Where jobs are put back.
        publisher: Knows whether a job was published before.
        crop: How faces are cut out.
        patience: Waits out a sick disk.
        observer: Who is told how things go.
        credentials: Reads content credentials; None where nobody asked for them.
    """

    def __init__(
        self,
        journal: Journal,
        line: Line,
        publisher: Publisher,
        *,
        crop: CropSpec,
        patience: Patience,
        observer: Observer,
        credentials: Credentials | None,
    ) -> None:
        self._journal = journal
        self._line = line
        self._publisher = publisher
        self._crop = crop
        self._patience = patience
        self._observer = observer
        self._credentials = credentials

    def read(self, ticket: Ticket, reader: Reader, settings: Settings, stage: str) -> bool:
        """Read one file; False if the job was put back and there is nothing to hand on."""
        try:
            if not self._open(ticket, settings, stage):
                return False
            if self._needs_no_reading(ticket, settings, stage):
                return True
            self._busy(stage, settings.reader.time_limit_s)
            if ticket.fd is not None:
                ticket.reading = reader.read(ticket.fd, self._crop)
            crash_point("job.read")
            self._read_credentials(ticket, settings, stage)
        except ReaderStartError as error:
            # The machine's trouble; were it counted, a moment without memory would send every file to quarantine.
            self._line.wait_out(ticket, "the reader's process cannot be started", error, stage)
            return False
        except ReaderCrashError as error:
            self._observer.reader_lost(error.reason)
            if ticket.attempt < settings.jobs.max_attempts:
                self._line.tell(ticket, "reading failed, will be tried again", reason=error.reason, cause=error.cause)
                self._line.again(ticket, settings.jobs.retry_delay_s * 2 ** (ticket.attempt - 1), stage)
                return False
            ticket.refuse(status_of(error), refusal_of(error))
        except MediaError as error:
            ticket.refuse(status_of(error), refusal_of(error))
        except (OSError, StorageError) as error:
            # The disk under the file, not the file: nothing is said about it until it can be read.
            self._line.wait_out(ticket, DISK_FAILED, error, stage)
            return False
        return True

    def _open(self, ticket: Ticket, settings: Settings, stage: str) -> bool:
        """Begin an attempt; False if the file does not stand still and the job was put back."""
        job = ticket.job
        self._busy(stage, settings.reader.time_limit_s)
        ticket.attempt = self._patience.until_done(lambda: self._journal.begin_attempt(job.id), stage)
        crash_point("job.attempt_raised")
        try:
            ticket.fd, ticket.fingerprint = open_regular(job.source, job.dropped.shown)
            if not self._line.stands_still(ticket, ticket.fingerprint, settings.watch.quiet_s, stage):
                return False
            check_admissible(job.dropped, ticket.fingerprint.size_bytes, settings)
        except RefusedError:
            # Where the whole root is away, it is no wonder that the file is; nothing is to be said of it.
            self._patience.check()
            # Under other settings a second sidecar would not meet the first one.
            if self._published_before(ticket, settings, stage):
                return True
            raise
        ticket.digest = job.digest_of(ticket.fingerprint) or Digest(ticket.fd, ticket.fingerprint)
        return True

    def _needs_no_reading(self, ticket: Ticket, settings: Settings, stage: str) -> bool:
        """Whether an earlier run published this job, or runs died too often over it."""
        if self._published_before(ticket, settings, stage):
            return True
        if ticket.attempt > settings.jobs.max_attempts:
            detail = f"the service died {settings.jobs.max_attempts} times while this file was in work"
            ticket.refuse(Status.QUARANTINED, Refusal(Reason.TOO_MANY_ATTEMPTS, detail, "see the service's log"))
            return True
        return False

    def _published_before(self, ticket: Ticket, settings: Settings, stage: str) -> bool:
        # One attempt beyond the limit is for finding out what the others came to; should that be what kills the
        # service, the next one goes without.
        if ticket.sidecar is None and ticket.job.recovered and ticket.attempt <= settings.jobs.max_attempts + 1:
            ticket.await_digest(lambda: self._observer.beat(stage))
            self._publisher.published_before(ticket)
        return ticket.sidecar is not None

    def _read_credentials(self, ticket: Ticket, settings: Settings, stage: str) -> None:
        if self._credentials is None or ticket.fd is None:
            return
        self._busy(stage, settings.provenance.time_limit_s)
        ticket.timer.restart()
        ticket.provenance = self._credentials.read(ticket.fd)
        ticket.timer.lap("provenance")

    def _busy(self, stage: str, limit_s: float) -> None:
        self._observer.busy(stage, limit_s + _SLACK_S)
