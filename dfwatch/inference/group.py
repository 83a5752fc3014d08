"""Several devices as one detector: each scores its share of the crops, all at the same time."""

from __future__ import annotations

import dataclasses
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dfwatch.detector import Detector, DeviceInfo
    from dfwatch.models.bundle import Bundle


class DetectorGroup:
    """One lane for each device; a crop gets the same score on each, because they are the same model of device.

    Args:
        detectors: One or more, of one bundle, as ``Detector.load_all`` makes them.
    """

    def __init__(self, detectors: Sequence[Detector]) -> None:
        self._detectors = tuple(detectors)
        self._lanes = ThreadPoolExecutor(len(self._detectors), thread_name_prefix="device")

    @property
    def bundle(self) -> Bundle:
        """The model and its facts."""
        return self._detectors[0].bundle

    @property
    def device(self) -> DeviceInfo:
        """The first device; ``reason`` names the others."""
        first, *others = (detector.device for detector in self._detectors)
        names = ", ".join(other.device for other in others)
        return dataclasses.replace(first, reason=f"{first.reason}, beside {names}, which are alike")

    def score(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As ``Detector.score``; whole batches go to the devices in turn."""
        shares = self._shares(len(crops))
        running = [
            self._lanes.submit(detector.score, crops[share])
            for detector, share in zip(self._detectors, shares, strict=False)
        ]
        # All of them end before an error of one is told: nobody must be left writing.
        for lane in running:
            lane.exception()
        return np.concatenate([lane.result() for lane in running])

    def heat_maps(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As ``Detector.heat_maps``, by the first device."""
        return self._detectors[0].heat_maps(crops)

    def _shares(self, count: int) -> list[slice]:
        """Which crops go to which device: neighbours, in whole batches, as evenly as they come."""
        size = self._detectors[0].device.batch_size
        batches = -(-count // size)
        lanes = max(1, min(len(self._detectors), batches))
        bounds = [round(lane * batches / lanes) * size for lane in range(lanes + 1)]
        return [slice(start, min(end, count)) for start, end in itertools.pairwise(bounds)]
