"""Real video and picture files for tests, made on the spot with PyAV.

Every frame of a clip shows a moving pattern, a bar code of its own number (``read_frame_number`` reads it back from a
decoded frame), and, where wanted, one or more real faces. The face is ``skimage.data.astronaut()``: Eileen Collins,
photographed by NASA, in the public domain.

    clip = make_clip(tmp_path / "clip.mp4")                      # H.264, 2 s, 24 frames/s, 320x240, one face
    clip = make_clip(tmp_path / "clip.webm", codec="libvpx-vp9", faces=())   # no face
    clip = make_clip(tmp_path / "clip.mov", rotation=90, size=(640, 360), gop=48)
"""

from __future__ import annotations

import functools
import shutil
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np
import skimage.data
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

BITS = 16

FAST: dict[str, dict[str, str]] = {
    "libx264": {"preset": "ultrafast", "crf": "20"},
    "libx265": {"preset": "ultrafast", "crf": "20", "x265-params": "log-level=none"},
    # Above 0 the encoder takes less care the busier the machine is.
    "libvpx": {"deadline": "realtime", "cpu-used": "-8", "crf": "10", "b:v": "2M"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "25", "b:v": "0"},
    "libsvtav1": {"preset": "12", "crf": "30"},
    "mpeg4": {"qscale": "3"},
    "mpeg2video": {"qscale": "3"},
    "mjpeg": {"qscale": "3"},
}

# Display matrices (ISO/IEC 14496-12, 16.16 fixed point, last column 2.30) of the eight orientations, by the
# clockwise turn and the mirroring that a player must apply, mirroring (left to right) first.
_ONE = 1 << 16


@dataclass(frozen=True)
class PlacedFace:
    """A face in the picture: centre and height of the pasted portrait, as fractions of the frame's height and width."""

    x: float = 0.5
    y: float = 0.55
    height: float = 0.8
    first_s: float = 0.0
    last_s: float = float("inf")


ONE_FACE = (PlacedFace(),)


@functools.cache
def portrait() -> NDArray[np.uint8]:
    """Head and shoulders of the astronaut, RGB uint8 of shape (256, 256, 3)."""
    picture: NDArray[np.uint8] = skimage.data.astronaut()[0:256, 90:346]  # type: ignore[no-untyped-call]
    picture = np.ascontiguousarray(picture)
    picture.setflags(write=False)
    return picture


def paint(
    number: int, size: tuple[int, int], time_s: float = 0.0, faces: Sequence[PlacedFace] = ONE_FACE
) -> NDArray[np.uint8]:
    """Frame ``number`` of a clip: RGB uint8 of shape (height, width, 3)."""
    width, height = size
    x = np.arange(width, dtype=np.float32)[None, :]
    y = np.arange(height, dtype=np.float32)[:, None]
    wave = 96 + 48 * np.sin(x / 17 + number / 5) + 32 * np.cos(y / 23 - number / 7)
    frame = np.stack([wave, 0.8 * wave + 20, np.broadcast_to(0.6 * wave + 60, wave.shape)], axis=-1).astype(np.uint8)
    for face in faces:
        if face.first_s <= time_s <= face.last_s:
            _paste(frame, face, number)
    _bar_code(frame, number)
    return frame


def _paste(frame: NDArray[np.uint8], face: PlacedFace, number: int) -> None:
    height, width = frame.shape[:2]
    side = max(8, round(face.height * height))
    picture = cv2.resize(portrait(), (side, side), interpolation=cv2.INTER_AREA)
    left = round(face.x * width - side / 2 + 3 * np.sin(number / 4))
    top = round(face.y * height - side / 2 + 2 * np.cos(number / 4))
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
    if x1 > x0 and y1 > y0:
        frame[y0:y1, x0:x1] = picture[y0 - top : y1 - top, x0 - left : x1 - left]


