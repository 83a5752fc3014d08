"""Pictures through the codecs that videos suffer: what the wild does to a crop, and what the robustness table tries."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


Codec = Literal["jpeg", "webp"]
SUFFIXES: dict[Codec, str] = {"jpeg": ".jpg", "webp": ".webp"}
_QUALITY_KEYS: dict[Codec, int] = {"jpeg": cv2.IMWRITE_JPEG_QUALITY, "webp": cv2.IMWRITE_WEBP_QUALITY}


def encode(image: NDArray[np.uint8], codec: Codec, quality: int) -> bytes:
    """Encode a uint8 RGB picture; quality 1 to 100 (lossy WebP too: 100 is not lossless here)."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(SUFFIXES[codec], bgr, [_QUALITY_KEYS[codec], quality])[1].tobytes()


def jpeg(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Encode a uint8 RGB picture as JPEG and decode it."""
    return _reencode(image, "jpeg", quality)


def webp(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Encode a uint8 RGB picture as lossy WebP, which is a VP8 key frame, and decode it."""
    return _reencode(image, "webp", quality)


def h264(image: NDArray[np.uint8], crf: int) -> NDArray[np.uint8]:
    """Encode a square uint8 RGB picture as a key frame of H.264 at a constant rate factor and decode it."""
    import av  # noqa: PLC0415 - a machine that only trains may lack it

    side = image.shape[0] - image.shape[0] % 2
    memory = io.BytesIO()
    with av.open(memory, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": str(crf), "preset": "veryfast"})
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:side, :side]), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    memory.seek(0)
    with av.open(memory, "r") as played:
        picture = np.asarray(next(played.decode(video=0)).to_ndarray(format="rgb24"), np.uint8)
    if side != image.shape[0]:
        size = (image.shape[1], image.shape[0])
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    return picture


def _reencode(image: NDArray[np.uint8], codec: Codec, quality: int) -> NDArray[np.uint8]:
    encoded = np.frombuffer(encode(image, codec, quality), np.uint8)
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB), np.uint8)
