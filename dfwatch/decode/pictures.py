"""In the reader child: one decoded frame at a time, upright, with square pixels, in plain 8-bit colours.

Nothing is converted in full when a part will do: the face search gets a small picture straight from the decoder's
planes, and a crop converts only the pixels around its face.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import av
import cv2
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from dfwatch.decode.colours import BT2020, HLG, PQ, to_bt709
from dfwatch.faces import cut_region
from dfwatch.reading import Box

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Formats of which a rectangle can be copied plane by plane; any other is converted in full.
_PLANAR = frozenset(
    f"yuv{chroma}p{depth}" for chroma in ("420", "422", "444") for depth in ("", "10le", "12le")
) | frozenset({"yuvj420p", "yuvj422p", "yuvj444p", "gray"})
_BT709, _BT470BG, _SMPTE170M, _BT2020_NCL = 1, 5, 6, 9
_ALIGN = 16


class Picture(Protocol):
    """One frame; sizes and boxes are those of the upright picture with square pixels."""

    @property
    def width(self) -> int:
        """Width in pixels."""
        ...

    @property
    def height(self) -> int:
        """Height in pixels."""
        ...

    def search_bgr(self, longer_side_px: int) -> NDArray[np.uint8]:
        """The whole picture as uint8 BGR, scaled down to this longer side (never up)."""
        ...

    def crop(self, region: Box, size_px: int) -> NDArray[np.uint8]:
        """``faces.cut_region`` of this picture, RGB."""
        ...


@dataclass(frozen=True, slots=True)
class Orientation:
    """How a stored picture becomes upright: mirrored left to right first (if so), then turned clockwise."""

    turns: int = 0
    mirrored: bool = False

    @classmethod
    def from_display_matrix(cls, matrix: Sequence[int]) -> Orientation:
        """Nearest of the eight orientations to a display matrix (ISO/IEC 14496-12, 6.2.2; nine numbers)."""
        a, b, c, d = (float(matrix[i]) for i in (0, 1, 3, 4))
        if a * d - b * c == 0:
            return cls()
        mirrored = a * d - b * c < 0
        if mirrored:
            a, b = -a, -b
        return cls(round(math.degrees(math.atan2(b, a)) / 90) % 4, mirrored)

    @property
    def degrees(self) -> int:
        """Clockwise turn: 0, 90, 180 or 270."""
        return self.turns * 90

    @property
    def transposes(self) -> bool:
        """Whether width and height change places."""
        return self.turns % 2 == 1

    def apply(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The stored picture (rows first), upright."""
        if self.mirrored:
            picture = picture[:, ::-1]
        return np.ascontiguousarray(np.rot90(picture, -self.turns))

    def to_stored(self, box: Box, stored_width: float, stored_height: float) -> Box:
        """Where a box of the upright picture lies in the stored one."""
        x, y, width, height = box.x, box.y, box.width, box.height
        if self.turns == 1:
            x, y, width, height = y, stored_height - x - width, height, width
        elif self.turns == 2:
            x, y = stored_width - x - width, stored_height - y - height
        elif self.turns == 3:
            x, y, width, height = stored_width - y - height, x, height, width
        if self.mirrored:
            x = stored_width - x - width
        return Box(x, y, width, height)


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """What the frame's display matrix asks for."""
    try:
        data = frame.side_data.get(SideDataType.DISPLAYMATRIX)  # type: ignore[call-overload] # av's stub says str
    except ValueError:
        # PyAV refuses the whole list when it holds a kind that PyAV does not know; the angle is still to be had.
        return Orientation(round(-frame.rotation / 90) % 4)
    return Orientation() if data is None else Orientation.from_display_matrix(struct.unpack("=9i", bytes(data)[:36]))


