"""Drawn face-like crops, to time a network and to compare two ways of running it; nobody's picture is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def probe_crops(count: int, size_px: int, seed: int = 0) -> NDArray[np.uint8]:
    """Crops of shape (count, size_px, size_px, 3), RGB; the same for the same arguments.

    Each shows an ellipse of some skin tone with eyes, nose and mouth, lit from one side, on a shaded, noisy ground, so
    that edges, smooth shading and noise all occur.
    """
    rng = np.random.default_rng(seed)
    axis = np.linspace(-1.0, 1.0, size_px)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    crops = np.empty((count, size_px, size_px, 3), np.uint8)
    for crop in crops:
        skin = rng.uniform(0.3, 1.0) * np.array([235.0, 190.0, 160.0])
        eyes = rng.uniform(0, 90, 3)
        # Offset from the face's centre (x, y), half axes (x, y), colour; units of half the crop's side.
        parts = (
            ((0.0, 0.0), (rng.uniform(0.6, 0.9), rng.uniform(0.8, 1.1)), skin),
            ((-0.3, -0.25), (0.13, 0.07), eyes),
            ((0.3, -0.25), (0.13, 0.07), eyes),
            ((0.0, 0.05), (0.1, 0.2), 0.8 * skin),
            ((0.0, 0.45), (0.28, 0.08), np.array([150.0, 60.0, 70.0])),
        )
        centre = rng.uniform(-0.15, 0.15, 2)
        picture = np.broadcast_to(rng.uniform(0, 200, 3), crop.shape) + 20.0 * y[..., None]
        for offset, half_axes, colour in parts:
            mask = _ellipse(x, y, centre + offset, half_axes)
            picture = picture * (1.0 - mask) + mask * colour
        light = 1.0 + rng.uniform(-0.4, 0.4) * x + rng.uniform(-0.3, 0.3) * y
        picture = picture * light[..., None] + rng.normal(0.0, rng.uniform(0, 12), picture.shape)
        crop[:] = np.clip(picture, 0, 255)
    return crops


def _ellipse(
    x: NDArray[np.float64], y: NDArray[np.float64], centre: NDArray[np.float64], half_axes: tuple[float, float]
) -> NDArray[np.float64]:
    """A soft-edged mask of shape (side, side, 1), 1 inside and 0 outside."""
    distance = ((x - centre[0]) / half_axes[0]) ** 2 + ((y - centre[1]) / half_axes[1]) ** 2
    mask: NDArray[np.float64] = 1.0 / (1.0 + np.exp(np.clip(12.0 * (distance - 1.0), -30.0, 30.0)))
    return mask[..., None]
