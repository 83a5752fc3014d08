"""In the reader child: a JPEG, PNG or WebP as one upright frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from dfwatch.errors import UndecodableError
from dfwatch.pictures import StillPicture
from dfwatch.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_STILL_BYTES = 512 * 1024 * 1024


def decode_still(read_at: Callable[[int, int], bytes], size_bytes: int) -> StillPicture:
    """Decode a whole picture.

    Its orientation (EXIF) is applied, transparency is dropped, of an animation the first picture is taken. The caller
    has checked the picture's size in pixels.

    Raises:
        UndecodableError: The file is too long for a picture, or the decoder could make nothing of it.
    """
    if size_bytes > MAX_STILL_BYTES:
        raise UndecodableError("decoding", "", f"{size_bytes} bytes are too many for a picture", reason=Reason.CORRUPT)
    data = np.frombuffer(read_at(0, size_bytes), np.uint8)
    try:
        bgr = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise UndecodableError("decoding", "", error.err or "not a picture", reason=Reason.CORRUPT) from error
    if bgr is None:
        raise UndecodableError("decoding", "", "the picture is damaged", reason=Reason.CORRUPT)
    return StillPicture(np.asarray(bgr, np.uint8))