def _bar_code(frame: NDArray[np.uint8], number: int) -> None:
    height, width = frame.shape[:2]
    rows = max(4, height // 12)
    for bit in range(BITS):
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        frame[:rows, left:right] = 235 if number >> bit & 1 else 20


def read_frame_number(frame: NDArray[np.uint8]) -> int:
    """The number that ``paint`` wrote into an upright decoded frame of any size (RGB or grey)."""
    height, width = frame.shape[:2]
    rows = max(4, height // 12)
    number = 0
    for bit in range(BITS):
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        inset = max(1, (right - left) // 4)
        block = frame[1 : max(2, rows - 1), left + inset : right - inset]
        number |= int(block.mean() > 128) << bit
    return number


def display_matrix(rotation: int, *, mirrored: bool = False) -> list[int]:
    """The display matrix that makes a player mirror left to right (if asked) and then turn clockwise."""
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[rotation]
    flip = -1 if mirrored else 1
    a, b, c, d = cos * flip, sin * flip, -sin, cos
    return [a * _ONE, b * _ONE, 0, c * _ONE, d * _ONE, 0, 0, 0, 1 << 30]


def stored(upright: NDArray[np.uint8], rotation: int, *, mirrored: bool = False) -> NDArray[np.uint8]:
    """The picture as it must be coded so that the player's orientation step shows ``upright``."""
    turned = np.rot90(upright, rotation // 90)
    return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)


def make_clip(
    path: Path,
    *,
    codec: str = "libx264",
    seconds: float = 2.0,
    fps: int = 24,
    size: tuple[int, int] = (320, 240),
    faces: Sequence[PlacedFace] = ONE_FACE,
    gop: int = 12,
    b_frames: int = 0,
    rotation: int = 0,
    mirrored: bool = False,
    pixel_format: str = "",
    container: str | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    times: Sequence[Fraction] | None = None,
    painter: Callable[[int, tuple[int, int], float], NDArray[np.uint8]] | None = None,
    color: tuple[int, int, int, int] | None = None,
) -> Path:
    """Write one clip and return its path.

    Args:
        codec: An FFmpeg encoder name.
        size: Width and height of the upright picture (after rotation), even numbers.
        faces: Where the astronaut's face stands and when; () for none.
        gop: Distance of key frames, in frames.
        rotation: Clockwise turn that a player must apply, 0, 90, 180 or 270, written as a display matrix.
        mirrored: Whether a player must mirror the picture (before the turn).
        times: Presentation times in seconds, one for each frame: makes the frame rate variable.
        painter: Draws the upright frame instead of ``paint``; called with number, size and time.
        color: (primaries, transfer, matrix, range) as FFmpeg's numbers, written into the stream.
    """
    if times is None:
        times = [Fraction(i, fps) for i in range(max(1, round(seconds * fps)))]
    turned = rotation in (90, 270)
    with av.open(str(path), "w", format=container, options=container_options or {}) as output:
        stream = output.add_stream(codec, rate=fps)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = (size[1], size[0]) if turned else size
        stream.pix_fmt = pixel_format or ("yuvj420p" if codec == "mjpeg" else "yuv420p")
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.time_base = Fraction(1, fps * 1000)
        chosen = {**FAST.get(codec, {}), **(options or {})}
        if codec in ("libx264", "libx265"):
            chosen = {"sc_threshold": "0", **chosen, "bf": str(b_frames)}
            if codec == "libx265":
                chosen["x265-params"] += f":keyint={gop}:min-keyint={gop}:scenecut=0:bframes={b_frames}"
                chosen.pop("sc_threshold"), chosen.pop("bf")
        if codec in ("mpeg4", "mpeg2video", "mpeg1video", "h263"):
            stream.codec_context.time_base = Fraction(1, fps)
        stream.codec_context.options = chosen
        if color is not None:
            context = stream.codec_context
            context.color_primaries, context.color_trc, context.colorspace, context.color_range = color
        if rotation or mirrored:
            stream.set_display_matrix(display_matrix(rotation, mirrored=mirrored))
        time_base = stream.codec_context.time_base
        for number, time in enumerate(times):
            draw = painter or (lambda n, s, t: paint(n, s, t, faces))
            picture = stored(draw(number, size, float(time)), rotation, mirrored=mirrored)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(time / time_base), time_base
            for packet in stream.encode(frame):
                output.mux(packet)
        for packet in stream.encode(None):
            output.mux(packet)
    return path


def make_still(
    path: Path,
    *,
    size: tuple[int, int] = (640, 480),
    faces: Sequence[PlacedFace] = ONE_FACE,
    exif_orientation: int = 1,
    kind: str | None = None,
    quality: int = 92,
) -> Path:
    """Write a JPEG, PNG or WebP (by ``kind`` or the ending) that is upright once its EXIF orientation is applied."""
    upright = paint(1, size, 0.0, faces)
    turn, mirrored = {
        1: (0, False), 2: (0, True), 3: (180, False), 4: (180, True),
        5: (270, True), 6: (90, False), 7: (90, True), 8: (270, False),
    }[exif_orientation]  # fmt: skip
    image = Image.fromarray(stored(upright, turn, mirrored=mirrored))
    exif = Image.Exif()
    if exif_orientation != 1:
        exif[0x0112] = exif_orientation
    image.save(path, format=kind or None, exif=exif.tobytes(), quality=quality)
    return path


def loop_clip(source: Path, path: Path, times: int) -> Path:
    """Repeat a clip by copying its packets: a long file in no time."""
    with av.open(str(path), "w") as output, av.open(str(source)) as first:
        # Opaque: packets are copied, so no encoder is wanted; FFmpeg has none by the name of its AV1 decoder.
        stream = output.add_stream_from_template(first.streams.video[0], opaque=True)
        offset = 0
        for _ in range(times):
            end = 0
            with av.open(str(source)) as again:
                for packet in again.demux(video=0):
                    if packet.dts is None or packet.pts is None:
                        continue
                    end = max(end, packet.pts + (packet.duration or 1))
                    packet.pts += offset
                    packet.dts += offset
                    packet.stream = stream
                    output.mux(packet)
            offset += end
    return path


def cut(source: Path, path: Path, share: float) -> Path:
    """The first ``share`` of the bytes: what a copy looks like that was broken off."""
    with source.open("rb") as file:
        path.write_bytes(file.read(int(source.stat().st_size * share)))
    return path


def mux_beside_silence(
    output: av.container.OutputContainer,
    picture: av.VideoStream | None,
    packets: list[av.Packet[Any]],
    sound: av.AudioStream,
    tenths: Iterable[int],
) -> None:
    """Write pictures as they are, each beside its time's sound: silence of 44.1 kHz in these tenths of a second."""
    for tenth in tenths:
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4410 * 2), np.int16), format="s16", layout="stereo")
        frame.sample_rate, frame.pts = 44100, tenth * 4410
        output.mux(sound.encode(frame))
        while packets and (packets[0].dts or 0) * packets[0].time_base < (tenth + 1) / 10:
            packet = packets.pop(0)
            packet.stream = picture
            output.mux(packet)


