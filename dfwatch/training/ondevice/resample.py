"""Resampling as matrices: cut, flip, scale and blur squares of a batch, each picture in its own way, in two products.

Every such step is linear and works on rows and columns apart, so for each picture there is one matrix for each axis,
and the result is ``rows @ picture @ columns.T``. Matrices of later steps can be multiplied into those of earlier ones.
All tensors are float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def apply(rows: Tensor, pictures: Tensor, columns: Tensor) -> Tensor:
    """Resample pictures (n, c, h, w) by matrices (n, out_h, h) and (n, out_w, w) into (n, c, out_h, out_w)."""
    return torch.matmul(torch.matmul(rows.unsqueeze(1), pictures), columns.transpose(1, 2).unsqueeze(1))


def cut(
    start: Tensor,
    side: Tensor,
    length: Tensor,
    out_px: int,
    in_px: int,
    *,
    flip: Tensor | None = None,
    mirror: Tensor | None = None,
    support: Tensor | None = None,
) -> Tensor:
    """Return the matrices (n, out_px, in_px) that cut and scale a stretch of a line.

    Linear interpolation where the stretch grows, a triangle of the output pixel's width where it shrinks.

    Args:
        start: Where the stretch begins, in pixels, shape (n,); pixel k reaches from k to k + 1.
        side: Its length, in pixels, shape (n,).
        length: How many of the ``in_px`` pixels are the picture, shape (n,).
        out_px: Pixels of the result.
        in_px: Pixels of the line.
        flip: Where true (n,), the result is turned round.
        mirror: Where true (n,), what lies beyond the picture is its mirror image, up to its own length away; else, and
            beyond that, it is the picture's last pixel.
        support: Least half width of the triangle in pixels, shape (n,); a large one blurs.
    """
    device = start.device
    place = torch.arange(out_px, device=device, dtype=torch.float32).expand(len(start), out_px)
    if flip is not None:
        place = torch.where(flip[:, None], out_px - 1 - place, place)
    scale = side / out_px
    centre = start[:, None] + (place + 0.5) * scale[:, None] - 0.5
    last = (length - 1)[:, None]
    if mirror is not None:
        folded = centre.abs()
        folded = last - (last - folded).abs()
        centre = torch.where(mirror[:, None], folded, centre)
    centre = centre.clamp(min=torch.zeros_like(last), max=last)
    width = scale.clamp(min=1.0)
    if support is not None:
        width = torch.maximum(width, support)
    column = torch.arange(in_px, device=device, dtype=torch.float32)
    weights = (1 - (centre[:, :, None] - column).abs() / width[:, None, None]).clamp(min=0)
    weights = weights * (column < length[:, None])[:, None, :]
    return weights / weights.sum(2, keepdim=True)


def blur(sigma: Tensor, size_px: int) -> Tensor:
    """Return Gaussian matrices (n, size_px, size_px); ``sigma`` (n,) in pixels, 0 leaves a picture as it is."""
    place = torch.arange(size_px, device=sigma.device, dtype=torch.float32)
    apart = (place[:, None] - place).square()
    weights = torch.exp(-apart / (2 * sigma.clamp(min=1e-2).square())[:, None, None])
    return weights / weights.sum(2, keepdim=True)


def lose_detail(share: Tensor, size_px: int) -> Tensor:
    """Return matrices (n, size_px, size_px) that scale down to a ``share`` (n,) of the size and up again."""
    small = (share * size_px).round().clamp(min=8, max=size_px)
    whole = torch.full_like(share, float(size_px))
    zero = torch.zeros_like(share)
    # A line of ``small`` pixels lies at the beginning of one of ``size_px``; what follows it is empty.
    place = torch.arange(size_px, device=share.device, dtype=torch.float32)
    down = _scaled(small, whole, size_px) * (place < small[:, None])[:, :, None]
    return torch.matmul(cut(zero, small, small, size_px, size_px), down)


def _scaled(out: Tensor, side: Tensor, size_px: int) -> Tensor:
    """Matrices whose first ``out`` rows scale a line of ``side`` pixels down to ``out``; ``out`` differs by picture."""
    place = torch.arange(size_px, device=out.device, dtype=torch.float32)
    scale = side / out
    centre = (place + 0.5) * scale[:, None] - 0.5
    centre = centre.clamp(max=float(size_px - 1))
    weights = (1 - (centre[:, :, None] - place).abs() / scale.clamp(min=1.0)[:, None, None]).clamp(min=0)
    return weights / weights.sum(2, keepdim=True)
