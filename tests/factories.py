"""Small, complete values of the types that most tests need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dfwatch.models.bundle import Bundle, Calibration, InputSpec, OutputSpec, Thresholds
from dfwatch.reading import Box, CropSpec, Face, Reading, SampledFrame, Sampling, Track, VideoInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

SIDE_PX = 32


def bundle(**changes: Any) -> Bundle:
    facts: dict[str, Any] = {
        "id": "test-model",
        "version": "1",
        "architecture": "resnext50_32x4d",
        "input": InputSpec(size_px=SIDE_PX, channel_order="rgb", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        "crop": CropSpec(size_px=SIDE_PX, margin=0.1),
        "output": OutputSpec(kind="softmax", label_order=("FAKE", "REAL")),
        "calibration": Calibration(method="temperature", parameters={"temperature": 2.0}, fitted_on="made up"),
        "thresholds": Thresholds(real=0.3, fake=0.7, false_positive_rate=0.01, chosen_on="made up"),
        "licence": "none",
        "known_failures": ("everything that was not made up",),
        "card": "README.md",
        "weights_sha256": "0" * 64,
    }
    return Bundle(**{**facts, **changes})


def reading(faces_per_track: Sequence[Sequence[int]], *, frames: int = 20, decoded: int | None = None) -> Reading:
    """A 10-second video; each track is given as the sampled frames (indices) in which its face was found."""
    decoded = frames if decoded is None else decoded
    sampled = tuple(SampledFrame(index, 10.0 * (index + 0.5) / frames) for index in range(decoded))
    tracks, row = [], 0
    for track_id, seen in enumerate(faces_per_track):
        faces = []
        for index in seen:
            box = Box(100.0 + index, 50.0, 80.0, 96.0)
            faces.append(Face(index, sampled[index].time_s, box, 0.9, row))
            row += 1
        tracks.append(Track(track_id, tuple(faces)))
    video = VideoInfo("mov", "h264", 640, 360, "yuv420p", 25.0, 10.0, 0)
    sampling = Sampling(frames, frames, decoded, frames - decoded, "seek", sampled)
    crops = np.zeros((row, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    return Reading(
        video,
        sampling,
        tuple(tracks),
        crops,
        "PyAV 1 (FFmpeg 1)",
        timings_ms={"probe": 1.0, "decode": 20.0, "faces": 9.0},
    )
