"""Properties of the input that make a verdict less certain; only what can be measured soundly is flagged.

| flag | meaning |
| --- | --- |
| ``low_resolution`` | the picture's shorter side is under 240 pixels |
| ``few_frames`` | fewer than half of the requested frames could be sampled |
| ``small_faces`` | half of the faces are smaller than 64 pixels, so that crops are enlarged |
| ``dark`` | half of the frames have a mean brightness under 40 of 255 |
| ``decode_errors`` | the decoder refused packets or called frames damaged |
| ``interlaced`` | frames are interlaced; one field was used |
| ``high_dynamic_range`` | PQ or HLG colours were converted to standard range |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from dfwatch.reading import Box, QualityFlag, VideoInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dfwatch.decode.decoding import Tally

LOW_SIDE_PX = 240
SMALL_FACE_PX = 64
DARK_MEAN = 40.0
_HDR = {16: "PQ", 18: "HLG"}


@dataclass(slots=True)
class Measured:
    """What was measured on the sampled frames.

    Attributes:
        means: Mean brightness of each frame, 0 to 255.
        face_sides_px: Longer side of each face, in pixels of the full frame.
    """

    means: list[float] = field(default_factory=list)
    face_sides_px: list[float] = field(default_factory=list)

    def add_frame(self, picture: NDArray[np.uint8]) -> None:
        """Measure a searched picture."""
        self.means.append(float(picture[::4, ::4].mean()))

    def add_face(self, box: Box) -> None:
        """Measure a face."""
        self.face_sides_px.append(max(box.width, box.height))


def quality_flags(info: VideoInfo, measured: Measured, frames_wanted: int, tally: Tally) -> tuple[QualityFlag, ...]:
    """The flags of one reading, in the order of the table above."""
    flags = []
    if min(info.width, info.height) < LOW_SIDE_PX:
        flags.append(QualityFlag("low_resolution", f"the picture has {info.width}x{info.height} pixels"))
    if not info.still and len(measured.means) < frames_wanted / 2:
        flags.append(QualityFlag("few_frames", f"{len(measured.means)} of {frames_wanted} frames were sampled"))
    if measured.face_sides_px and median(measured.face_sides_px) < SMALL_FACE_PX:
        side = median(measured.face_sides_px)
        flags.append(QualityFlag("small_faces", f"half of the faces are smaller than {side:.0f} pixels"))
    if measured.means and median(measured.means) < DARK_MEAN:
        flags.append(QualityFlag("dark", f"mean brightness is {median(measured.means):.0f} of 255"))
    if tally.errors or tally.corrupt:
        detail = f"{tally.errors} packets refused, {tally.corrupt} frames damaged"
        flags.append(QualityFlag("decode_errors", detail))
    if tally.interlaced:
        flags.append(QualityFlag("interlaced", "one field of each frame was used"))
    if tally.transfer in _HDR:
        name = _HDR[tally.transfer]
        flags.append(QualityFlag("high_dynamic_range", f"{name} colours were converted to standard range"))
    return tuple(flags)
