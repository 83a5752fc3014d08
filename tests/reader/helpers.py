"""What the reader's tests share: reading a path in this process, and the frames that a plan takes."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dfwatch.config import FaceSettings, ReaderSettings
from dfwatch.decode.media import MediaReader
from dfwatch.faces import FaceFinder
from dfwatch.reading import CropSpec
from dfwatch.video import Video
from tests.clips import read_frame_number

if TYPE_CHECKING:
    from pathlib import Path

    from dfwatch.reading import Reading

CROP = CropSpec(size_px=96)
READER = ReaderSettings(decoder_threads=1)
FACES = FaceSettings(detect_side_px=320)


def read(path: Path, crop: CropSpec = CROP, faces: FaceSettings = FACES, **settings: Any) -> Reading:
    """Read a file in this process, without a child."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return MediaReader(replace(READER, **settings), faces, FaceFinder(faces)).read(fd, crop)
    finally:
        os.close(fd)


@dataclass(frozen=True)
class Shot:
    """One sampled frame: the number painted into it, its time and its slice."""

    number: int
    time_s: float
    slice_index: int
    is_key: bool


@dataclass(frozen=True)
class Sample:
    """All sampled frames of a file."""

    shots: list[Shot]
    strategy: str
    planned: str
    slices: int
    duration_s: float


def sample(path: Path, **settings: Any) -> Sample:
    """Take a file's sample as the reader does, and read the frames' numbers."""
    fd = os.open(path, os.O_RDONLY)
    try:
        with Video(fd, replace(READER, **settings)) as video:
            found = video.survey()
            plan = video.plan(found)
            shots = [
                Shot(
                    read_frame_number(taken.picture.search_bgr(1 << 14)),
                    taken.time_s,
                    taken.pick.slice_index,
                    taken.picture.key,
                )
                for taken in video.sample(plan)
            ]
            return Sample(shots, video.strategy, plan.strategy, len(plan.picks), found.duration_s or 0.0)
    finally:
        os.close(fd)