def zeroed(source: Path, path: Path, first: float, last: float) -> Path:
    """A copy in which the bytes between two places, as fractions of the length, are zero."""
    data = bytearray(source.read_bytes())
    start, end = int(len(data) * first), int(len(data) * last)
    data[start:end] = bytes(end - start)
    path.write_bytes(data)
    return path


def copy_with_flipped_bits(source: Path, path: Path, *, flips: int, seed: int, first_byte: int = 0) -> Path:
    """A copy in which ``flips`` bits at and after ``first_byte`` are wrong."""
    shutil.copyfile(source, path)
    data = bytearray(path.read_bytes())
    random = np.random.default_rng(seed)
    for position in random.integers(first_byte, len(data), flips):
        data[position] ^= 1 << int(random.integers(8))
    path.write_bytes(bytes(data))
    return path


def copy_with_damaged_packets(
    source: Path,
    path: Path,
    *,
    first: float = 0.0,
    last: float = 1.0,
    share: float = 0.3,
    keep_bytes: int = 12,
    packet_share: float = 1.0,
    keys: bool = True,
    seed: int = 1,
) -> Path:
    """A copy in which the video's packets between two places, as fractions of their number, hold wrong bytes.

    Args:
        share: Share of a packet's bytes that are wrong.
        keep_bytes: So many bytes at a packet's start are right.
        packet_share: Share of the packets that are damaged.
        keys: Whether key frames are damaged too.
    """
    random = np.random.default_rng(seed)
    with av.open(str(source)) as before, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(before.streams.video[0], opaque=True)
        packets = [packet for packet in before.demux(video=0) if packet.dts is not None or packet.pts is not None]
        for number, packet in enumerate(packets):
            data = np.frombuffer(bytes(packet), np.uint8).copy()
            may_be = first <= number / len(packets) < last and len(data) > keep_bytes + 8
            if may_be and (keys or not packet.is_keyframe) and random.random() < packet_share:
                count = max(1, int(share * (len(data) - keep_bytes)))
                data[random.integers(keep_bytes, len(data), count)] = random.integers(0, 256, count)
            wrong = av.Packet(data.tobytes())
            wrong.pts, wrong.dts, wrong.time_base = packet.pts, packet.dts, packet.time_base
            wrong.is_keyframe, wrong.duration = packet.is_keyframe, packet.duration
            wrong.stream = stream
            output.mux(wrong)
    return path
