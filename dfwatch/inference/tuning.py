"""Precision and batch size for one network on one machine, by measurement: the fastest that agrees with float32."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import json
import os
import tempfile
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from dfwatch.errors import ModelError
from dfwatch.inference.engine import Engine
from dfwatch.models.probe import probe_crops

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from dfwatch.config import ModelSettings
    from dfwatch.inference.devices import DeviceChoice
    from dfwatch.models.facts import Bundle

# Largest change of p(fake) that a quicker precision may bring on the probe crops.
PRECISION_TOLERANCE = 0.02
# On two CPU cores 8 was as fast as 16 to 32, and a video's 20 crops fill it better (docs/models.md).
CPU_BATCH_SIZES = (8,)
ACCELERATOR_BATCH_SIZES = (32, 64, 128, 256)
# Take a smaller batch when it reaches this share of the best rate: less waste when few crops wait.
GOOD_ENOUGH = 0.95
MAX_DRAWN_PROBES = 24
CACHE_VERSION = 1

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was chosen, and what was measured on the way.

    Attributes:
        precision: ``float32``, ``bfloat16`` or ``float16``.
        batch_size: Crops in each batch.
        precision_max_difference: Largest difference of p(fake) from float32 on the probe crops, 0 to 1.
        batch_invariant: Whether the probe crops got bit-identical scores in other places, among other neighbours.
        crops_per_s: Rate of each precision that was tried, at its batch size.
        cached: Whether an earlier start measured this.
    """

    precision: str
    batch_size: int
    precision_max_difference: float
    batch_invariant: bool
    crops_per_s: dict[str, float] = field(default_factory=dict)
    cached: bool = False


def tune(
    network: nn.Module, bundle: Bundle, choice: DeviceChoice, settings: ModelSettings, cache_dir: Path | None
) -> tuple[Engine, Tuning]:
    """A warmed-up engine for the network (float32, on the CPU, batch norm already folded).

    Raises:
        ModelError: The scores are not finite in any precision that may be used.
    """
    key = _cache_key(bundle, choice, settings)
    known = _read_cache(cache_dir, key)
    if known is not None:
        engine = _engine(network, bundle, choice, known.precision, known.batch_size)
        engine.scores(probe_crops(1, bundle.input.size_px))  # the first batch builds kernels and takes far longer
        return engine, known
    engine, tuning = _measure(network, bundle, choice, settings)
    _write_cache(cache_dir, key, tuning)
    return engine, tuning


def _measure(
    network: nn.Module, bundle: Bundle, choice: DeviceChoice, settings: ModelSettings
) -> tuple[Engine, Tuning]:
    reference = _Trial(network, bundle, choice, "float32", settings)
    trials = {"float32": reference}
    best = reference
    for precision in _quicker_precisions(choice.device, settings):
        trial = _Trial(network, bundle, choice, precision, settings)
        trials[precision] = trial
        if not trial.finite:
            continue
        wanted = precision == settings.precision
        agrees = trial.difference_from(reference) <= PRECISION_TOLERANCE
        if wanted or (agrees and trial.rate > best.rate):
            best = trial
    if not best.finite:
        raise ModelError(
            "trying out the model",
            bundle.id,
            f"it gives scores that are not finite in {best.precision} on {choice.name}",
            hint="dfwatch model verify examines the weights",
        )
    rates = {name: round(trial.rate, 1) for name, trial in trials.items()}
    return best.engine, Tuning(
        precision=best.precision,
        batch_size=best.engine.batch_size,
        precision_max_difference=best.difference_from(reference),
        batch_invariant=best.invariant,
        crops_per_s=rates,
    )


def _quicker_precisions(device: torch.device, settings: ModelSettings) -> tuple[str, ...]:
    if settings.precision != "auto":
        return () if settings.precision == "float32" else (settings.precision,)
    if device.type == "cpu":
        return ("bfloat16",) if _cpu_has_bfloat16() else ()
    if device.type == "cuda":
        return ("float16", "bfloat16") if torch.cuda.is_bf16_supported(including_emulation=False) else ("float16",)
    return ("float16",) if device.type == "mps" else ("bfloat16", "float16")


