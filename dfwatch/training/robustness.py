"""What a crop may suffer before it is judged: the columns of the robustness table."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import cv2
import numpy as np

from dfwatch.training.codecs import h264, jpeg

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Change = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


def rescale(crop: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """Scale down by a factor and up again."""
    side = crop.shape[0]
    small = cv2.resize(crop, (max(4, round(side * factor)),) * 2, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)


def blur(crop: NDArray[np.uint8], sigma_px: float) -> NDArray[np.uint8]:
    """Blur by a Gaussian."""
    return np.asarray(cv2.GaussianBlur(crop, (0, 0), sigma_px), np.uint8)


def noise(crop: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    """Add grey Gaussian noise, the same on every call."""
    grain = np.random.default_rng(0).normal(0, sigma, (*crop.shape[:2], 1))
    return np.clip(np.rint(crop + grain), 0, 255).astype(np.uint8)


CHANGES: dict[str, Change] = {
    **{f"JPEG {quality}": partial(jpeg, quality=quality) for quality in (90, 70, 50, 30)},
    **{f"rescale {factor}": partial(rescale, factor=factor) for factor in (0.75, 0.5, 0.25)},
    **{f"blur {sigma} px": partial(blur, sigma_px=sigma) for sigma in (0.5, 1.0, 2.0)},
    **{f"noise {sigma}": partial(noise, sigma=sigma) for sigma in (3, 8)},
    **{f"H.264 CRF {crf}": partial(h264, crf=crf) for crf in (18, 23, 28, 35)},
}
