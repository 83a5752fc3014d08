"""The sidecar: the JSON document that a file's outcome is published as, and its JSON Schema.

The schema (``schemas/sidecar-1.schema.json``, JSON Schema 2020-12) is the contract with downstream tools. Within a
major version keys are only added. Every key is always present; what is not known is null.
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import asdict, dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

from dfwatch.reasons import Label
from dfwatch.storage.layout import as_unicode, is_utf8

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dfwatch.models.bundle import Bundle
    from dfwatch.reading import Reading
    from dfwatch.reasons import Reason, Status
    from dfwatch.storage.layout import DroppedName
    from dfwatch.verdict import Decision, Limits

SCHEMA_VERSION = "1.1"
SCHEMA_FILE = "sidecar-1.schema.json"

# More digits than these carry nothing, and would show the order in which a processor adds numbers up.
_PROBABILITY_DIGITS = 4
# As many as a double between 0 and 1 is sure of.
_MOST_DIGITS = 15
_TIME_DIGITS = 3
_PIXEL_DIGITS = 1

_LIMITS = {
    Label.FAKE: "A score is not proof. The model finds traces that it was trained to find; have a person look.",
    Label.REAL: "REAL means that no trace of a known kind of face manipulation was found, not that the video is true.",
    Label.INCONCLUSIVE: "The score lies between the thresholds, rests on too little, or single frames contradict it: "
    "no claim is made.",
    Label.NO_FACE: "No face was found that is fit to be judged, so nothing was judged. "
    "This says nothing about whether the video is real.",
}
_LIMIT_UNCALIBRATED = "The model's probabilities are not calibrated: confidence is the model's own opinion of itself."
_LIMIT_SCOPE = "Only faces are judged: not voices, captions, context, or pictures generated as a whole."


@dataclass(frozen=True, slots=True)
class Subject:
    """The file that was judged.

    Attributes:
        dropped: Its name and subfolder in the inbox.
        size_bytes: Its size; None for what is not a regular file.
        sha256: Lower-case hex digest of its bytes; None where they were never read.
        received_at: When it was taken in, ISO 8601 in UTC.
        evidence: Why it was held to be complete.
    """

    dropped: DroppedName
    size_bytes: int | None
    sha256: str | None
    received_at: str
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no verdict: a code for programs, a sentence and advice for people."""

    reason: Reason
    detail: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """What judged the file.

    Attributes:
        job_id: Which job this is.
        attempt: Which attempt led to this document, from 1; 0 where the file was refused before any.
        bundle: The model.
        runtime: The document's ``runtime`` section, decoder aside.
        timings_ms: Milliseconds of each stage; ``total`` is added by ``build``.
    """

    job_id: str
    attempt: int
    bundle: Bundle
    runtime: Mapping[str, Any]
    timings_ms: Mapping[str, float] = field(default_factory=dict)


