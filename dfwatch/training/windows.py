"""Where a model's crop lies in a stored picture: the reference window, and windows drawn around it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from dfwatch.faces import crop_region
from dfwatch.reading import Box, CropSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dfwatch.training.records import Record

# Measured with YuNet on the DFDC crops (docs/training.md): their side is 0.84 of the face box's longer side, and their
# centre lies 0.055 of it below the box's centre.
REFERENCE_MARGIN = -0.08
REFERENCE_SHIFT_Y = 0.055


# What is put where a window reaches over the picture's edge.
Border = Literal["reflect", "replicate", "blurred"]
BORDERS: tuple[Border, ...] = ("reflect", "replicate", "blurred")
_BORDER_TYPES = {
    "reflect": cv2.BORDER_REFLECT_101,
    "replicate": cv2.BORDER_REPLICATE,
    "blurred": cv2.BORDER_REFLECT_101,
}
_BORDER_BLUR_SHARE = 0.06  # of the picture's longer side


@dataclass(frozen=True, slots=True)
class Window:
    """A square in a picture, in pixels; it lies inside the picture, but for those that ``surround`` takes."""

    left: float
    top: float
    side: float


def reference_window(
    record: Record,
    shape: tuple[int, int],
    margin: float = REFERENCE_MARGIN,
    shift_y: float = REFERENCE_SHIFT_Y,
) -> Window:
    """Return the window that a ``CropSpec`` of this margin and shift cuts, moved or shrunk to stay in the picture."""
    height, width = shape
    x, y, box_width, box_height = record.box
    box = Box(x * width, y * height, box_width * width, box_height * height)
    region = crop_region(box, CropSpec(size_px=1, margin=margin, square=True, shift_y=shift_y))
    return fit_window(region.x + region.width / 2, region.y + region.height / 2, region.width, shape)


def fit_window(centre_x: float, centre_y: float, side: float, shape: tuple[int, int]) -> Window:
    """Return the square of this centre and side, shrunk and moved until it lies in a picture of ``shape``."""
    height, width = shape
    side = max(8.0, min(side, float(height), float(width)))
    left = min(max(centre_x - side / 2, 0.0), width - side)
    top = min(max(centre_y - side / 2, 0.0), height - side)
    return Window(left, top, side)


def surround(image: NDArray[np.uint8], window: Window, border: Border) -> tuple[NDArray[np.uint8], Window]:
    """Make up what a window shows beyond the picture's edge.

    Returns:
        The picture with as much around it as the window needs, at most its own size on each side, and the window in
        the new picture's pixels. The pixels of the picture itself are kept.
    """
    height, width = image.shape[:2]
    reach = [
        max(0, min(math.ceil(over), room - 1))
        for over, room in (
            (-window.top, height),
            (window.top + window.side - height, height),
            (-window.left, width),
            (window.left + window.side - width, width),
        )
    ]
    above, below, before, after = reach
    if not any(reach):
        return image, window
    wide = cv2.copyMakeBorder(image, above, below, before, after, _BORDER_TYPES[border])
    if border == "blurred":
        wide = cv2.GaussianBlur(wide, (0, 0), _BORDER_BLUR_SHARE * max(height, width))
        wide[above : above + height, before : before + width] = image
    made = np.asarray(wide, np.uint8)
    shape = (made.shape[0], made.shape[1])
    centre_x, centre_y = window.left + window.side / 2 + before, window.top + window.side / 2 + above
    return made, fit_window(centre_x, centre_y, window.side, shape)


def cut_window(image: NDArray[np.uint8], window: Window, size_px: int) -> NDArray[np.uint8]:
    """Cut a window and scale it to ``size_px``: area averaging when it shrinks, linear when it grows."""
    left, top, side = round(window.left), round(window.top), max(1, round(window.side))
    crop = image[top : top + side, left : left + side]
    method = cv2.INTER_AREA if crop.shape[0] > size_px else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(crop, (size_px, size_px), interpolation=method), np.uint8)
