"""Lossy compression of a whole batch on the device: JPEG, and what the key frames of video codecs do to a picture.

JPEG's loss lies in colour subsampling and in rounding the cosine transform of 8 x 8 blocks; both are done as the
standard has them, and the lossless rest is left out. A video codec's key frame is imitated: 8 x 8 blocks, the same step
for every frequency with a wide dead zone, then smoothed block borders. It predicts nothing and is no H.264, but
it takes away the same fine texture.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_PX = 8
UNIT_PX = 16  # with colour at half the size, the smallest square that holds whole blocks

# Annex K of the JPEG standard (ITU-T T.81), as every encoder has them.
_LUMA = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_CHROMA = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, *(99,) * 32,
)  # fmt: skip
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
_DEAD_ZONE = 1 / 3  # rounding offset of H.264's reference encoder for key frames


class Compressor:
    """Holds the tables of one device.

    Args:
        device: A torch device name.
    """

    def __init__(self, device: str) -> None:
        frequency = torch.arange(BLOCK_PX, dtype=torch.float32)[:, None]
        place = torch.arange(BLOCK_PX, dtype=torch.float32)
        cosines = torch.cos((2 * place + 1) * frequency * math.pi / (2 * BLOCK_PX)) * math.sqrt(2 / BLOCK_PX)
        cosines[0] /= math.sqrt(2)
        self._cosines = cosines.to(device)
        to_ycc = torch.tensor(_TO_YCC)
        self._to_ycc, self._to_rgb = to_ycc.to(device), torch.linalg.inv(to_ycc).to(device)
        tables = torch.tensor([_LUMA, _CHROMA], dtype=torch.float32).view(2, BLOCK_PX, BLOCK_PX)
        self._tables = tables.to(device)

    def jpeg(self, pictures: Tensor, quality: Tensor) -> Tensor:
        """Compress float RGB pictures (n, 3, h, w) of 0 to 255; quality (n,) 1 to 100; sides are multiples of 16."""
        scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)
        tables = torch.floor((self._tables[None] * scale[:, None, None, None] + 50) / 100).clamp(1, 255)
        return self._through(pictures, tables, dead_zone=0.5)

    def key_frame(self, pictures: Tensor, crf: Tensor) -> Tensor:
        """Imitate a video codec's key frame; ``crf`` (n,) is H.264's rate factor, the rest is as in ``jpeg``."""
        # The quantiser's step doubles with every 6; colour is treated a little better at the coarse end. The offset was
        # measured: at it, face crops lose as much fine detail as they do to x264 at this rate factor.
        step = torch.exp2((crf + 3) / 6)
        steps = torch.stack([step, step.clamp(max=28.0)], 1)
        tables = steps[:, :, None, None].expand(-1, 2, BLOCK_PX, BLOCK_PX)
        worn = self._through(pictures, tables, dead_zone=_DEAD_ZONE)
        worn = smooth_borders(worn, step)
        return smooth_borders(worn.transpose(2, 3), step).transpose(2, 3)

    def _through(self, pictures: Tensor, tables: Tensor, *, dead_zone: float) -> Tensor:
        ycc = torch.einsum("kc,nchw->nkhw", self._to_ycc, pictures)
        luma = self._quantise(ycc[:, :1] - 128, tables[:, :1], dead_zone) + 128
        colour = self._quantise(functional.avg_pool2d(ycc[:, 1:], 2), tables[:, 1:], dead_zone)
        colour = functional.interpolate(colour, scale_factor=2.0, mode="bilinear", align_corners=False)
        rgb = torch.einsum("kc,nchw->nkhw", self._to_rgb, torch.cat([luma, colour], 1))
        return rgb.round().clamp(0, 255)

    def _quantise(self, planes: Tensor, tables: Tensor, dead_zone: float) -> Tensor:
        count, channels, height, width = planes.shape
        blocks = planes.reshape(count, channels, height // BLOCK_PX, BLOCK_PX, width // BLOCK_PX, BLOCK_PX)
        blocks = blocks.transpose(3, 4)
        waves = self._cosines @ blocks @ self._cosines.T
        steps = tables[:, :, None, None]
        levels = waves / steps
        waves = torch.floor(levels.abs() + dead_zone) * levels.sign() * steps
        blocks = self._cosines.T @ waves @ self._cosines
        return blocks.transpose(3, 4).reshape(planes.shape)


def smooth_borders(pictures: Tensor, step: Tensor) -> Tensor:
    """Smooth across vertical block borders, where the jump is small enough to come from quantising by ``step`` (n,)."""
    count, channels, height, width = pictures.shape
    blocks = pictures.reshape(count, channels, height, width // BLOCK_PX, BLOCK_PX)
    left, right = blocks[:, :, :, :-1], blocks[:, :, :, 1:]
    outer_left, inner_left = left[..., -2], left[..., -1]
    inner_right, outer_right = right[..., 0], right[..., 1]
    jump = (inner_left - inner_right).abs()
    is_made = (jump < step[:, None, None, None]).to(pictures.dtype)
    new_left = inner_left + is_made * ((outer_left + 2 * inner_left + inner_right) / 4 - inner_left)
    new_right = inner_right + is_made * ((outer_right + 2 * inner_right + inner_left) / 4 - inner_right)
    smooth = blocks.clone()
    smooth[:, :, :, :-1, -1] = new_left
    smooth[:, :, :, 1:, 0] = new_right
    return smooth.reshape(pictures.shape)
