"""From scores to a verdict: pure functions and data types, no files and no model.

The rule: a face track's probability is the mean over its faces (the classic mean over sampled frames when there is one
face), and the video takes the highest stable track. Between the two thresholds the answer is INCONCLUSIVE; without a
face it is NO_FACE, never REAL, and nothing is ever scored from a whole frame. REAL says that no trace was found, so it
is not said where several frames show a face that reaches the FAKE threshold, whichever face decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from dfwatch.errors import ConfigError
from dfwatch.reasons import Label

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dfwatch.config import FaceSettings, VerdictSettings
    from dfwatch.models.bundle import Calibration, Thresholds
    from dfwatch.reading import Face, Reading, Track


@dataclass(frozen=True, slots=True)
class Limits:
    """The two thresholds in force: REAL at or below ``real``, FAKE at or above ``fake``; both in 0 to 1."""

    real: float
    fake: float

    def sides(self, p_fake: float) -> tuple[bool, bool]:
        """Whether a p(fake) lies at or below the one, and at or above the other."""
        return p_fake <= self.real, p_fake >= self.fake


@dataclass(frozen=True, slots=True)
class FrameScore:
    """One face of one frame with its calibrated probability of being fake, 0 to 1."""

    face: Face
    p_fake: float


@dataclass(frozen=True, slots=True)
class TrackScore:
    """One face through the video.

    Attributes:
        id: The reader's track id.
        p_fake: Mean of the faces' calibrated probabilities, 0 to 1.
        p_fake_raw: The same mean over the model's own, uncalibrated probabilities.
        stable: Whether it was seen in enough of the sampled frames to decide.
        frames: Its faces in order of time.
    """

    id: int
    p_fake: float
    p_fake_raw: float
    stable: bool
    frames: tuple[FrameScore, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of playing time, in seconds, in which the deciding faces reach the FAKE threshold; mean of their p."""

    start_s: float
    end_s: float
    p_fake: float


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict of one video.

    ``confidence`` is the probability of the published label: p(fake) for FAKE, 1 - p(fake) for REAL, None where no
    claim is made (INCONCLUSIVE, NO_FACE). ``decided_by`` is the id of the deciding track, or None where all faces were
    taken together.
    """

    label: Label
    confidence: float | None
    p_fake: float | None
    p_fake_raw: float | None
    limits: Limits
    aggregation: str
    decided_by: int | None
    tracks: tuple[TrackScore, ...] = ()
    segments: tuple[Segment, ...] = ()
    warnings: tuple[str, ...] = ()


def limits_in_force(thresholds: Thresholds, settings: VerdictSettings) -> Limits:
    """The bundle's thresholds, each replaced by the configured one where there is one.

    Raises:
        ConfigError: A configured threshold meets or crosses the other one, so that nothing is INCONCLUSIVE.
    """
    real = thresholds.real if settings.real_threshold is None else settings.real_threshold
    fake = thresholds.fake if settings.fake_threshold is None else settings.fake_threshold
    configured = settings.real_threshold is not None or settings.fake_threshold is not None
    if configured and real >= fake:
        real_from = "the model's own" if settings.real_threshold is None else "verdict.real_threshold"
        fake_from = "the model's own" if settings.fake_threshold is None else "verdict.fake_threshold"
        raise ConfigError(
            "choosing the thresholds",
            "",
            f"REAL would be said up to {real:g} ({real_from}), FAKE from {fake:g} ({fake_from}), INCONCLUSIVE nowhere",
            hint=f"set verdict.real_threshold below {fake:g}, or verdict.fake_threshold above {real:g}",
        )
    return Limits(real=real, fake=fake)


def decide(
    reading: Reading,
    scores: NDArray[np.float32],
    *,
    calibration: Calibration,
    limits: Limits,
    settings: VerdictSettings,
    faces: FaceSettings,
) -> Decision:
    """Decide one video.

    Args:
        reading: What the reader found.
        scores: float32 of shape (n,), raw p(fake) of each row of ``reading.crops``, 0 to 1.
        calibration: The bundle's map from raw to calibrated probabilities.
        limits: The thresholds in force.
        settings: Aggregation and the least number of faces.
        faces: What makes a track stable.
    """
    if not reading.tracks:
        return Decision(Label.NO_FACE, None, None, None, limits, settings.aggregation, None)
    calibrated = calibration.apply(scores)
    needed = stable_faces_needed(reading.sampling.decoded, faces.min_track_share)
    tracks = tuple(_score_track(track, scores, calibrated, needed) for track in reading.tracks)

    warnings: list[str] = []
    deciding: TrackScore | None = None
    if settings.aggregation == "highest_track":
        stable = [track for track in tracks if track.stable]
        if stable:
            deciding = max(stable, key=lambda track: (track.p_fake, -track.id))
        else:
            warnings.append(f"no face was followed through {needed} frames or more; all faces were taken together")
    pooled = _in_time_order(tracks) if deciding is None else deciding.frames
    if deciding is None:
        rows = [frame.face.crop_index for frame in pooled]
        p_fake, p_fake_raw = _mean(calibrated[rows]), _mean(scores[rows])
    else:
        p_fake, p_fake_raw = deciding.p_fake, deciding.p_fake_raw

    label = _label(p_fake, limits)
    frames_with_face = len({frame.face.frame_index for frame in pooled})
    for have, least, what in (
        (len(pooled), settings.min_faces, "faces to judge by"),
        (frames_with_face, needed, "frames with a face"),
    ):
        if have < least and label is not Label.INCONCLUSIVE:
            warnings.append(f"{have} {what}, {least} needed for a firm verdict")
            label = Label.INCONCLUSIVE
    if label is Label.REAL and (suspect := _frames_reaching(limits.fake, tracks)):
        warnings.append(f"{suspect} of {reading.sampling.decoded} frames show a face that reaches the FAKE threshold")
        if suspect >= frames_against_real(needed):
            label = Label.INCONCLUSIVE
    return Decision(
        label=label,
        confidence={Label.FAKE: p_fake, Label.REAL: 1.0 - p_fake}.get(label),
        p_fake=p_fake,
        p_fake_raw=p_fake_raw,
        limits=limits,
        aggregation=settings.aggregation,
        decided_by=None if deciding is None else deciding.id,
        tracks=tracks,
        segments=_segments(pooled, reading, limits.fake),
        warnings=tuple(warnings),
    )


def stable_faces_needed(decoded_frames: int, min_track_share: float) -> int:
    """Number of faces that make a track stable: the configured share of the decoded frames, at least one."""
    # 0.55 of 20 frames are 11, and not the 12 that binary fractions make of it.
    return max(1, math.ceil(round(decoded_frames * min_track_share, 9)))


def frames_against_real(stable_faces: int) -> int:
    """Number of frames with a face at or above the FAKE threshold from which on REAL is not said.

    Half of what makes a track stable, so that a fake that is cut into short tracks or appears beside a real person is
    not overlooked; but never a single frame, which a face finder's mistake is enough for.
    """
    return max(2, stable_faces // 2)


def _frames_reaching(fake: float, tracks: Sequence[TrackScore]) -> int:
    return len({frame.face.frame_index for track in tracks for frame in track.frames if frame.p_fake >= fake})


def _label(p_fake: float, limits: Limits) -> Label:
    if p_fake >= limits.fake:
        return Label.FAKE
    if p_fake <= limits.real:
        return Label.REAL
    return Label.INCONCLUSIVE


def _score_track(
    track: Track, raw: NDArray[np.floating[Any]], calibrated: NDArray[np.floating[Any]], stable_faces: int
) -> TrackScore:
    rows = [face.crop_index for face in track.faces]
    return TrackScore(
        id=track.id,
        p_fake=_mean(calibrated[rows]),
        p_fake_raw=_mean(raw[rows]),
        stable=len(rows) >= stable_faces,
        frames=tuple(FrameScore(face, float(calibrated[face.crop_index])) for face in track.faces),
    )


def _mean(values: NDArray[np.floating[Any]]) -> float:
    return float(np.mean(values, dtype=np.float64))


def _in_time_order(tracks: Sequence[TrackScore]) -> tuple[FrameScore, ...]:
    frames = [frame for track in tracks for frame in track.frames]
    return tuple(sorted(frames, key=lambda frame: (frame.face.frame_index, frame.face.crop_index)))


def _segments(frames: Sequence[FrameScore], reading: Reading, fake: float) -> tuple[Segment, ...]:
    """Merge neighbouring sampled frames whose mean p reaches ``fake``, where nothing is missing between them."""
    scores_at: dict[int, list[float]] = {}
    for scored in frames:
        scores_at.setdefault(scored.face.frame_index, []).append(scored.p_fake)
    segments: list[Segment] = []
    run: list[float] = []
    run_start_s = run_end_s = 0.0
    for frame, (start_s, end_s) in zip(reading.sampling.frames, _spans(reading), strict=True):
        scores = scores_at.get(frame.index)
        p_here = sum(scores) / len(scores) if scores else None
        reaches = p_here is not None and p_here >= fake
        if run and (not reaches or start_s > run_end_s):
            segments.append(Segment(run_start_s, run_end_s, _mean_of_run(run)))
            run = []
        if p_here is not None and reaches:
            run_start_s = run_start_s if run else start_s
            run_end_s = end_s
            run.append(p_here)
    if run:
        segments.append(Segment(run_start_s, run_end_s, _mean_of_run(run)))
    return tuple(segments)


def _mean_of_run(run: Sequence[float]) -> float:
    # Added up in binary fractions, scores at the threshold can have a mean that is a hair below it.
    return max(min(run), sum(run) / len(run))


def _spans(reading: Reading) -> list[tuple[float, float]]:
    """What playing time each sampled frame stands for: to halfway to its neighbours, the ends included.

    Where frames could not be decoded it is no more than a slice to either side: nobody saw what lies further away.
    """
    sampling, duration_s = reading.sampling, reading.video.duration_s or 0.0
    times = [frame.time_s for frame in sampling.frames]
    lost = sampling.failed > 0 and duration_s > 0
    reach_s = duration_s / max(1, sampling.expected_frames) if lost else math.inf
    borders = [0.0, *((first + second) / 2 for first, second in pairwise(times)), max([duration_s, *times])]
    return [
        (max(start_s, time_s - reach_s), min(end_s, time_s + reach_s))
        for time_s, (start_s, end_s) in zip(times, pairwise(borders), strict=True)
    ]
