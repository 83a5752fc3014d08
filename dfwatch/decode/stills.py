"""In the reader child: a JPEG, PNG or WebP as one upright frame."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np

from dfwatch.decode.pictures import StillPicture
from dfwatch.errors import UndecodableError
from dfwatch.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_STILL_BYTES = 512 * 1024 * 1024
_ANIMATION_BIT = 0x02
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
# A marker other than those without a length: stuffed and fill bytes, TEM, restarts and the start (ITU-T T.81, B.1.1.3).
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")


def canvas_of_webp(head: bytes) -> tuple[int, int] | None:
    """Width and height that an extended WebP states, which is the only place where an animation has them.

    Source: WebP Container Specification, "Extended File Format".
    """
    if head[:4] != b"RIFF" or head[8:16] != b"WEBPVP8X" or len(head) < 30:
        return None
    return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1


def is_animation(head: bytes) -> bool:
    """Whether an extended WebP says that it holds more than one picture (the animation bit of its VP8X chunk)."""
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) > 20 and bool(head[20] & _ANIMATION_BIT)


def decode_still(read_at: Callable[[int, int], bytes], size_bytes: int) -> StillPicture:
    """Decode a whole picture.

    Its orientation (EXIF) is applied, transparency is dropped, of an animation the first picture is taken. The caller
    has checked the picture's size in pixels.

    Raises:
        UndecodableError: The file is too long for a picture, or damaged, or the decoder could make nothing of it.
    """
    if size_bytes > MAX_STILL_BYTES:
        raise UndecodableError("decoding", "", f"{size_bytes} bytes are too many for a picture", reason=Reason.CORRUPT)
    data = read_at(0, size_bytes)
    if data[:2] == _JPEG_START and not _has_jpeg_end(data):
        # The decoder would fill the missing part with grey.
        raise UndecodableError(
            "decoding", "", "the picture's end is missing", reason=Reason.TRUNCATED, hint="send the file again"
        )
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise UndecodableError("decoding", "", error.err or "not a picture", reason=Reason.CORRUPT) from error
    if bgr is None or (data[:2] == _JPEG_START and _is_damaged_jpeg(data)):
        raise UndecodableError("decoding", "", "the picture is damaged", reason=Reason.CORRUPT)
    return StillPicture(np.asarray(bgr, np.uint8))


def _is_damaged_jpeg(data: bytes) -> bool:
    """Whether FFmpeg, which can be told to be strict, refuses a JPEG that it otherwise knows how to decode.

    OpenCV's decoder fills what it cannot make out, and says so on standard error only.
    """
    return not _ffmpeg_decodes(data, {"err_detect": "explode"}) and _ffmpeg_decodes(data, {})


def _ffmpeg_decodes(data: bytes, options: dict[str, str]) -> bool:
    context = av.CodecContext.create("mjpeg", "r")
    context.options, context.thread_count = options, 1
    try:
        return bool([*context.decode(av.Packet(data)), *context.decode(None)])
    except MemoryError:
        raise
    except av.FFmpegError:
        return False


def _has_jpeg_end(data: bytes) -> bool:
    """Whether the picture ends; what may follow it (a motion photo's video, more pictures) is none of its own."""
    if data.endswith(_JPEG_END):
        return True
    at = len(_JPEG_START)
    while (marker := _JPEG_MARKER.search(data, at)) is not None:
        if marker.group() == _JPEG_END:
            return True
        length_bytes = int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        at = marker.end() + max(2, length_bytes)
    return False
