"""Self-blended images, as in ``dfwatch.training.blending``, for a batch of real faces on the device.

The host draws and fits what is small (outlines, affine maps), the device does what is large (masks, warps, blurs). The
guarantee is the same: where the mask is 0, the real partner and the fake are equal byte for byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch.nn import functional

from dfwatch.training.blending import draw_outline, fit_affine
from dfwatch.training.ondevice import resample
from dfwatch.training.ondevice.augment import colour_matrices, warp
from dfwatch.training.ondevice.resident import send

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray
    from torch import Tensor

    from dfwatch.training.ondevice.resident import Stack

_CORNERS = 28  # more than any outline has
_ELASTIC_CELLS = 6
_STRENGTHS = np.array((0.25, 0.5, 0.75, 1.0, 1.0, 1.0), np.float32)
_SMALLEST_WEIGHT = 1 / 512  # less changes no byte


def blend(faces: Stack, rng: Generator, donors: Stack, donated: NDArray[np.bool_]) -> tuple[Tensor, Tensor, Tensor]:
    """Make a pair from each real face.

    Args:
        faces: n real faces with landmarks.
        rng: Source of every random choice.
        donors: n other people's faces with landmarks.
        donated: Which pairs take the donor's face instead of a copy of their own, bool (n,).

    Returns:
        Real partners and fakes with whole numbers from 0 to 255, shape (n, 3, s, s), and masks (n, 1, s, s), 0 to 1.
    """
    pictures, sizes = faces.pictures, faces.sizes
    count, side_px, device = len(pictures), pictures.shape[-1], str(pictures.device)
    longer = sizes.max(1)
    there = send(donated, device)[:, None, None, None]
    shapes = send(sizes, device)
    source = torch.where(there, _lay_over(donors, faces.landmarks), pictures)
    # Either partner may be the changed one, but a donor's face is always changed: its target is the picture itself.
    changed = _change(source, rng)
    swap = send(~donated & (rng.random(count) < 0.5), device)[:, None, None, None]
    target = torch.where(swap, changed, pictures)
    changed = torch.where(swap, source, changed)
    target = target.round().clamp(0, 255)

    middle = (sizes[:, ::-1] / 2).astype(np.float32)
    angle, scale = np.deg2rad(rng.uniform(-2, 2, count)), rng.uniform(0.95, 1.05, count)
    back = np.stack([np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)], 1) / scale[:, None]
    moved_by = rng.uniform(-0.025, 0.025, (count, 2)) * sizes[:, ::-1]
    origin, goal = send(middle, device), send((middle + moved_by).astype(np.float32), device)
    back_there = send(back.astype(np.float32), device).view(-1, 2, 2)
    changed = warp(changed, back_there, origin, goal, shapes)

    corners = np.stack([_outline(points, rng) for points in faces.landmarks])
    mask = _fill(send(corners, device), side_px)
    mask = warp(_elastic(mask, longer, rng), back_there, origin, goal, torch.full_like(shapes, float(side_px)))
    mask = _soften(mask, longer, rng)
    changed = torch.where(there, _match_colour(changed, target, mask), changed)
    strength = np.where(donated, 1, rng.choice(_STRENGTHS, count)).astype(np.float32)
    mask = mask * send(strength, device)[:, None, None, None]
    fake = torch.where(mask > 0, changed * mask + target * (1 - mask), target)
    return target, fake.round().clamp(0, 255), mask


def _lay_over(donors: Stack, landmarks: NDArray[np.float32]) -> Tensor:
    """Warp other faces so that their landmarks fall on these."""
    device = str(donors.pictures.device)
    # From the target to the donor: the warp asks where each pixel comes from.
    maps = np.stack([fit_affine(to, start) for to, start in zip(landmarks, donors.landmarks, strict=True)])
    zero = torch.zeros((len(maps), 2), device=device)
    offset = send(maps[:, :, 2].astype(np.float32), device)
    back = send(maps[:, :, :2].astype(np.float32), device)
    return warp(donors.pictures, back, offset, zero, send(donors.sizes, device))


def _change(pictures: Tensor, rng: Generator) -> Tensor:
    """Change colours slightly, then either lose detail by scaling down and up, or sharpen."""
    count, side_px, device = len(pictures), pictures.shape[-1], str(pictures.device)
    matrices, offsets = colour_matrices(
        hue=rng.uniform(-0.02, 0.02, count),
        saturation=rng.uniform(0.7, 1.3, count),
        gain=rng.uniform(0.9, 1.1, count),
        bias=rng.uniform(-25, 25, count),
    )
    offsets = offsets[:, None] + rng.integers(-20, 21, (count, 3))
    pictures = torch.einsum("nkc,nchw->nkhw", send(matrices, device), pictures)
    pictures = (pictures + send(offsets.astype(np.float32), device)[:, :, None, None]).clamp(0, 255)
    coarse = rng.random(count) < 0.6
    kept = np.where(coarse, rng.uniform(0.25, 0.9, count), 1).astype(np.float32)
    sigma = np.where(coarse, 0, rng.uniform(0.6, 1.5, count)).astype(np.float32)
    amount = np.where(coarse, -1, rng.uniform(0.2, 0.7, count)).astype(np.float32)
    matrix = torch.matmul(
        resample.blur(send(sigma, device), side_px), resample.lose_detail(send(kept, device), side_px)
    )
    soft = resample.apply(matrix, pictures, matrix)
    # amount -1 takes the soft picture, a positive one sharpens by what the soft picture lacks.
    return (pictures + send(amount, device)[:, None, None, None] * (pictures - soft)).clamp(0, 255)


def _outline(landmarks: NDArray[np.float32], rng: Generator) -> NDArray[np.float32]:
    """Return the corners (28, 2) of a convex outline of the face, the last one repeated."""
    hull = np.asarray(cv2.convexHull(draw_outline(landmarks, rng).astype(np.float32)), np.float32)[:, 0]
    filled = np.repeat(hull[-1:], _CORNERS, 0)
    filled[: len(hull)] = hull
    return filled


def _fill(corners: Tensor, side_px: int) -> Tensor:
    """Fill convex outlines (n, k, 2), whose corners go round in either sense: float (n, 1, side_px, side_px)."""
    line = torch.arange(side_px, device=corners.device, dtype=torch.float32)
    along = corners.roll(-1, 1) - corners
    # Which side of each edge a pixel lies on; repeated corners make edges of no length, on which everything lies.
    x = (line - corners[..., :1]) * along[..., 1:]
    y = (line - corners[..., 1:]) * along[..., :1]
    across = y[..., :, None] - x[..., None, :]
    return ((across >= 0).all(1) | (across <= 0).all(1)).float().unsqueeze(1)


def _elastic(mask: Tensor, longer: NDArray[np.float32], rng: Generator) -> Tensor:
    count, side_px, device = len(mask), mask.shape[-1], str(mask.device)
    strength = rng.uniform(0.005, 0.03, count) * longer
    coarse = rng.normal(0, 1, (count, 2, _ELASTIC_CELLS, _ELASTIC_CELLS)) * strength[:, None, None, None]
    shift = functional.interpolate(
        send(coarse.astype(np.float32), device), (side_px, side_px), mode="bicubic", align_corners=False
    )
    line = torch.arange(side_px, device=device, dtype=torch.float32)
    y, x = torch.meshgrid(line, line, indexing="ij")
    places = torch.stack([x + shift[:, 0], y + shift[:, 1]], 3)
    return functional.grid_sample(
        mask, 2 * places / (side_px - 1) - 1, mode="bilinear", padding_mode="zeros", align_corners=True
    )


def _soften(mask: Tensor, longer: NDArray[np.float32], rng: Generator) -> Tensor:
    """Blur twice by random kernels; the first blur is cut at its middle, so that the border wanders in or out."""
    count, side_px, device = len(mask), mask.shape[-1], str(mask.device)

    def blurred(picture: Tensor, least: float, most: float) -> Tensor:
        sigma = np.maximum(0.5, rng.uniform(least, most, count) * longer).astype(np.float32)
        matrix = resample.blur(send(sigma, device), side_px)
        return resample.apply(matrix, picture, matrix)

    first = blurred(mask, 0.005, 0.05)
    peak = first.amax((2, 3), keepdim=True)
    cut_at = send(rng.uniform(0, 0.4, count).astype(np.float32), device)[:, None, None, None]
    hard = (first / peak.clamp(min=1e-6) - cut_at).clamp(min=0)
    hard = hard / hard.amax((2, 3), keepdim=True).clamp(min=1e-6)
    second = blurred(hard, 0.004, 0.03).clamp(0, 1)
    return torch.where((second < _SMALLEST_WEIGHT) | (peak < 1e-3), 0.0, second)


def _match_colour(changed: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Give the donor the mean and spread of the target's colours inside the mask (Reinhard et al., 2001, in RGB)."""
    inside = (mask > 0.5).float()
    pixels = inside.sum((2, 3), keepdim=True)

    def moments(pictures: Tensor) -> tuple[Tensor, Tensor]:
        mean = (pictures * inside).sum((2, 3), keepdim=True) / pixels.clamp(min=1)
        spread = ((pictures - mean).square() * inside).sum((2, 3), keepdim=True) / pixels.clamp(min=1)
        return mean, spread.sqrt()

    (mine, my_spread), (theirs, their_spread) = moments(changed), moments(target)
    gain = ((their_spread + 1) / (my_spread + 1)).clamp(0.5, 2.0)
    matched = ((changed - mine) * gain + theirs).clamp(0, 255)
    return torch.where(pixels < 64, changed, matched)
