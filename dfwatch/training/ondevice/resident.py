"""Every crop that a run needs, decoded once and kept on the device as bytes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from dfwatch.training.windows import reference_window

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from dfwatch.training.deck import Item

_CHUNK = 2048
Key = tuple[str, str, int]


def key_of(item: Item) -> Key:
    """Return what tells two stored pictures apart."""
    return item.pack.folder, item.record.shard, item.record.offset


@dataclass(frozen=True, slots=True)
class Stack:
    """Some pictures, ready to be changed.

    Attributes:
        pictures: float32 RGB on the device, 0 to 255, shape (n, 3, s, s), each in the upper left corner.
        sizes: Height and width of each in pixels, float32 (n, 2).
        windows: Reference windows: left, top and side in pixels, float32 (n, 3).
        landmarks: Five points in pixels, x and y, float32 (n, 5, 2); not finite where there are none.
    """

    pictures: Tensor
    sizes: NDArray[np.float32]
    windows: NDArray[np.float32]
    landmarks: NDArray[np.float32]

    def with_pictures(self, pictures: Tensor) -> Stack:
        """Return other pictures of the same faces in the same places."""
        return replace(self, pictures=pictures)


def join(stacks: Sequence[Stack]) -> Stack:
    """Put stacks together."""
    return Stack(
        torch.cat([stack.pictures for stack in stacks]),
        np.concatenate([stack.sizes for stack in stacks]),
        np.concatenate([stack.windows for stack in stacks]),
        np.concatenate([stack.landmarks for stack in stacks]),
    )


@dataclass(frozen=True, slots=True)
class Resident:
    """Decoded pictures and what the host must know of each.

    Attributes:
        pictures: uint8 RGB on the device, shape (n, side_px, side_px, 3); a picture lies in the upper left corner.
        sizes: Height and width of each in pixels, float32 (n, 2).
        windows: Reference windows: left, top and side in pixels, float32 (n, 3).
        landmarks: Five points in pixels, x and y, float32 (n, 5, 2); not finite where there are none.
        places: Where each stored picture is.
    """

    pictures: Tensor
    sizes: NDArray[np.float32]
    windows: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    places: dict[Key, int]

    @property
    def side_px(self) -> int:
        """Side of the stored squares."""
        return int(self.pictures.shape[1])

    def stack(self, items: Iterable[Item]) -> Stack:
        """Return some items' pictures."""
        places = np.array([self.places[key_of(item)] for item in items], np.int64)
        chosen = self.pictures[send(places, str(self.pictures.device))]
        pictures = chosen.permute(0, 3, 1, 2).float()
        return Stack(pictures, self.sizes[places], self.windows[places], self.landmarks[places])


def load(items: Iterable[Item], side_px: int, margin: float, shift_y: float, device: str) -> Resident:
    """Decode items, each once, in as many threads as there are cores.

    Args:
        items: What to keep; the same picture may come several times.
        side_px: Larger pictures are scaled down to this longer side.
        margin: Margin of the reference window.
        shift_y: Its downward shift.
        device: Where the pictures are kept: side_px * side_px * 3 bytes for each.
    """
    unique = {key_of(item): item for item in items}
    chosen = list(unique.values())
    count = len(chosen)
    sizes, windows = np.empty((count, 2), np.float32), np.empty((count, 3), np.float32)
    landmarks = np.full((count, 5, 2), np.nan, np.float32)
    pictures = torch.empty((count, side_px, side_px, 3), dtype=torch.uint8, device=device)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for start in range(0, count, _CHUNK):
            part = chosen[start : start + _CHUNK]
            squares = np.zeros((len(part), side_px, side_px, 3), np.uint8)
            for number, shape in enumerate(threads.map(_decode, part, squares)):
                place, record = start + number, part[number].record
                window = reference_window(record, shape, margin, shift_y)
                sizes[place] = shape
                windows[place] = window.left, window.top, window.side
                if len(record.landmarks) == 10:
                    landmarks[place] = np.array(record.landmarks, np.float32).reshape(5, 2) * (shape[1], shape[0])
            pictures[start : start + len(part)] = torch.from_numpy(squares)
    return Resident(pictures, sizes, windows, landmarks, {key: place for place, key in enumerate(unique)})


def send(array: NDArray[np.generic], device: str) -> Tensor:
    """Copy an array to a device; the copy to a GPU waits for nothing."""
    host = torch.from_numpy(np.ascontiguousarray(array))
    if device.startswith("cuda"):
        return host.pin_memory().to(device, non_blocking=True)
    return host.to(device)


def _decode(item: Item, square: NDArray[np.uint8]) -> tuple[int, int]:
    picture = item.picture()
    scale = square.shape[0] / max(picture.shape[:2])
    if scale < 1:
        size = (max(8, round(picture.shape[1] * scale)), max(8, round(picture.shape[0] * scale)))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    height, width = picture.shape[:2]
    square[:height, :width] = picture
    return height, width
