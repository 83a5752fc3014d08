"""Properties of the input that make a verdict less certain; only what can be measured soundly is flagged.

| flag | meaning |
| --- | --- |
| ``low_resolution`` | the picture's shorter side is under 240 pixels, in half of the frames |
| ``size_changes`` | the frames are not all of one size |
| ``few_frames`` | fewer than half of the requested frames could be sampled |
| ``small_faces`` | half of the faces are smaller than 64 pixels, so that crops are enlarged |
| ``faces_left_out`` | a frame has more faces than ``faces.max_per_frame``; the smaller ones were left out |
| ``faces_too_small`` | faces smaller than ``faces.min_side_px`` were left out |
| ``dark`` | half of the frames have a mean brightness under 40 of 255 |
| ``animation`` | an animated picture, of which only the first one was judged |
| ``timestamps_jump`` | time stamps step back, or leap far ahead, as where recordings were joined |
| ``gaps`` | stretches of playing time without a frame, longer than a slice of it |
| ``decode_errors`` | the decoder refused packets or called frames damaged |
| ``interlaced`` | frames are interlaced; one field was used |
| ``high_dynamic_range`` | PQ or HLG colours were converted to standard range |
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from dfwatch.reading import Box, QualityFlag, VideoInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dfwatch.decode.good_frames import Tally
    from dfwatch.decode.holes import Hole

LOW_SIDE_PX = 240
SMALL_FACE_PX = 64
DARK_MEAN = 40.0
MAX_HOLES_SHOWN = 5
MAX_SIZES_SHOWN = 5
_HDR = {16: "PQ", 18: "HLG"}


@dataclass(slots=True)
class Measured:
    """What was measured on the sampled frames.

    Attributes:
        sizes: Width and height of each frame, upright, in pixels.
        means: Mean brightness of each frame, 0 to 255.
        face_sides_px: Longer side of each face, in pixels of the full frame.
        faces_left_out: Faces beyond the number allowed in one frame, all frames together.
        faces_too_small: Faces smaller than the least size, all frames together.
        animation: Whether the picture is the first one of an animation.
    """

    sizes: list[tuple[int, int]] = field(default_factory=list)
    means: list[float] = field(default_factory=list)
    face_sides_px: list[float] = field(default_factory=list)
    faces_left_out: int = 0
    faces_too_small: int = 0
    animation: bool = False

    def add_frame(self, picture: NDArray[np.uint8], size: tuple[int, int]) -> None:
        """Measure a searched picture of a frame of this width and height."""
        self.sizes.append(size)
        self.means.append(float(picture[::4, ::4].mean()))

    def add_face(self, box: Box) -> None:
        """Measure a face."""
        self.face_sides_px.append(max(box.width, box.height))


@dataclass(frozen=True, slots=True)
class Timeline:
    """What is odd about a video's time stamps.

    Attributes:
        misplaced_share: Share of the frames that come after frames shown later, 0 to 1.
        holes: Stretches without a frame, as far as they are known one by one.
        empty_slices: Slices that gave no frame, in a file of which no list told so before.
        recordings: How many, each with time stamps of its own, were put one after another.
    """

    misplaced_share: float = 0.0
    holes: tuple[Hole, ...] = ()
    empty_slices: int = 0
    recordings: int = 1

    def warnings(self) -> list[str]:
        """What a person should know of it."""
        warnings = []
        if self.recordings > 1:
            warnings.append(f"it consists of {self.recordings} recordings, which were taken one after another")
        if self.misplaced_share:
            warnings.append(
                f"the time stamps step back: {self.misplaced_share:.0%} of the frames come after frames shown later, "
                "and cannot be told from them"
            )
        if self.holes:
            shown = ", ".join(f"{hole.start_s:.1f} to {hole.end_s:.1f} s" for hole in self.holes[:MAX_HOLES_SHOWN])
            more = ", …" if len(self.holes) > MAX_HOLES_SHOWN else ""
            lost = ", and the file shows that some were lost" if any(hole.lost for hole in self.holes) else ""
            warnings.append(f"no frame is shown from {shown}{more}{lost}")
        elif self.empty_slices:
            warnings.append(f"{self.empty_slices} of the stretches to be sampled gave no frame")
        return warnings

    def flags(self) -> list[QualityFlag]:
        """The same as quality flags."""
        flags = []
        details = []
        if self.recordings > 1:
            details.append(f"{self.recordings} recordings with time stamps of their own")
        if self.misplaced_share:
            details.append(f"{self.misplaced_share:.0%} of the frames come after frames shown later")
        if details:
            flags.append(QualityFlag("timestamps_jump", "; ".join(details)))
        if self.holes:
            longest = max(hole.end_s - hole.start_s for hole in self.holes)
            detail = f"{len(self.holes)} stretches without a frame, the longest of {longest:.1f} s"
            flags.append(QualityFlag("gaps", detail))
        elif self.empty_slices:
            flags.append(QualityFlag("gaps", f"{self.empty_slices} of the stretches to be sampled gave no frame"))
        return flags


def quality_flags(
    info: VideoInfo, measured: Measured, frames_wanted: int, tally: Tally, timeline: Timeline
) -> tuple[QualityFlag, ...]:
    """The flags of one reading, in the order of the table above."""
    flags = []
    width, height = sorted(measured.sizes, key=min)[len(measured.sizes) // 2]
    if min(width, height) < LOW_SIDE_PX:
        flags.append(QualityFlag("low_resolution", f"the picture has {width}x{height} pixels"))
    sizes = list(dict.fromkeys(measured.sizes))
    if len(sizes) > 1:
        shown = ", ".join(f"{width}x{height}" for width, height in sizes[:MAX_SIZES_SHOWN])
        more = ", …" if len(sizes) > MAX_SIZES_SHOWN else ""
        flags.append(QualityFlag("size_changes", f"the sampled frames have {shown}{more} pixels"))
    if not info.still and len(measured.means) < frames_wanted / 2:
        flags.append(QualityFlag("few_frames", f"{len(measured.means)} of {frames_wanted} frames were sampled"))
    if measured.face_sides_px and median(measured.face_sides_px) < SMALL_FACE_PX:
        side = median(measured.face_sides_px)
        flags.append(QualityFlag("small_faces", f"half of the faces are of {math.ceil(side)} pixels or less"))
    if measured.faces_left_out:
        detail = f"not judged, as their frames have more faces than allowed: {measured.faces_left_out} in all frames"
        flags.append(QualityFlag("faces_left_out", detail))
    if measured.faces_too_small:
        detail = f"not judged, as they are smaller than allowed: {measured.faces_too_small} in all frames"
        flags.append(QualityFlag("faces_too_small", detail))
    if measured.means and median(measured.means) < DARK_MEAN:
        flags.append(QualityFlag("dark", f"mean brightness is {median(measured.means):.0f} of 255"))
    if measured.animation:
        flags.append(QualityFlag("animation", "only the first picture of an animation was judged"))
    flags += timeline.flags()
    if tally.errors or tally.corrupt:
        detail = f"{tally.errors} packets refused, {tally.corrupt} frames damaged"
        flags.append(QualityFlag("decode_errors", detail))
    if tally.interlaced:
        flags.append(QualityFlag("interlaced", "one field of each frame was used"))
    if tally.transfer in _HDR:
        name = _HDR[tally.transfer]
        flags.append(QualityFlag("high_dynamic_range", f"{name} colours were converted to standard range"))
    return tuple(flags)
