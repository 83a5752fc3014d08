"""What the reader hands on: data types only, no decoding, nothing heavier than numpy.

A *reading* is everything that is known of a video before a model has seen it: what the container holds, which frames
were sampled, which faces were found, how they link into tracks, and one small crop for each face.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


CROP_MARGINS = (-0.49, 10.0)
"""Least and largest ``CropSpec.margin``: nearly nothing of a face is left, and hardly anything but surroundings."""

CROP_SHIFTS = (-10.0, 10.0)
"""Least and largest ``CropSpec.shift_y``."""

MAX_FRAMES_PER_S = 1e7
"""A higher frame rate is a mistake of whoever wrote the header, and so none."""

MAX_THUMBNAIL_BYTES = 32 * 1024 * 1024
"""What the thumbnails of one video may take, however many frames are sampled."""


def thumbnail_side(wanted_px: int, frames: int) -> int:
    """Longer side of thumbnails of so many frames: as wanted, or what ``MAX_THUMBNAIL_BYTES`` leaves of it."""
    return min(wanted_px, math.isqrt(MAX_THUMBNAIL_BYTES // (3 * max(1, frames))))


def thumbnail_size(width: int, height: int, side_px: int) -> tuple[int, int]:
    """Width and height of a frame of this size made small; never larger than it is, never less than a pixel."""
    scale = min(1.0, side_px / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


@dataclass(frozen=True, slots=True)
class CropSpec:
    """How a face is cut out of a frame; belongs to the model, which was trained on crops of this kind.

    Attributes:
        size_px: Side of the square crop handed to the model, in pixels.
        margin: Added on each side of the face box as a fraction of the box's longer side; 0 is a tight crop, negative
            values cut into the box.
        square: Whether the box is first made square around its centre (its longer side); otherwise the crop is
            stretched to a square.
        shift_y: Shift of the centre downwards, as a fraction of the box's longer side.
    """

    size_px: int
    margin: float = 0.0
    square: bool = True
    shift_y: float = 0.0


@dataclass(frozen=True, slots=True)
class Box:
    """A face box in pixels of the upright frame (rotation applied); may reach over the frame's edge."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What the container and the decoder say of the video stream that was sampled.

    ``width`` and ``height`` are those of the first sampled frame, upright; ``rotation`` is the clockwise turn in
    degrees (0, 90, 180, 270) that was applied to make it upright. ``fps`` and ``duration_s`` are None where unknown;
    ``fps`` is what is stated, unless the frames' times tell of another kind of video. A still picture has ``still``
    set, one frame, and neither of these.
    """

    container: str
    codec: str
    width: int
    height: int
    pixel_format: str
    fps: float | None
    duration_s: float | None
    rotation: int
    still: bool = False


@dataclass(frozen=True, slots=True)
class SampledFrame:
    """One frame that was decoded and searched for faces.

    Attributes:
        index: Position in the sample, counted from 0 (not a frame number of the container).
        time_s: Exact presentation time, in seconds from the first frame of the stream.
    """

    index: int
    time_s: float


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the sample was taken.

    Attributes:
        requested: Frames asked for.
        expected_frames: Frames that this video could give (``requested``, or fewer for a shorter one).
        decoded: Frames that were decoded.
        failed: Frames that were due and could not be decoded.
        strategy: How they were reached: ``sequential``, ``seek``, ``keyframes``, ``exact`` or ``still``.
    """

    requested: int
    expected_frames: int
    decoded: int
    failed: int
    strategy: str
    frames: tuple[SampledFrame, ...] = ()


@dataclass(frozen=True, slots=True)
class Face:
    """One face in one sampled frame.

    Attributes:
        frame_index: ``SampledFrame.index`` of its frame.
        time_s: Presentation time of its frame, in seconds.
        box: The face detector's box, in pixels of a frame of the size that ``VideoInfo`` states.
        detection_score: The face detector's own confidence, 0 to 1.
        crop_index: Row of ``Reading.crops`` that holds its crop.
    """

    frame_index: int
    time_s: float
    box: Box
    detection_score: float
    crop_index: int


@dataclass(frozen=True, slots=True)
class Track:
    """The same face through the sampled frames, in order of time."""

    id: int
    faces: tuple[Face, ...]


@dataclass(frozen=True, slots=True)
class QualityFlag:
    """A property of the input that makes a verdict less certain, in one word and one sentence."""

    flag: str
    detail: str


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything the reader found in one file.

    Attributes:
        crops: uint8 array of shape (n, size_px, size_px, 3), RGB, one row for each face.
        decoder: Name and version of the decoder, for the sidecar.
        thumbnails: uint8 array of shape (sampled frames, height, width, 3), RGB: the upright frames made small, all to
            one size; None where none were asked for.
        timings_ms: Milliseconds spent in each of the reader's stages (``probe``, ``decode``, ``faces``).
    """

    video: VideoInfo
    sampling: Sampling
    tracks: tuple[Track, ...]
    crops: NDArray[np.uint8]
    decoder: str
    quality: tuple[QualityFlag, ...] = ()
    warnings: tuple[str, ...] = ()
    timings_ms: dict[str, float] = field(default_factory=dict)
    thumbnails: NDArray[np.uint8] | None = None
