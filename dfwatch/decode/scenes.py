"""Number the scenes that the sampled frames belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Histograms of two frames of one scene share most of their mass even when people move.
SAME_SCENE = 0.55
_HALVED_FROM_PX = 256


class SceneCounter:
    """Counts a new scene where the colours of two consecutive sampled frames differ as much as after a cut."""

    def __init__(self) -> None:
        self._last: NDArray[np.float32] | None = None
        self._scene = 0

    def add(self, picture: NDArray[np.uint8]) -> int:
        """Number of the scene of the next frame (uint8, three channels), from 0."""
        if max(picture.shape[:2]) >= _HALVED_FROM_PX:
            # Averaging four pixels is so much quicker than averaging any number that two steps take a third of one.
            half = (max(1, picture.shape[1] // 2), max(1, picture.shape[0] // 2))
            picture = np.asarray(cv2.resize(picture, half, interpolation=cv2.INTER_AREA), np.uint8)
        small = np.asarray(cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA), np.uint8)
        bins = (small >> 5).astype(np.int32)
        codes = bins[..., 0] * 64 + bins[..., 1] * 8 + bins[..., 2]
        histogram = np.bincount(codes.ravel(), minlength=512).astype(np.float32) / np.float32(codes.size)
        if self._last is not None and float(np.sqrt(self._last * histogram).sum()) < SAME_SCENE:
            self._scene += 1
        self._last = histogram
        return self._scene
