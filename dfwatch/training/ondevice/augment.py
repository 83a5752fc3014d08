"""The augmentation of ``dfwatch.training.augment`` for a whole batch on the device.

The host draws a table with a row for each picture; the device applies it. The settings are the same (``AugmentSpec``),
and so is the order: turn, cut, colour, rescale, blur, noise, compress, scale to the network's size. Compression is
imitated by ``compression``, so a picture never leaves the device.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from dfwatch.training.ondevice import resample
from dfwatch.training.ondevice.compression import UNIT_PX, Compressor
from dfwatch.training.ondevice.resident import send

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.random import Generator
    from numpy.typing import NDArray
    from torch import Tensor

    from dfwatch.training.augment import AugmentSpec
    from dfwatch.training.ondevice.resident import Stack

    Column = NDArray[np.float32]

_BORDER_BLUR_SHARE = 0.15  # half width of the blur of made-up surroundings, of the picture's longer side
_MIRRORED, _LAST_PIXEL, _BLURRED = range(3)  # kinds of surroundings
_BORDER_KINDS = 3
_INSIDE = -1


@dataclass(frozen=True, slots=True)
class Table:
    """Every random choice for n pictures; float32 arrays of shape (n,). Zero or one means: leave that step out.

    ``border`` is -1 where the window stays inside the picture, else the kind of surroundings.
    """

    zoom: Column
    shift_x: Column
    shift_y: Column
    border: Column
    flip: Column
    rotate_deg: Column
    shear: Column
    downscale: Column
    blur_sigma_px: Column
    noise_sigma: Column
    gain: Column
    bias: Column
    hue: Column
    saturation: Column
    jpeg_quality: Column
    crf: Column

    def rows(self, places: NDArray[np.int64]) -> Table:
        """Return a table of some of the rows, repeated where a place is repeated."""
        return Table(*(getattr(self, item.name)[places] for item in fields(self)))


def draw(spec: AugmentSpec, rng: Generator, count: int) -> Table:
    """Draw a table of ``count`` rows."""

    def between(limits: tuple[float, float]) -> Column:
        return rng.uniform(*limits, count).astype(np.float32)

    def around(reach: float) -> Column:
        return between((-reach, reach))

    def where(chosen: NDArray[np.bool_], values: Column, otherwise: float | Column = 0.0) -> Column:
        return np.where(chosen, values, otherwise).astype(np.float32)

    def chance(share: float) -> NDArray[np.bool_]:
        return rng.random(count) < share

    turned, coloured, padded, grey = map(
        chance, (spec.rotate_share, spec.colour_share, spec.pad_share, spec.grey_share)
    )
    # A lossy WebP is a VP8 key frame: here both codecs are one imitation, at rate factors of like harm (measured).
    webp = where(chance(spec.webp_share), 32 - np.float32(0.17) * between(spec.webp_quality))
    return Table(
        zoom=where(padded, between(spec.pad), between(spec.zoom)),
        shift_x=around(spec.shift),
        shift_y=around(spec.shift),
        border=where(padded, rng.integers(_BORDER_KINDS, size=count).astype(np.float32), _INSIDE),
        flip=chance(spec.flip_share).astype(np.float32),
        rotate_deg=where(turned, around(spec.rotate_deg)),
        shear=where(turned, around(spec.shear)),
        downscale=where(chance(spec.downscale_share), between(spec.downscale), 1.0),
        blur_sigma_px=where(chance(spec.blur_share), between(spec.blur_sigma_px)),
        noise_sigma=where(chance(spec.noise_share), between(spec.noise_sigma)),
        gain=where(coloured, 1 + around(spec.contrast), 1.0),
        bias=where(coloured, np.float32(127.5) * around(spec.brightness)),
        hue=where(coloured, around(spec.hue)),
        saturation=where(~grey, where(coloured, 1 + around(spec.saturation), 1.0)),
        jpeg_quality=where(chance(spec.jpeg_share), between(spec.jpeg_quality)),
        crf=where(chance(spec.h264_share), between(spec.h264_crf), webp),
    )


def working_px(rng: Generator, size_px: int, side_px: int) -> int:
    """Draw the side at which a batch is worn: compression happens to a video before the network's scaling does."""
    most = max(size_px, min(3 * size_px // 2, side_px))
    return -(-int(rng.integers(size_px, most + 1)) // UNIT_PX) * UNIT_PX


class Augmenter:
    """Applies tables on one device."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._compressor = Compressor(device)

    def __call__(
        self,
        table: Table,
        faces: Stack,
        work_px: int,
        size_px: int,
        generator: torch.Generator,
    ) -> Tensor:
        """Cut and wear pictures.

        Args:
            table: What to do to each.
            faces: The pictures.
            work_px: Side at which they are worn, a multiple of 16.
            size_px: Side of the result.
            generator: Of the noise.

        Returns:
            uint8 RGB of shape (n, size_px, size_px, 3).
        """
        turned = (table.rotate_deg != 0) | (table.shear != 0)
        pictures = self._some(faces.pictures, turned, lambda some, chosen: self._turn(some, table, faces, chosen))
        crops = self._cut(table, faces.with_pictures(pictures), work_px)
        matrices, offsets = colour_matrices(
            hue=table.hue, saturation=table.saturation, gain=table.gain, bias=table.bias
        )
        crops = torch.einsum("nkc,nchw->nkhw", self._send(matrices), crops)
        crops = (crops + self._send(offsets)[:, None, None, None]).clamp(0, 255)
        softened = (table.downscale < 1) | (table.blur_sigma_px > 0)
        crops = self._some(crops, softened, lambda some, chosen: self._soften(some, table, chosen))
        crops = self._some(
            crops, table.noise_sigma > 0, lambda some, chosen: self._noise(some, table.noise_sigma[chosen], generator)
        )
        crops = crops.round().clamp(0, 255)
        crops = self._some(
            crops,
            table.crf > 0,
            lambda some, chosen: self._compressor.key_frame(some, self._send(table.crf[chosen])),
        )
        crops = self._some(
            crops,
            table.jpeg_quality > 0,
            lambda some, chosen: self._compressor.jpeg(some, self._send(table.jpeg_quality[chosen])),
        )
        if work_px != size_px:
            whole = torch.full((1,), float(work_px), device=self._device)
            shrink = resample.cut(0 * whole, whole, whole, size_px, work_px)
            crops = resample.apply(shrink, crops, shrink)
        return crops.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def _send(self, array: NDArray[np.generic]) -> Tensor:
        return send(array, self._device)

    def _some(
        self,
        pictures: Tensor,
        chosen: NDArray[np.bool_],
        change: Callable[[Tensor, NDArray[np.int64]], Tensor],
    ) -> Tensor:
        """Change some pictures of a batch. The host knows which, so nothing waits for the device."""
        places = np.flatnonzero(chosen)
        if not len(places):
            return pictures
        there = self._send(places)
        return pictures.index_copy(0, there, change(pictures[there], places))

    def _turn(self, pictures: Tensor, table: Table, faces: Stack, chosen: NDArray[np.int64]) -> Tensor:
        angle = np.deg2rad(table.rotate_deg[chosen])
        back = np.stack([np.cos(angle), -np.sin(angle) + table.shear[chosen], np.sin(angle), np.cos(angle)], 1)
        origin = self._send(_centres(faces)[chosen])
        return warp(pictures, self._send(back).view(-1, 2, 2), origin, origin, self._send(faces.sizes[chosen]))

    def _cut(self, table: Table, faces: Stack, work_px: int) -> Tensor:
        pictures, sizes = faces.pictures, faces.sizes
        side = faces.windows[:, 2] * table.zoom
        inside = table.border == _INSIDE
        side = np.where(inside, np.minimum(side, sizes.min(1)), side)
        corner = _centres(faces) + side[:, None] * (np.stack([table.shift_x, table.shift_y], 1) - 0.5)
        fitted = np.clip(corner, 0, np.maximum(sizes[:, ::-1] - side[:, None], 0))
        left, top = np.where(inside[:, None], fitted, corner).astype(np.float32).T
        mirror = (table.border == _MIRRORED) | (table.border == _BLURRED)
        numbers = np.stack([top, left, side, sizes[:, 0], sizes[:, 1], table.flip, mirror], 1).astype(np.float32)

        def through(some: Tensor, which: Tensor, support: Tensor | None = None) -> Tensor:
            top, left, side, height, width, flip, mirror = which.unbind(1)
            stored_px, mirrored = some.shape[-1], mirror > 0
            rows = resample.cut(top, side, height, work_px, stored_px, mirror=mirrored, support=support)
            columns = resample.cut(
                left, side, width, work_px, stored_px, flip=flip > 0, mirror=mirrored, support=support
            )
            return resample.apply(rows, some, columns)

        sent = self._send(numbers)
        crops = through(pictures, sent)
        blurred = np.flatnonzero(table.border == _BLURRED)
        if not len(blurred):
            return crops
        there = self._send(blurred)
        some = sent[there]
        support = _BORDER_BLUR_SHARE * torch.maximum(some[:, 3], some[:, 4])
        own = (
            _inside(some[:, 0], some[:, 2], some[:, 3], work_px)[:, :, None]
            * (_inside(some[:, 1], some[:, 2], some[:, 4], work_px, some[:, 5] > 0)[:, None, :])
        )
        around = through(pictures[there], some, support)
        return crops.index_copy(0, there, torch.where(own[:, None], crops[there], around))

    def _soften(self, crops: Tensor, table: Table, chosen: NDArray[np.int64]) -> Tensor:
        work_px = crops.shape[-1]
        matrices = torch.matmul(
            resample.blur(self._send(table.blur_sigma_px[chosen]), work_px),
            resample.lose_detail(self._send(table.downscale[chosen]), work_px),
        )
        return resample.apply(matrices, crops, matrices)

    def _noise(self, crops: Tensor, sigma: Column, generator: torch.Generator) -> Tensor:
        shape = (len(sigma), 1, *crops.shape[2:])
        noise = torch.randn(shape, generator=generator, device=self._device)
        return crops + noise * self._send(sigma)[:, None, None, None]


def _centres(faces: Stack) -> NDArray[np.float32]:
    return (faces.windows[:, :2] + faces.windows[:, 2:] / 2).astype(np.float32)


def _inside(start: Tensor, side: Tensor, length: Tensor, out_px: int, flip: Tensor | None = None) -> Tensor:
    """Tell which of the result's pixels lie in the picture: bool (n, out_px)."""
    place = torch.arange(out_px, device=start.device, dtype=torch.float32).expand(len(start), out_px)
    if flip is not None:
        place = torch.where(flip[:, None], out_px - 1 - place, place)
    centre = start[:, None] + (place + 0.5) * (side / out_px)[:, None]
    return (centre >= 0) & (centre <= length[:, None])


def warp(pictures: Tensor, back: Tensor, origin: Tensor, goal: Tensor, sizes: Tensor) -> Tensor:
    """Move every pixel p of the result's picture from ``origin + back @ (p - goal)``; mirror what lies outside.

    Args:
        pictures: float32 (n, c, s, s).
        back: From the result to the picture: (n, 2, 2), for x and y.
        origin: A point of the picture in pixels, x and y, (n, 2).
        goal: Where it comes to lie, (n, 2).
        sizes: Height and width of each picture, (n, 2).
    """
    side_px = pictures.shape[-1]
    line = torch.arange(side_px, device=pictures.device, dtype=torch.float32)
    y, x = torch.meshgrid(line, line, indexing="ij")
    points = torch.stack([x, y], 2).expand(len(pictures), side_px, side_px, 2)
    moved = torch.einsum("nkc,nhwc->nhwk", back, points - goal[:, None, None]) + origin[:, None, None]
    last = (sizes.flip(1) - 1)[:, None, None]
    folded = moved.abs()
    folded = (last - (last - folded).abs()).clamp(min=torch.zeros_like(last), max=last)
    grid = 2 * folded / (side_px - 1) - 1
    return functional.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=True)


def colour_matrices(
    *,
    hue: NDArray[np.floating],
    saturation: NDArray[np.floating],
    gain: NDArray[np.floating],
    bias: NDArray[np.floating],
) -> tuple[NDArray[np.float32], Column]:
    """Return what turns hue, saturation, contrast and brightness: matrices (n, 3, 3) for RGB, and offsets (n,).

    Hue and saturation turn and stretch the plane of colour around grey; contrast works around middle grey, so that it
    alone does not darken a picture.
    """
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], np.float64)
    angle = 2 * np.pi * hue.astype(np.float64)
    middle = np.zeros((len(angle), 3, 3))
    middle[:, 0, 0] = 1
    middle[:, 1, 1] = middle[:, 2, 2] = saturation * np.cos(angle)
    middle[:, 2, 1] = saturation * np.sin(angle)
    middle[:, 1, 2] = -middle[:, 2, 1]
    matrices = np.linalg.inv(to_yiq) @ middle @ to_yiq * gain[:, None, None]
    return matrices.astype(np.float32), (128 * (1 - gain) + bias).astype(np.float32)