class VideoPicture:
    """A decoded video frame.

    Args:
        frame: The frame; it is read only while this object is used.
        orientation: How it becomes upright.
        pixel_aspect: Width of a stored pixel over its height.
        converter: Kept from frame to frame, so that swscale's tables are set up once.
    """

    def __init__(
        self, frame: av.VideoFrame, orientation: Orientation, pixel_aspect: float, converter: Converter
    ) -> None:
        self._frame = frame
        self._orientation = orientation
        self._aspect = pixel_aspect
        self._converter = converter
        width, height = round(frame.width * pixel_aspect), frame.height
        self.width, self.height = (height, width) if orientation.transposes else (width, height)

    @property
    def key(self) -> bool:
        """Whether the decoder calls it a key frame."""
        return bool(self._frame.key_frame)

    def search_bgr(self, longer_side_px: int) -> NDArray[np.uint8]:
        """As ``Picture.search_bgr``."""
        scale = min(1.0, longer_side_px / max(self.width, self.height))
        width = max(1, round(self._frame.width * self._aspect * scale))
        height = max(1, round(self._frame.height * scale))
        return self._orientation.apply(self._converter.whole(self._frame, width, height, "bgr24"))

    def crop(self, region: Box, size_px: int) -> NDArray[np.uint8]:
        """As ``Picture.crop``."""
        stored = self._orientation.to_stored(region, self._frame.width * self._aspect, self._frame.height)
        stored = Box(stored.x / self._aspect, stored.y, stored.width / self._aspect, stored.height)
        patch, left, top = self._converter.part_rgb(self._frame, stored)
        crop = cut_region(patch, Box(stored.x - left, stored.y - top, stored.width, stored.height), size_px)
        if crop.dtype == np.uint16:
            crop = to_bt709(crop, int(self._frame.color_trc))
        return self._orientation.apply(crop)


class Converter:
    """Turns planes into 8-bit RGB or BGR: colour matrix, range, high dynamic range, interlacing.

    Untagged video is taken as BT.709 from 720 lines on and as BT.601 below, as players do. Of interlaced frames the
    first field is kept and its lines interpolated.
    """

    def __init__(self) -> None:
        self._whole = VideoReformatter()
        self._part = VideoReformatter()

    def whole(self, frame: av.VideoFrame, width: int, height: int, pixel_format: str) -> NDArray[np.uint8]:
        """The frame scaled to width x height; high dynamic range is left as it is, which face search does not mind."""
        shrinks = width < frame.width or height < frame.height
        converted = self._whole.reformat(
            frame,
            width=width,
            height=height,
            format=pixel_format,
            src_colorspace=_matrix(frame),
            interpolation=Interpolation.AREA if shrinks else Interpolation.BILINEAR,
            threads=1,
        )
        return _array(converted)

    def part_rgb(self, frame: av.VideoFrame, box: Box) -> tuple[NDArray[Any], int, int]:
        """RGB pixels of at least the visible part of ``box`` (stored coordinates), and their offset (left, top).

        uint8 of BT.709; or uint16 of wide colours, still to be brought to BT.709 by ``colours.to_bt709``.
        """
        part, left, top = _cut_planes(frame, box)
        wide = is_wide(frame)
        # swscale (9.5) makes a mess of 16-bit RGB of odd widths.
        deep = wide and part.width % 2 == 0
        converted = self._part.reformat(
            part, format="rgb48le" if deep else "rgb24", src_colorspace=_matrix(frame), threads=1
        )
        rgb = _array(converted, np.uint16 if deep else np.uint8)
        if wide and not deep:
            rgb = rgb.astype(np.uint16) * 257
        if frame.interlaced_frame and rgb.shape[0] >= 4:
            rgb = np.asarray(cv2.resize(rgb[::2], (rgb.shape[1], rgb.shape[0]), interpolation=cv2.INTER_LINEAR))
        return rgb, left, top


def is_wide(frame: av.VideoFrame) -> bool:
    """Whether a frame's colours are of a wider kind than BT.709: PQ, HLG or BT.2020 primaries."""
    return int(frame.color_trc) in {PQ, HLG} or int(frame.color_primaries) == BT2020


