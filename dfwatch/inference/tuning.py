"""Engine, precision and batch size for a network on a machine: by measurement, the fastest that agrees with float32."""

from __future__ import annotations

import copy
import dataclasses
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from dfwatch.errors import ModelError
from dfwatch.inference import cache
from dfwatch.inference.candidates import PRECISIONS, REFERENCE, Candidate, candidates
from dfwatch.inference.fresh import fresh_network
from dfwatch.inference.silence import silence_openvino
from dfwatch.inference.torch_engine import TorchEngine
from dfwatch.inference.trial import Probes, Trial

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from dfwatch.config import ModelSettings
    from dfwatch.inference.devices import DeviceChoice
    from dfwatch.inference.engine import Engine
    from dfwatch.models.facts import Bundle

# Largest change of p(fake) that another precision or engine may bring on the probe crops.
PRECISION_TOLERANCE = 0.02
# On two CPU cores torch was as fast with 8 as with 16 to 32, and a video's 20 crops fill 8 better (docs/models.md).
TORCH_CPU_BATCH = 8
OPENVINO_BATCH = 1
ACCELERATOR_BATCH_SIZES = (32, 64, 128, 256)
# Take a smaller batch when it reaches this share of the best rate: less waste when few crops wait.
GOOD_ENOUGH = 0.95
# No further way of running is tried after this long; what is at work is finished.
BUDGET_S = 3.0
# Quick networks are timed several times, for so long.
MORE_ROUNDS_S = 0.7
ROUNDS = 4
# Where 8 crops take longer than this, only they are compared, and no more.
SLOW_PASS_S = 1.5
# A first pass that took so many times the quickest one's is not repeated.
HOPELESS = 3.0


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was chosen, and what was measured on the way.

    Attributes:
        engine: ``torch`` or ``openvino``.
        precision: ``float32``, ``bfloat16`` or ``float16``.
        graph: Whether a batch is one CUDA graph.
        batch_size: Crops in each batch.
        precision_max_difference: Largest difference of p(fake) from torch's float32 on the probe crops, 0 to 1.
        batch_invariant: Whether the probe crops got bit-identical scores in other places, among other neighbours.
        crops_per_s: Rate of each way that was tried, at its batch size; on the CPU, with its cores to itself.
        passed_over: Why others were not taken, where it was not for their rate.
    """

    engine: str
    precision: str
    graph: bool
    batch_size: int
    precision_max_difference: float
    batch_invariant: bool
    crops_per_s: dict[str, float] = field(default_factory=dict)
    passed_over: dict[str, str] = field(default_factory=dict)

    @property
    def candidate(self) -> Candidate:
        """The way of running."""
        return Candidate(self.engine, self.precision, self.graph)


class Workshop:
    """Makes engines for one network on one device.

    Args:
        network: Float32, on the CPU, batch norm already folded; is not changed.
        bundle: Its facts.
        choice: The device.
        threads: CPU threads to use.
    """

    def __init__(self, network: nn.Module, bundle: Bundle, choice: DeviceChoice, threads: int) -> None:
        self._network = network
        self.bundle, self.choice, self.threads = bundle, choice, threads

    def engine(self, candidate: Candidate, batch_size: int) -> Engine:
        """An engine that has not run yet.

        Raises:
            LookupError: The network holds something that the engine does not know.
            RuntimeError: The engine does not take it, or cannot be loaded.
        """
        bundle = self.bundle
        if candidate.engine == "openvino":
            silence_openvino()
            try:
                from dfwatch.inference.openvino_engine import OpenVINOEngine  # noqa: PLC0415 - an extra
            except ImportError as exc:
                # Installed, and its libraries do not fit this system.
                raise RuntimeError(f"openvino cannot be loaded: {exc}") from exc

            return OpenVINOEngine(
                self._network,
                precision=candidate.precision,
                batch_size=batch_size,
                threads=self.threads,
                input_spec=bundle.input,
                output=bundle.output,
                explain=lambda: _torch_engine(fresh_network(bundle)[0], bundle, torch.device("cpu"), REFERENCE, 4),
            )
        return _torch_engine(copy.deepcopy(self._network), bundle, self.choice.device, candidate, batch_size)

    def warm_engine(self, candidate: Candidate, batch_size: int) -> Engine:
        """An engine whose first batch, which builds kernels and takes far longer, is behind it."""
        engine = self.engine(candidate, batch_size)
        side = self.bundle.input.size_px
        engine.scores(np.zeros((engine.at_once, side, side, 3), np.uint8))
        return engine


def tune(workshop: Workshop, settings: ModelSettings, cache_dir: Path | None) -> tuple[Engine, Tuning, bool]:
    """A warmed-up engine, what was measured, and whether an earlier start measured it.

    Raises:
        DeviceError: The engine that was asked for does not run on this device.
        MissingExtraError: It is not installed.
        ModelError: The network gives no finite scores, or the engine that was asked for does not take it.
        RuntimeError: The device failed.
    """
    offered = candidates(workshop.choice.device, settings)
    key = cache.key(workshop.bundle, workshop.choice, settings, workshop.threads)
    facts = cache.read(cache_dir, key)
    known = _checked(facts, offered)
    if known is not None and (engine := _as_before(workshop, known)) is not None:
        return engine, known, True
    engine, tuning = _Measurement(workshop, settings, offered).result()
    if known is None:
        cache.write(cache_dir, key, dataclasses.asdict(tuning))
    return engine, tuning, False


def _as_before(workshop: Workshop, known: Tuning) -> Engine | None:
    """The engine that an earlier start chose; None where it does not run now.

    Another program may fill the device at the moment. What is chosen for want of room is not kept for the next start.
    """
    try:
        return workshop.warm_engine(known.candidate, known.batch_size)
    except (LookupError, RuntimeError):
        return None


def _checked(facts: object, offered: tuple[Candidate, ...]) -> Tuning | None:
    """An earlier measurement from the cache's file; None if it is spoilt."""
    try:
        known = Tuning(**facts) if isinstance(facts, dict) else None
        usable = known is not None and 1 <= int(known.batch_size) <= 4096 and type(known.graph) is bool
        return known if known and usable and Candidate(known.engine, known.precision) in offered else None
    except (TypeError, ValueError):
        return None


