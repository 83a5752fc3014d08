"""One way of running a network, tried out: its scores of the probe crops, its rate, and whether places matter."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import numpy as np

from dfwatch.inference.probe_faces import probe_faces

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from numpy.typing import NDArray

    from dfwatch.inference.candidates import Candidate
    from dfwatch.inference.engine import Engine
    from dfwatch.reading import CropSpec

MAX_DRAWN_PROBES = 24
_CPU_PROBES = 8


class Probes:
    """Crops to try engines with, drawn when first wanted.

    Args:
        spec: How the model's crops are cut.
    """

    def __init__(self, spec: CropSpec) -> None:
        self._spec = spec
        self._drawn: NDArray[np.uint8] | None = None

    def take(self, count: int) -> NDArray[np.uint8]:
        """``count`` crops; the same ones come again after ``MAX_DRAWN_PROBES``."""
        if self._drawn is None:
            self._drawn = probe_faces(MAX_DRAWN_PROBES, self._spec)
        return self._drawn[np.arange(count) % MAX_DRAWN_PROBES]


class Trial:
    """A candidate at one batch size. Making it scores its first crops, which is slow: kernels are built meanwhile.

    Args:
        candidate: What is tried.
        engine: The engine.
        probes: Where the crops come from.
        threads: CPU threads of the engine.

    Attributes:
        scores: p(fake) of the first probe crops.
        first_s: What the first pass cost.
        invariant: Whether crops got bit-identical scores in other places, among other neighbours; None: not looked at.

    Raises:
        torch.OutOfMemoryError: The device has no room for it.
        RuntimeError: It does not run.
    """

    def __init__(self, candidate: Candidate, engine: Engine, probes: Probes, threads: int) -> None:
        self.candidate, self.engine = candidate, engine
        self._clock = _clock(engine.device, threads)
        at_once = engine.at_once
        least = max(_CPU_PROBES, at_once) if engine.device.type == "cpu" else at_once
        # Whole turns only: what is filled up with black crops would count against the rate.
        self._count = math.ceil(least / at_once) * at_once
        self._probes = probes.take(self._count + self._count // 2)
        self._every_probe = probes.take(MAX_DRAWN_PROBES)
        self._full: NDArray[np.float32] | None = None
        self._seconds = math.inf
        self.scores = self._pass(self._probes[: self._count])
        self.first_s, self._seconds = self._seconds, math.inf
        self.invariant: bool | None = None

    @property
    def rate(self) -> float:
        """Crops a second, by the quickest pass so far."""
        return self._count / min(self._seconds, self.first_s)

    @property
    def timed(self) -> bool:
        """Whether there was a pass after the first."""
        return math.isfinite(self._seconds)

    @property
    def finite(self) -> bool:
        """Whether every score of a probe crop was a number, so far."""
        return all(bool(np.isfinite(scores).all()) for scores in (self.scores, self._full) if scores is not None)

    def run(self) -> None:
        """Another pass: half of its crops are those of the first one, in other places, among other neighbours."""
        half = self._count // 2
        scores = self._pass(self._probes[half:][::-1])[::-1]
        self.invariant = bool(np.array_equal(self.scores[half:], scores[: self._count - half]))

    def difference_from(self, reference: Trial) -> float:
        """Largest difference of p(fake) on the crops that both have scored."""
        count = min(len(self.scores), len(reference.scores))
        return float(np.max(np.abs(self.scores[:count] - reference.scores[:count])))

    def full_difference_from(self, reference: Trial) -> float:
        """``difference_from`` on every probe crop there is."""
        return float(np.max(np.abs(self._all_scores() - reference._all_scores())))

    def _all_scores(self) -> NDArray[np.float32]:
        if self._full is None:
            self._full = self.engine.scores(self._every_probe)
        return self._full

    def _pass(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        start_s = self._clock()
        scores = self.engine.scores(crops)
        self._seconds = min(self._seconds, max(self._clock() - start_s, 1e-6))
        return scores


def _clock(device: torch.device, threads: int) -> Callable[[], float]:
    """Seconds of work.

    On the CPU, processor time divided by threads: what the work would take if nothing else ran. By the wall clock, a
    batch took 3 times as long on a busy machine as a moment later, and the choice is kept for months. Processor time is
    also what an engine takes away from the decoders beside it.
    """
    return (lambda: time.process_time() / threads) if device.type == "cpu" else time.perf_counter