class StillPicture:
    """A decoded still picture, uint8 BGR, already upright."""

    def __init__(self, bgr: NDArray[np.uint8]) -> None:
        self._bgr = bgr
        self.height, self.width = bgr.shape[:2]

    def search_bgr(self, longer_side_px: int) -> NDArray[np.uint8]:
        """As ``Picture.search_bgr``."""
        scale = min(1.0, longer_side_px / max(self.width, self.height))
        if scale == 1.0:
            return self._bgr
        size = (max(1, round(self.width * scale)), max(1, round(self.height * scale)))
        return np.asarray(cv2.resize(self._bgr, size, interpolation=cv2.INTER_AREA), np.uint8)

    def crop(self, region: Box, size_px: int) -> NDArray[np.uint8]:
        """As ``Picture.crop``."""
        return np.ascontiguousarray(cut_region(self._bgr, region, size_px)[..., ::-1])


def pixel_aspect_of(declared: float | None) -> float:
    """Width of a pixel over its height; 1 where nothing sane is declared."""
    if declared is None or not math.isfinite(declared) or not 0.25 <= declared <= 4.0 or abs(declared - 1) < 0.01:
        return 1.0
    return declared


def _matrix(frame: av.VideoFrame) -> int:
    tagged = int(frame.colorspace)
    if tagged == _BT709:
        return Colorspace.ITU709
    if tagged in (_BT2020_NCL, _BT2020_NCL + 1):
        return Colorspace.BT2020
    if tagged in (_BT470BG, _SMPTE170M):
        return Colorspace.ITU601
    if tagged == 7:
        return Colorspace.SMPTE240M
    if tagged == 4:
        return Colorspace.FCC
    return Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601


def _array(frame: av.VideoFrame, dtype: type[Any] = np.uint8) -> NDArray[Any]:
    plane = frame.planes[0]
    rows = np.frombuffer(memoryview(plane), dtype).reshape(frame.height, -1)
    return rows[:, : frame.width * 3].reshape(frame.height, frame.width, 3)


def _cut_planes(frame: av.VideoFrame, box: Box) -> tuple[av.VideoFrame, int, int]:
    """A small frame that holds the visible part of ``box``, or the frame itself, and the part's offset."""
    name = frame.format.name
    left = min(max(0, math.floor(box.x) - 2), frame.width - 1) // _ALIGN * _ALIGN
    top = min(max(0, math.floor(box.y) - 2), frame.height - 1) // _ALIGN * _ALIGN
    right = max(left + 2, min(frame.width, math.ceil(box.x + box.width) + 2))
    bottom = max(top + 2, min(frame.height, math.ceil(box.y + box.height) + 2))
    right, bottom = min(right + right % 2, frame.width), min(bottom + bottom % 2, frame.height)
    width, height = right - left, bottom - top
    if name not in _PLANAR or width * height * 2 > frame.width * frame.height:
        return frame, 0, 0
    part = av.VideoFrame(width, height, name)
    sample_bytes = 2 if name.endswith("le") else 1
    for source, target in zip(frame.planes, part.planes, strict=True):
        step_x = 1 if source.width == frame.width else 2
        step_y = 1 if source.height == frame.height else 2
        x, y = left // step_x * sample_bytes, top // step_y
        columns, rows = target.width * sample_bytes, target.height
        pixels = np.frombuffer(memoryview(source), np.uint8).reshape(-1, source.line_size)
        into = np.frombuffer(memoryview(target), np.uint8).reshape(-1, target.line_size)
        # The last odd column or row of subsampled planes may lie at the very edge.
        cut = pixels[y : y + rows, x : x + columns]
        into[: cut.shape[0], : cut.shape[1]] = cut
    part.color_range = ColorRange(int(frame.color_range))
    part.colorspace = frame.colorspace
    return part, left, top
