"""Drawing on small pictures that the reader brought, and encoding them. Nothing is decoded here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dfwatch.reading import Box

_JPEG_QUALITY: Final = 88
_SHOWN_CROP_PX: Final = 320
_WHITE: Final = (255, 255, 255)
_RED: Final = (40, 50, 230)  # BGR
_HEAT: Final = 0.45


def boxed_frame(thumbnail: NDArray[np.uint8], box: Box, frame_size: tuple[int, int]) -> bytes:
    """A JPEG of a frame with a face box drawn.

    Args:
        thumbnail: uint8 (height, width, 3), RGB.
        box: In pixels of the full frame.
        frame_size: The full frame's width and height.
    """
    picture = np.ascontiguousarray(thumbnail[:, :, ::-1])
    height, width = picture.shape[:2]
    scale_x, scale_y = width / frame_size[0], height / frame_size[1]
    corners = (
        (round(box.x * scale_x), round(box.y * scale_y)),
        (round((box.x + box.width) * scale_x), round((box.y + box.height) * scale_y)),
    )
    # White under red is seen on any ground.
    cv2.rectangle(picture, *corners, _WHITE, 4, cv2.LINE_AA)
    cv2.rectangle(picture, *corners, _RED, 2, cv2.LINE_AA)
    return _jpeg(picture)


def heated_crop(crop: NDArray[np.uint8], heat: NDArray[np.float32]) -> bytes:
    """A JPEG of two pictures side by side: the crop as the model sees it, and the same under its heat map.

    Args:
        crop: uint8 (side, side, 3), RGB.
        heat: float32 (side, side), 0 to 1.
    """
    plain = np.ascontiguousarray(crop[:, :, ::-1])
    colours = cv2.applyColorMap((np.clip(heat, 0.0, 1.0) * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    mixed = cv2.addWeighted(plain, 1.0 - _HEAT, colours, _HEAT, 0.0)
    both = np.hstack([cv2.resize(picture, (_SHOWN_CROP_PX, _SHOWN_CROP_PX)) for picture in (plain, mixed)])
    return _jpeg(both)


def _jpeg(picture_bgr: NDArray[np.uint8] | cv2.typing.MatLike) -> bytes:
    done, data = cv2.imencode(".jpg", picture_bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not done:
        raise ValueError(f"a picture of shape {picture_bgr.shape} could not be encoded")
    return data.tobytes()