def _cpu_has_bfloat16() -> bool:
    """Whether the CPU computes in bfloat16 itself; emulated, it is many times slower than float32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # torch has no public name for it


class _Trial:
    """The network in one precision: its best batch size and rate there, and its scores of the probe crops."""

    def __init__(
        self, network: nn.Module, bundle: Bundle, choice: DeviceChoice, precision: str, settings: ModelSettings
    ) -> None:
        self.precision = precision
        ladder = CPU_BATCH_SIZES if choice.device.type == "cpu" else ACCELERATOR_BATCH_SIZES
        if settings.batch_size:
            ladder = (settings.batch_size,)
        self.engine = _engine(copy.deepcopy(network), bundle, choice, precision, ladder[0])
        runs: list[_Run] = []
        for batch_size in ladder:
            try:
                runs.append(_Run(self.engine, batch_size))
            except torch.OutOfMemoryError:
                if not runs:
                    raise
                break
        best_rate = max(run.rate for run in runs)
        chosen = next(run for run in runs if run.rate >= GOOD_ENOUGH * best_rate)
        while not chosen.invariant and chosen.batch_size > 1:
            chosen = _Run(self.engine, chosen.batch_size // 2)
        self.engine.resize(chosen.batch_size)
        self.rate, self.invariant, self.scores = chosen.rate, chosen.invariant, chosen.scores

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.scores).all())

    def difference_from(self, reference: _Trial) -> float:
        count = min(len(self.scores), len(reference.scores))
        return float(np.max(np.abs(self.scores[:count] - reference.scores[:count])))


class _Run:
    """Two batches of one size. Half of the second are crops of the first, in other places, among other neighbours."""

    def __init__(self, engine: Engine, batch_size: int) -> None:
        engine.resize(batch_size)
        self.batch_size = batch_size
        half = batch_size // 2
        count = batch_size + half
        drawn = probe_crops(min(count, MAX_DRAWN_PROBES), engine.input_spec.size_px)
        probes = drawn[np.arange(count) % len(drawn)]
        first = engine.scores(probes[:batch_size])
        start = time.perf_counter()
        second = engine.scores(probes[half:][::-1])[::-1]
        self.rate = batch_size / (time.perf_counter() - start)
        self.scores: NDArray[np.float32] = np.concatenate([first[:half], second])
        self.invariant = bool(np.array_equal(first[half:], second[: batch_size - half]))


def _engine(network: nn.Module, bundle: Bundle, choice: DeviceChoice, precision: str, batch_size: int) -> Engine:
    return Engine(
        network,
        device=choice.device,
        dtype=_DTYPES[precision],
        batch_size=batch_size,
        input_spec=bundle.input,
        output=bundle.output,
    )


def _cache_key(bundle: Bundle, choice: DeviceChoice, settings: ModelSettings) -> str:
    facts = (
        CACHE_VERSION,
        bundle.weights_sha256,
        dataclasses.astuple(bundle.input),
        bundle.architecture,
        torch.__version__,
        str(choice.device),
        choice.name,
        torch.backends.cpu.get_cpu_capability(),
        torch.get_num_threads(),
        settings.precision,
        settings.batch_size,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _cache_path(cache_dir: Path, key: str) -> Path:
    return cache_dir / f"engine-{key}.json"


def _read_cache(cache_dir: Path | None, key: str) -> Tuning | None:
    """An earlier measurement; None when there is none, or none that can be read."""
    if cache_dir is None:
        return None
    try:
        found = json.loads(_cache_path(cache_dir, key).read_text(encoding="utf-8"))
        usable = found["precision"] in _DTYPES and 1 <= int(found["batch_size"]) <= 4096
        return Tuning(**found, cached=True) if usable else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write_cache(cache_dir: Path | None, key: str, tuning: Tuning) -> None:
    """Keep a measurement for the next start; a folder that cannot be written only costs that start its time."""
    if cache_dir is None:
        return
    facts = dataclasses.asdict(tuning)
    facts.pop("cached")
    with contextlib.suppress(OSError):
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=cache_dir, prefix=".engine-", delete=False, encoding="utf-8") as out:
            json.dump(facts, out)
        os.replace(out.name, _cache_path(cache_dir, key))
