"""Crops of a real face, to hold one way of running a network against another.

``probe_face.jpg`` is cut from NASA's portrait of the astronaut Eileen Collins (S93-E-5139…, "Eileen Collins", taken by
NASA, and therefore in the public domain; it came with scikit-image as ``skimage.data.astronaut``). It is shown in other
places, sizes, lights and qualities, and every second time with the middle of the face exchanged for a shifted and
recoloured copy, as a face swap would: so that scores from both ends and from between are compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dfwatch.reading import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dfwatch.reading import CropSpec

PICTURE = Path(__file__).with_name("probe_face.jpg")
# As the face finder sees it, in pixels of the picture.
FACE = Box(48.4, 39.5, 94.8, 115.8)


def probe_faces(count: int, spec: CropSpec, seed: int = 0) -> NDArray[np.uint8]:
    """Crops of shape (count, size_px, size_px, 3), RGB, cut as ``spec`` says; the same for the same arguments."""
    import cv2  # noqa: PLC0415 - only a start that measures needs it

    from dfwatch.faces import cut_crop  # noqa: PLC0415 - imports cv2

    bgr = cv2.imdecode(np.fromfile(PICTURE, np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ValueError(f"{PICTURE} is damaged; install dfwatch again")
    picture = np.ascontiguousarray(bgr[..., ::-1], np.uint8)
    rng = np.random.default_rng(seed)
    crops = np.empty((count, spec.size_px, spec.size_px, 3), np.uint8)
    for number, crop in enumerate(crops):
        frame = _swapped(picture, rng) if number % 2 else picture
        face = Box(
            FACE.x + rng.uniform(-0.06, 0.06) * FACE.width,
            FACE.y + rng.uniform(-0.06, 0.06) * FACE.height,
            FACE.width * rng.uniform(0.9, 1.1),
            FACE.height * rng.uniform(0.9, 1.1),
        )
        if number % 4 > 1:
            blurred = cv2.GaussianBlur(frame, (0, 0), rng.uniform(0.5, 2.0))
            quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 80))]
            frame = np.asarray(cv2.imdecode(cv2.imencode(".jpg", blurred, quality)[1], cv2.IMREAD_COLOR), np.uint8)
        shown = cut_crop(frame, face, spec)
        if rng.random() < 0.5:
            shown = shown[:, ::-1]
        lit = shown * rng.uniform(0.6, 1.3) * rng.uniform(0.9, 1.1, 3) + rng.uniform(-20, 20)
        crop[:] = np.clip(lit + rng.normal(0.0, rng.uniform(0, 4), shown.shape), 0, 255)
    return crops


def _swapped(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The picture with an ellipse of the face exchanged for a copy that is shifted and of another colour."""
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
    centre = (FACE.x + FACE.width / 2, FACE.y + FACE.height / 2)
    distance = ((x - centre[0]) / (0.42 * FACE.width)) ** 2 + ((y - centre[1]) / (0.42 * FACE.height)) ** 2
    mask = np.clip((1.0 - distance) * rng.uniform(2.0, 8.0), 0.0, 1.0)[..., None]
    copy = np.roll(picture, rng.integers(-4, 5, 2), (0, 1)) * rng.uniform(0.8, 1.2, 3)
    swapped: NDArray[np.uint8] = np.clip(picture * (1.0 - mask) + copy * mask, 0, 255).astype(np.uint8)
    return swapped
