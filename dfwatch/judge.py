"""The pure heart: a file's bytes in, a verdict document out; no folders, no journal.

The daemon, ``dfwatch scan`` and whoever else wants a verdict call the same steps: ``examine`` (checks, hash, reader),
the detector's ``score``, and ``conclude`` (verdict and document). ``Judge`` chains them for one file.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol

from dfwatch import __version__
from dfwatch.document import Refusal, Run, Subject, build
from dfwatch.errors import (
    DeviceError,
    DfwatchError,
    MediaError,
    ModelError,
    ReaderCrashError,
    ReaderStartError,
    RefusedError,
    StorageError,
)
from dfwatch.reasons import Reason, Status
from dfwatch.storage.digest import Digest
from dfwatch.storage.layout import DroppedName
from dfwatch.storage.source import check_unchanged, open_regular
from dfwatch.storage.stamps import new_job_id, utc_now
from dfwatch.verdict import decide, limits_in_force

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dfwatch.config import Settings
    from dfwatch.detector import DeviceInfo
    from dfwatch.models.bundle import Bundle
    from dfwatch.reading import CropSpec, Reading
    from dfwatch.verdict import Decision


class FileReader(Protocol):
    """What is needed of a reader; ``dfwatch.reader.Reader`` is the real one."""

    def read(self, fd: int, crop: CropSpec) -> Reading:
        """Read one open file; raises MediaError, and StorageError where the disk fails."""


class Scorer(Protocol):
    """What is needed of a detector; ``dfwatch.detector.Detector`` is the real one."""

    @property
    def bundle(self) -> Bundle:
        """The model and its facts."""

    def score(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Raw p(fake) of each crop; raises ModelError."""

    @property
    def device(self) -> DeviceInfo:
        """Where and how the model runs."""


@dataclass(slots=True)
class Timer:
    """Milliseconds by stage, on the monotonic clock."""

    stages_ms: dict[str, float] = field(default_factory=dict)
    _since: float = field(default_factory=time.monotonic)

    def lap(self, stage: str) -> None:
        """Book the time since the last lap (or the start) under ``stage``."""
        now = time.monotonic()
        self.stages_ms[stage] = self.stages_ms.get(stage, 0.0) + (now - self._since) * 1000.0
        self._since = now

    def restart(self) -> None:
        """Start the next lap now; the time since the last one belongs to no stage."""
        self._since = time.monotonic()


def check_admissible(dropped: DroppedName, size_bytes: int, settings: Settings) -> None:
    """Refuse by ending and size, before any byte is read.

    Raises:
        RefusedError: The ending is not one of ``watch.extensions``, or the file is larger than ``reader.max_bytes``.
    """
    ending = os.path.splitext(dropped.name)[1].removeprefix(".").casefold()
    if settings.watch.extensions and ending not in {known.casefold() for known in settings.watch.extensions}:
        raise RefusedError(
            "reading",
            dropped.shown,
            f"the ending {'.' + ending if ending else '(none)'} is not one that is judged",
            reason=Reason.UNSUPPORTED_TYPE,
            hint="see watch.extensions in the configuration",
        )
    if size_bytes > settings.reader.max_bytes:
        raise RefusedError(
            "reading",
            dropped.shown,
            f"{size_bytes} bytes are more than the {settings.reader.max_bytes} allowed",
            reason=Reason.TOO_LARGE,
            hint="see reader.max_bytes in the configuration",
        )


def status_of(error: DfwatchError) -> Status:
    """How a job ends that failed for good with this error."""
    if isinstance(error, RefusedError):
        return Status.REJECTED
    if isinstance(error, ReaderCrashError):
        return Status.QUARANTINED
    return Status.FAILED


def refusal_of(error: DfwatchError) -> Refusal:
    """What the sidecar says of an error."""
    reason = error.reason if isinstance(error, MediaError) else Reason.INTERNAL_ERROR
    return Refusal(reason, error.cause, error.hint)


def conclude(reading: Reading, scores: NDArray[np.float32], bundle: Bundle, settings: Settings) -> Decision:
    """The verdict on a reading whose crops were scored."""
    return decide(
        reading,
        scores,
        calibration=bundle.calibration,
        limits=limits_in_force(bundle.thresholds, settings.verdict),
        settings=settings.verdict,
        faces=settings.faces,
    )


def runtime_of(scorer: Scorer) -> dict[str, Any]:
    """The document's ``runtime`` section, decoder aside."""
    device = scorer.device
    return {
        "dfwatch": __version__,
        "torch": metadata.version("torch"),
        "engine": device.engine,
        "device": device.device,
        "device_name": device.name,
        "device_reason": device.reason,
        "precision": device.precision,
        "precision_max_difference": device.precision_max_difference,
        "batch_size": device.batch_size,
        "threads": device.threads,
        "host": socket.gethostname(),
    }


class Judge:
    """Judges one file at a time, with a reader and a detector that stay warm.

    Args:
        settings: The configuration.
        reader: Reads files; started and closed by the caller.
        scorer: Scores crops.

    Raises:
        ConfigError: The configured thresholds do not go with the model's.
    """

    def __init__(self, settings: Settings, reader: FileReader, scorer: Scorer) -> None:
        self._settings = settings
        self._reader = reader
        self._scorer = scorer
        # Better now than after the first file was read.
        limits_in_force(scorer.bundle.thresholds, settings.verdict)
        self._runtime = runtime_of(scorer)

    def judge(self, path: str) -> dict[str, Any]:
        """The sidecar document of one file, for files that are refused or fail too.

        Raises:
            DeviceError: The device failed; no file is to blame.
            ReaderStartError: The machine starts no reader; no file is to blame.
            StorageError: The disk failed.
        """
        dropped = DroppedName("", os.path.basename(os.path.abspath(path)))
        job_id, received_at, timer = new_job_id(), utc_now(), Timer()
        size_bytes: int | None = None
        sha256: str | None = None
        reading: Reading | None = None
        decision: Decision | None = None
        refusal: Refusal | None = None
        status = Status.DONE
        try:
            fd, fingerprint = open_regular(path, dropped.shown)
            try:
                size_bytes = fingerprint.size_bytes
                check_admissible(dropped, size_bytes, self._settings)
                digest = Digest(fd, fingerprint)
                try:
                    reading = self._reader.read(fd, self._scorer.bundle.crop)
                    timer.restart()
                    scores = self._scorer.score(reading.crops)
                    timer.lap("inference")
                finally:
                    # A refusal names the bytes too.
                    sha256 = digest.result()
                    timer.stages_ms["hash"] = digest.spent_ms
                check_unchanged(fd, path, dropped.shown, fingerprint)
            finally:
                os.close(fd)
            timer.restart()
            decision = conclude(reading, scores, self._scorer.bundle, self._settings)
            timer.lap("verdict")
        except (DeviceError, ReaderStartError):
            raise
        except (MediaError, ModelError) as error:
            # A model that cannot score these crops may well score the next file's.
            status, refusal, reading = status_of(error), refusal_of(error), None
        except OSError as exc:
            raise StorageError("reading", dropped.shown, exc.strerror or exc, hint="check the disk") from exc
        subject = Subject(dropped, size_bytes, sha256, received_at, ("given by name",))
        # A device that runs out of memory gets smaller batches from then on.
        runtime = {**self._runtime, "batch_size": self._scorer.device.batch_size}
        run = Run(job_id, 1 if sha256 else 0, self._scorer.bundle, runtime, timer.stages_ms)
        return build(status, subject, run, reading=reading, decision=decision, refusal=refusal)
