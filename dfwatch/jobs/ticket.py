"""What travels through the pipeline: one job with everything that the stages have found out about it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from dfwatch.errors import StorageError
from dfwatch.judge import Timer
from dfwatch.reasons import Status

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from dfwatch.document import Refusal
    from dfwatch.inbox.completeness import Fingerprint
    from dfwatch.intake import Job
    from dfwatch.reading import Reading
    from dfwatch.storage.digest import Digest

_LONGEST_STORAGE_DELAY_S: Final = 30.0
_BEAT_S: Final = 1.0

_T = TypeVar("_T")


class Observer(Protocol):
    """Who is told how the pipeline gets on."""

    def beat(self, stage: str) -> None:
        """A stage made progress, or has nothing to do."""

    def busy(self, stage: str, limit_s: float) -> None:
        """A stage began something that may take as long as ``limit_s``."""

    def finished(self, job: Job, document: dict[str, Any], sidecar: str, media: str | None) -> None:
        """A job has come to its end; ``media`` is where its file now lies."""

    def event(self, event: str, **fields: Any) -> None:  # noqa: ANN401 - log fields
        """Something worth a line in the log."""

    def reader_lost(self, reason: str) -> None:
        """A reader process died, hung or broke a limit, and is replaced."""

    def failed(self, error: BaseException) -> None:
        """The service cannot go on and must be started afresh."""

    def slot_free(self) -> None:
        """There may be room for another file."""


class Stopped(Exception):  # noqa: N818 - a signal within one thread, not an error
    """The pipeline is stopping; what is in hand goes to the next start."""


@dataclass(slots=True)
class Ticket:
    """One job on its way.

    Attributes:
        job: The job.
        attempt: Which attempt this is, from 1.
        fd: Descriptor of the claimed file, open until the sidecar is durable.
        fingerprint: What the file looked like before it was read.
        digest: Computes the next one beside the reading.
        sha256: Digest of its bytes; None until ``await_digest``.
        reading: What the reader found.
        scores: float32 of shape (n,), raw p(fake) of the reading's crops.
        status: How the job will end.
        refusal: Why there is no verdict.
        document: The sidecar document, once it is built.
        sidecar: Path of the sidecar, once it is durable.
        provenance: The document's ``provenance`` section; None where nobody asked for it.
        timer: Milliseconds by stage.
    """

    job: Job
    attempt: int = 0
    fd: int | None = None
    fingerprint: Fingerprint | None = None
    digest: Digest | None = None
    sha256: str | None = None
    reading: Reading | None = None
    scores: NDArray[np.float32] | None = None
    status: Status = Status.DONE
    refusal: Refusal | None = None
    document: dict[str, Any] | None = None
    sidecar: str | None = None
    provenance: dict[str, Any] | None = None
    timer: Timer = field(default_factory=Timer)

    def await_digest(self, progress: Callable[[], None]) -> None:
        """Wait for the digest of the whole file.

        Raises:
            OSError: The disk failed.
        """
        if self.digest is not None and self.sha256 is None:
            self.sha256 = self.digest.result(progress)
            self.timer.stages_ms["hash"] = self.digest.spent_ms

    def close(self) -> None:
        """Let go of the file."""
        if self.digest is not None:
            self.digest.give_up()
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def refuse(self, status: Status, refusal: Refusal) -> None:
        """End this job without a verdict."""
        self.status, self.refusal = status, refusal
        self.reading, self.scores = None, None


class Patience:
    """Keeps trying while the disk fails: a sick disk is no reason to drop a file.

    Args:
        observer: Is told of each failure.
        stopping: Ends the waiting.
        check: Raises a StorageError while nothing may be done at all; called before and after each try.
    """

    def __init__(self, observer: Observer, stopping: threading.Event, check: Callable[[], None]) -> None:
        self._observer = observer
        self._stopping = stopping
        self.check = check
        self._troubles: dict[str, str] = {}

    @property
    def trouble(self) -> str:
        """What keeps failing at the moment; empty while nothing does."""
        return "; ".join(dict.fromkeys(self._troubles.copy().values()))

    def until_done(self, operation: Callable[[], _T], stage: str) -> _T:
        """Result of ``operation``, tried again with growing pauses while it raises a retryable StorageError.

        Raises:
            StorageError: It will never succeed.
            Stopped: The pipeline stops meanwhile.
        """
        delay_s = 0.2
        while True:
            try:
                self.check()
                result = operation()
                # What was done while it could not be done properly, is done again: every operation may be repeated.
                self.check()
            except StorageError as error:
                if not error.retryable:
                    raise
                self._troubles[stage] = str(error)
                self._observer.event("the disk failed, trying again", error=str(error), delay_s=delay_s)
            else:
                self._troubles.pop(stage, None)
                return result
            until_s = time.monotonic() + delay_s
            while (left_s := until_s - time.monotonic()) > 0:
                self._observer.beat(stage)
                if self._stopping.wait(min(_BEAT_S, left_s)):
                    raise Stopped
            delay_s = min(_LONGEST_STORAGE_DELAY_S, 2 * delay_s)
