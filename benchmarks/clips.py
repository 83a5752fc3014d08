"""The benchmark's videos: a real face that moves before a panning, noisy background, made on the spot with PyAV.

Encoded with B frames and at a few Mbit/s, as videos that people send are: an encoder's cheapest settings would give
files that are cheaper to decode than real ones. Whatever plays longer than a segment repeats it by copying packets.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np

from tests.clips import loop_clip, portrait

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

FPS = 30
# Raised when clips are made in another way, so that none made before is taken.
VERSION = 1
_NOISES = 7
_FACE_SHARE = 0.42

OPTIONS: Mapping[str, Mapping[str, str]] = {
    "libx264": {"preset": "veryfast"},
    "libx265": {"preset": "superfast", "x265-params": "log-level=none"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "7", "row-mt": "1"},
    "libsvtav1": {"preset": "10"},
    "mpeg4": {},
    "mjpeg": {"qscale": "6"},
}
# Of one pixel of one frame; 0.05 is 3.1 Mbit/s at 1080p.
BITS_PER_PIXEL: Mapping[str, float] = {
    "libx264": 0.05,
    "libx265": 0.03,
    "libvpx-vp9": 0.03,
    "libsvtav1": 0.025,
    "mpeg4": 0.08,
    "mjpeg": 0.3,
}


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip to be made.

    Attributes:
        seconds: Playing time; a multiple of ``segment_s`` where that is shorter.
        gop: Distance of key frames, in frames.
        segment_s: What is encoded; the rest repeats it. 0: all is encoded.
        ending: The container, by file name ending.
    """

    seconds: int
    size: tuple[int, int] = (1920, 1080)
    codec: str = "libx264"
    gop: int = 250
    segment_s: int = 0
    ending: str = "mp4"

    @property
    def encoded_s(self) -> int:
        """Seconds that are encoded, not copied."""
        return min(self.segment_s or self.seconds, self.seconds)

    @property
    def label(self) -> str:
        """What people call it."""
        names = {"libx264": "H.264", "libx265": "HEVC", "libvpx-vp9": "VP9", "libsvtav1": "AV1", "mpeg4": "MPEG-4"}
        codec = names.get(self.codec, self.codec.upper())
        keys = "all keys" if self.gop == 1 else f"keys ≤ {self.gop / FPS:.3g} s apart"
        return f"{self.seconds} s {self.size[0]}×{self.size[1]} {codec}, {keys}"


class ClipStore:
    """Clips in a folder, each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, clip: Clip) -> Path:
        """The clip's file; made where it is missing."""
        facts = json.dumps([VERSION, asdict(clip), dict(OPTIONS[clip.codec]), BITS_PER_PIXEL[clip.codec]])
        key = hashlib.sha256(facts.encode()).hexdigest()[:8]
        codec = clip.codec.removeprefix("lib").removeprefix("svt")
        path = self.folder / f"{clip.seconds}s-{clip.size[0]}x{clip.size[1]}-{codec}-{clip.gop}-{key}.{clip.ending}"
        if path.exists():
            return path
        unfinished = path.with_name(f"unfinished-{path.name}")
        if clip.encoded_s < clip.seconds:
            segment = self.path(Clip(clip.encoded_s, clip.size, clip.codec, clip.gop, ending=clip.ending))
            loop_clip(segment, unfinished, clip.seconds // clip.encoded_s)
        else:
            _encode(clip, unfinished)
        unfinished.rename(path)
        return path


class _Painter:
    """Draws frame after frame, quickly enough that encoding is what takes the time."""

    def __init__(self, size: tuple[int, int]) -> None:
        width, height = size
        random = np.random.default_rng(5)
        coarse = random.integers(40, 215, (height // 24 + 8, width // 24 + 8, 3)).astype(np.uint8)
        self._wall = np.asarray(cv2.resize(coarse, (width + 160, height + 160), interpolation=cv2.INTER_CUBIC))
        self._noises = [random.integers(0, 9, (height, width, 3)).astype(np.uint8) for _ in range(_NOISES)]
        side = round(_FACE_SHARE * height)
        self._face = np.asarray(cv2.resize(portrait(), (side, side), interpolation=cv2.INTER_AREA))
        self._size, self._side = size, side

    def paint(self, number: int) -> NDArray[np.uint8]:
        width, height = self._size
        x = round(80 + 79 * np.sin(number / 70))
        y = round(80 + 79 * np.cos(number / 90))
        frame = self._wall[y : y + height, x : x + width].copy()
        left = round((width - self._side) * (0.5 + 0.25 * np.sin(number / 40)))
        top = round((height - self._side) * (0.5 + 0.2 * np.cos(number / 55)))
        frame[top : top + self._side, left : left + self._side] = self._face
        return np.asarray(cv2.add(frame, self._noises[number % _NOISES]), np.uint8)


def _encode(clip: Clip, path: Path) -> None:
    painter = _Painter(clip.size)
    with av.open(str(path), "w") as output:
        stream = output.add_stream(clip.codec, rate=FPS)
        if not isinstance(stream, av.VideoStream):
            raise TypeError(f"{clip.codec} encodes no video")
        stream.width, stream.height = clip.size
        stream.pix_fmt = "yuvj420p" if clip.codec == "mjpeg" else "yuv420p"
        context = stream.codec_context
        context.gop_size = clip.gop
        context.bit_rate = round(BITS_PER_PIXEL[clip.codec] * clip.size[0] * clip.size[1] * FPS)
        context.time_base = Fraction(1, FPS)
        options = dict(OPTIONS[clip.codec])
        if clip.codec == "libx265":
            options["x265-params"] += f":keyint={clip.gop}:min-keyint={clip.gop}:scenecut=0"
        if clip.codec == "libx264":
            options["sc_threshold"] = "0"
        context.options = options
        for number in range(clip.seconds * FPS):
            frame = av.VideoFrame.from_ndarray(painter.paint(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            for packet in stream.encode(frame):
                output.mux(packet)
        for packet in stream.encode(None):
            output.mux(packet)
