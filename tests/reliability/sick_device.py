"""The real detector on a device that runs out of memory, or fails, when a file says so; loads torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from dfwatch.detector import Detector, DeviceInfo
from dfwatch.inference.torch_engine import TorchEngine
from tests.factories import bundle

BATCH = 8


class SickEngine(TorchEngine):
    """Scores as the scripted model does: the first value of a crop, in 255ths.

    Args:
        room: File with the number of crops that the device has memory for; or ``lost``: it fails.
    """

    def __init__(self, room: Path) -> None:  # nothing of the real one is set up: it only stands in its place
        self.device = torch.device("cuda:0")
        self.batch_size = BATCH
        self._room = room

    def resize(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def scores(self, crops: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        room = self._room.read_text()
        if room == "lost":
            raise RuntimeError("CUDA error: unspecified launch failure")
        results = []
        for start in range(0, len(crops), self.batch_size):
            if self.batch_size > int(room):
                raise torch.OutOfMemoryError("CUDA out of memory")
            results.append(crops[start : start + self.batch_size, 0, 0, 0].astype(np.float32) / 255)
        return np.concatenate(results)


def sick_detector(room: Path) -> Detector:
    """A detector on that device."""
    engine: Any = SickEngine(room)
    return Detector(bundle(), engine, DeviceInfo("cuda:0", "A sick device", "", "float32", 0.0, BATCH, True, 1, "x", 0))