class _Measurement:
    """Tries what is offered, as few batches as decide, and no longer than it has to."""

    def __init__(self, workshop: Workshop, settings: ModelSettings, offered: tuple[Candidate, ...]) -> None:
        self._workshop, self._settings, self._offered = workshop, settings, offered
        self._on_cpu = workshop.choice.device.type == "cpu"
        self._probes = Probes(workshop.bundle.crop)
        self._passed_over: dict[str, str] = {}
        self._reference = self._at_best_size(REFERENCE)
        self._deadline_s = time.monotonic() + BUDGET_S

    def result(self) -> tuple[Engine, Tuning]:
        """The engine that won, and how."""
        trials = self._tried()
        fit = [trial for trial in trials if self._fits(trial)]
        if not fit:
            raise self._refusal(trials)
        self._race(fit)
        best = self._recorded(self._best(fit))
        while not best.invariant and best.engine.batch_size > 1:
            best = self._trial(best.candidate, best.engine.batch_size // 2)
            best.run()
        rates = {str(trial.candidate): round(trial.rate, 1) for trial in (self._reference, *trials, best)}
        return best.engine, Tuning(
            engine=best.candidate.engine,
            precision=best.candidate.precision,
            graph=best.candidate.graph,
            batch_size=best.engine.batch_size,
            precision_max_difference=self._difference(best),
            batch_invariant=bool(best.invariant),
            crops_per_s=rates,
            passed_over=self._passed_over,
        )

    def _tried(self) -> list[Trial]:
        trials = []
        for candidate in self._offered:
            if candidate == REFERENCE:
                trials.append(self._reference)
                continue
            has_answer = REFERENCE in self._offered or any(self._fits(trial) for trial in trials)
            if has_answer and time.monotonic() > self._deadline_s:
                self._passed_over[str(candidate)] = "not tried: the others took all the time there was"
                continue
            try:
                trials.append(self._at_best_size(candidate))
            except (LookupError, RuntimeError) as exc:
                self._passed_over[str(candidate)] = _first_line(exc)
        return trials

    def _fits(self, trial: Trial) -> bool:
        return self._agrees(trial, trial.difference_from(self._reference))

    def _agrees(self, trial: Trial, difference: float) -> bool:
        if not trial.finite:
            self._passed_over[str(trial.candidate)] = "its scores are not finite"
            return False
        # Who asks for one precision gets it; the difference is recorded all the same.
        if self._settings.precision != "auto" and trial.candidate.precision != "float32":
            return True
        if difference > PRECISION_TOLERANCE:
            self._passed_over[str(trial.candidate)] = f"it differs from float32 by up to {difference:.2g}"
            return False
        return True

    def _race(self, fit: list[Trial]) -> None:
        """Time them; the further behind one lies, the less often."""
        quickest_s = min(trial.first_s * self._share(trial) for trial in fit)
        contenders = [trial for trial in fit if trial.first_s * self._share(trial) <= HOPELESS * quickest_s]
        contenders.sort(key=lambda trial: trial.rate, reverse=True)
        until_s = time.monotonic() + MORE_ROUNDS_S
        for turn in range(ROUNDS):
            for trial in contenders:
                lead = max((other.rate for other in contenders if other.timed), default=0.0)
                # The first pass is slower than those that follow, though hardly by half.
                if trial.rate * (1.3 if trial.timed else 2.0) >= lead and (turn == 0 or time.monotonic() < until_s):
                    trial.run()

    def _share(self, trial: Trial) -> float:
        """To compare passes of different numbers of crops."""
        return 1.0 / len(trial.scores)

    def _best(self, fit: list[Trial]) -> Trial:
        """The quickest that agrees with float32 on every probe crop, not only on those that all were tried with."""
        for trial in sorted(fit, key=lambda trial: trial.rate, reverse=True):
            if self._agrees(trial, self._difference(trial)):
                return trial
        raise self._refusal(fit)

    def _difference(self, trial: Trial) -> float:
        # On a machine where this would take long, the first crops must do.
        if trial.candidate == REFERENCE or self._reference.first_s > SLOW_PASS_S:
            return trial.difference_from(self._reference)
        return max(trial.difference_from(self._reference), trial.full_difference_from(self._reference))

    def _recorded(self, best: Trial) -> Trial:
        """The same as a CUDA graph, where that works and is quicker."""
        if best.invariant is None:
            best.run()
        if self._workshop.choice.device.type != "cuda":
            return best
        candidate = dataclasses.replace(best.candidate, graph=True)
        try:
            trial = self._trial(candidate, best.engine.batch_size)
            for _ in range(3):
                trial.run()
                best.run()
        except RuntimeError as exc:
            self._passed_over[str(candidate)] = _first_line(exc)
            return best
        good = trial.invariant or not best.invariant
        return trial if self._fits(trial) and good and trial.rate > best.rate else best

    def _at_best_size(self, candidate: Candidate) -> Trial:
        if self._settings.batch_size:
            return self._trial(candidate, self._settings.batch_size)
        if candidate.engine == "openvino":
            return self._trial(candidate, OPENVINO_BATCH)
        if self._on_cpu:
            return self._trial(candidate, TORCH_CPU_BATCH)
        trials: list[Trial] = []
        for batch_size in ACCELERATOR_BATCH_SIZES:
            try:
                trial = self._trial(candidate, batch_size)
                trial.run()
            except torch.OutOfMemoryError:
                if not trials:
                    raise
                break
            trials.append(trial)
        best_rate = max(trial.rate for trial in trials)
        return next(trial for trial in trials if trial.rate >= GOOD_ENOUGH * best_rate)

    def _trial(self, candidate: Candidate, batch_size: int) -> Trial:
        engine = self._workshop.engine(candidate, batch_size)
        return Trial(candidate, engine, self._probes, self._workshop.threads)

    def _refusal(self, trials: list[Trial]) -> ModelError:
        name, bundle = self._workshop.choice.name, self._workshop.bundle.id
        if not self._reference.finite or any(not trial.finite for trial in trials):
            precision = self._offered[0].precision if len(self._offered) == 1 else "any precision"
            return ModelError(
                "trying out the model",
                bundle,
                f"it gives scores that are not finite in {precision} on {name}",
                hint="dfwatch model verify examines the weights",
            )
        causes = "; ".join(f"{way}: {cause}" for way, cause in self._passed_over.items())
        return ModelError("trying out the model", bundle, causes, hint="set model.engine and model.precision to auto")


def _torch_engine(
    network: nn.Module, bundle: Bundle, device: torch.device, candidate: Candidate, batch_size: int
) -> TorchEngine:
    return TorchEngine(
        network,
        device=device,
        dtype=PRECISIONS[candidate.precision],
        batch_size=batch_size,
        input_spec=bundle.input,
        output=bundle.output,
        graph=candidate.graph,
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