def build(
    status: Status,
    subject: Subject,
    run: Run,
    *,
    reading: Reading | None = None,
    decision: Decision | None = None,
    refusal: Refusal | None = None,
    provenance: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole document, ready for ``encode``.

    Args:
        status: How the job ended.
        subject: The file.
        run: What judged it.
        reading: What the reader found; None for a file that could not be read.
        decision: The verdict; None together with ``refusal``.
        refusal: Why there is no verdict.
        provenance: What the file's content credentials say; no part of the decision.
    """
    p_fake = None if decision is None else _written(decision.p_fake, decision.limits)
    return {
        "schema_version": SCHEMA_VERSION,
        "job_id": run.job_id,
        "status": str(status),
        "reason": None if refusal is None else str(refusal.reason),
        "reason_detail": None if refusal is None else refusal.detail,
        "reason_hint": (refusal.hint or None) if refusal is not None else None,
        "subject": _subject(subject),
        "verdict": None if decision is None else str(decision.label),
        "confidence": _confidence(decision, p_fake),
        "p_fake": p_fake,
        "p_fake_raw": None if decision is None else _written(decision.p_fake_raw, decision.limits),
        "calibrated": None if decision is None else run.bundle.calibration.calibrated,
        "thresholds": _thresholds(decision, run.bundle),
        "aggregation": None if decision is None else decision.aggregation,
        "decided_by_track": None if decision is None else decision.decided_by,
        "tracks": _tracks(decision),
        "segments": _segments(decision),
        "sampling": _sampling(reading),
        "video": _video(reading),
        "quality": [] if reading is None else [asdict(flag) for flag in reading.quality],
        "completeness": {"evidence": list(subject.evidence)},
        "model": _model(run.bundle),
        "runtime": {**run.runtime, "decoder": None if reading is None else reading.decoder},
        "timings_ms": _timings(run, reading),
        "attempt": run.attempt,
        "evidence": None,
        "provenance": provenance,
        "warnings": [*(reading.warnings if reading else ()), *(decision.warnings if decision else ())],
        "limits": _limits(decision, run.bundle),
    }


def written_score(p_fake: float, limits: Limits) -> float:
    """A p(fake) as documents state it: rounded, with as many digits as keep it on its side of both thresholds.

    So whoever decides anew from the document's figures comes to the document's verdict.
    """
    for digits in range(_PROBABILITY_DIGITS, _MOST_DIGITS + 1):
        rounded = round(p_fake, digits)
        if limits.sides(rounded) == limits.sides(p_fake):
            return rounded
    return p_fake


def percent(probability: float) -> str:
    """Whole percents for people, but never a certainty that the figure does not have."""
    text = f"{probability:.0%}"
    return "more than 99%" if text == "100%" else text


def encode(document: Mapping[str, Any], *, indent: int | None = 2) -> bytes:
    """The document as UTF-8 JSON with a final newline; ``indent=None`` gives one line."""
    return (json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the document."""
    text = resources.files("dfwatch").joinpath("schemas", SCHEMA_FILE).read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def _subject(subject: Subject) -> dict[str, Any]:
    name = subject.dropped.name
    document: dict[str, Any] = {"name": as_unicode(name), "folder": as_unicode(subject.dropped.folder)}
    if not is_utf8(subject.dropped.relative):
        document["name_bytes_b64"] = base64.b64encode(os.fsencode(subject.dropped.relative)).decode("ascii")
    return {
        **document,
        "size": subject.size_bytes,
        "sha256": subject.sha256,
        "received_at": subject.received_at,
    }


def _thresholds(decision: Decision | None, bundle: Bundle) -> dict[str, Any] | None:
    if decision is None:
        return None
    limits, own = decision.limits, bundle.thresholds
    bundled = (limits.real, limits.fake) == (own.real, own.fake)
    return {
        "real": limits.real,
        "fake": limits.fake,
        "source": "bundle" if bundled else "configuration",
        "false_positive_rate": own.false_positive_rate if limits.fake == own.fake else None,
    }


def _tracks(decision: Decision | None) -> list[dict[str, Any]]:
    if decision is None:
        return []
    limits = decision.limits
    return [
        {
            "id": track.id,
            "p_fake": written_score(track.p_fake, limits),
            "p_fake_raw": written_score(track.p_fake_raw, limits),
            "stable": track.stable,
            "frames": [
                {
                    "index": scored.face.frame_index,
                    "time_s": round(scored.face.time_s, _TIME_DIGITS),
                    "box": [
                        round(value, _PIXEL_DIGITS)
                        for value in (
                            scored.face.box.x,
                            scored.face.box.y,
                            scored.face.box.width,
                            scored.face.box.height,
                        )
                    ],
                    "detection_score": round(scored.face.detection_score, _PROBABILITY_DIGITS),
                    "p_fake": written_score(scored.p_fake, limits),
                }
                for scored in track.frames
            ],
        }
        for track in decision.tracks
    ]


def _segments(decision: Decision | None) -> list[dict[str, Any]]:
    if decision is None:
        return []
    return [
        {
            "start_s": round(segment.start_s, _TIME_DIGITS),
            "end_s": round(segment.end_s, _TIME_DIGITS),
            "p_fake": written_score(segment.p_fake, decision.limits),
        }
        for segment in decision.segments
    ]


def _sampling(reading: Reading | None) -> dict[str, Any] | None:
    if reading is None:
        return None
    sampling = reading.sampling
    return {
        "requested": sampling.requested,
        "decoded": sampling.decoded,
        "failed": sampling.failed,
        "expected_frames": sampling.expected_frames,
        "strategy": sampling.strategy,
        "times_s": [round(frame.time_s, _TIME_DIGITS) for frame in sampling.frames],
    }


def _video(reading: Reading | None) -> dict[str, Any] | None:
    if reading is None:
        return None
    video = reading.video
    return {
        "container": video.container,
        "codec": video.codec,
        "width": video.width,
        "height": video.height,
        "pixel_format": video.pixel_format,
        "fps": None if video.fps is None else round(video.fps, 3),
        "duration_s": None if video.duration_s is None else round(video.duration_s, _TIME_DIGITS),
        "rotation": video.rotation,
        "still": video.still,
    }


def _model(bundle: Bundle) -> dict[str, Any]:
    spec = bundle.input
    crop = bundle.crop
    return {
        "id": bundle.id,
        "version": bundle.version,
        "weights_sha256": bundle.weights_sha256,
        "architecture": bundle.architecture,
        "preprocessing": {
            "size_px": spec.size_px,
            "channel_order": spec.channel_order,
            "mean": list(spec.mean),
            "std": list(spec.std),
            "crop_margin": crop.margin,
            "crop_square": crop.square,
            "crop_shift_y": crop.shift_y,
        },
        "card": bundle.card or None,
        "known_failures": list(bundle.known_failures),
    }


def _timings(run: Run, reading: Reading | None) -> dict[str, float]:
    timings = {**(reading.timings_ms if reading else {}), **run.timings_ms}
    timings.setdefault("total", sum(timings.values()))
    return {name: round(value, 1) for name, value in timings.items()}


def _limits(decision: Decision | None, bundle: Bundle) -> list[str]:
    if decision is None:
        return []
    uncalibrated = not bundle.calibration.calibrated and decision.confidence is not None
    return [_LIMITS[decision.label], *([_LIMIT_UNCALIBRATED] if uncalibrated else []), _LIMIT_SCOPE]


def _written(p_fake: float | None, limits: Limits) -> float | None:
    return None if p_fake is None else written_score(p_fake, limits)


def _confidence(decision: Decision | None, p_fake: float | None) -> float | None:
    """From the figure that stands beside it, so that the two always agree."""
    if decision is None or decision.confidence is None or p_fake is None:
        return None
    return p_fake if decision.label is Label.FAKE else round(1.0 - p_fake, _MOST_DIGITS)
