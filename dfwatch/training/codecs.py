"""Pictures through the codecs that videos suffer: what the wild does to a crop, and what the robustness table tries."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def jpeg(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Encode a uint8 RGB picture as JPEG and decode it."""
    return _reencode(image, ".jpg", cv2.IMWRITE_JPEG_QUALITY, quality)


def webp(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Encode a uint8 RGB picture as lossy WebP, which is a VP8 key frame, and decode it."""
    return _reencode(image, ".webp", cv2.IMWRITE_WEBP_QUALITY, quality)


def h264(image: NDArray[np.uint8], crf: int) -> NDArray[np.uint8]:
    """Encode a square uint8 RGB picture as a key frame of H.264 at a constant rate factor and decode it."""
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


def _reencode(image: NDArray[np.uint8], suffix: str, key: int, quality: int) -> NDArray[np.uint8]:
    encoded = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [key, quality])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB), np.uint8)
