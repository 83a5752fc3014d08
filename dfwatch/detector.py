"""Crops to p(fake): one model bundle on the best device of the machine. Knows nothing of files or folders."""

from __future__ import annotations

import dataclasses
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from dfwatch.errors import DeviceError, ModelError
from dfwatch.inference.candidates import without_openvino
from dfwatch.inference.devices import DeviceChoice, choose_device_for, choose_devices
from dfwatch.inference.fresh import fresh_network
from dfwatch.inference.processor import usable_threads
from dfwatch.inference.torch_engine import TorchEngine
from dfwatch.inference.tuning import Workshop, tune
from dfwatch.models.bundle import Bundle, load_bundle

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from dfwatch.config import ModelSettings
    from dfwatch.inference.engine import Engine

_ACTION = "scoring crops"


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """Where and how the model runs, for the log, ``status`` and every sidecar.

    Attributes:
        device: torch's name of it: ``cpu``, ``cuda:0`` …
        name: The hardware's own name.
        reason: Why this device, in one sentence.
        precision: ``float32``, ``bfloat16`` or ``float16``.
        precision_max_difference: Largest difference of p(fake) from float32 on the probe crops, 0 to 1.
        batch_size: Crops in one batch, fixed while the service runs (halved when the device's memory runs out).
        batch_invariant: Whether a crop's score was found to be bit-identical wherever it stands in a batch.
        threads: CPU threads of the model.
        engine: What runs it, with versions.
        folded_norms: Batch norms that were folded into convolutions.
        crops_per_s: Measured rate of each way that was tried; on the CPU, with its cores to itself.
        measured: ``now`` or ``earlier`` (taken from the cache).
        passed_over: Why other ways were not taken, where it was not for their rate.
    """

    device: str
    name: str
    reason: str
    precision: str
    precision_max_difference: float
    batch_size: int
    batch_invariant: bool
    threads: int
    engine: str
    folded_norms: int
    crops_per_s: dict[str, float] = field(default_factory=dict)
    measured: str = "now"
    passed_over: dict[str, str] = field(default_factory=dict)


class Detector:
    """A loaded model. One detector has one device; ``load_all`` makes one for each device.

    Attributes:
        bundle: The facts of the model, with its calibration and thresholds (``score`` applies neither).
        device: Where and how it runs.
    """

    def __init__(self, bundle: Bundle, engine: Engine, device: DeviceInfo) -> None:
        self.bundle = bundle
        self.device = device
        self._engine = engine
        self._lock = threading.Lock()

    @classmethod
    def load(cls, bundle: Bundle | str | Path, settings: ModelSettings, *, cache_dir: Path | None = None) -> Detector:
        """Load a bundle's weights, choose device, precision and batch size, and warm up.

        Sets torch's number of CPU threads for the whole process.

        Args:
            bundle: A bundle, or the path of one, or of a bare ``df_model.pt``.
            settings: All but ``path`` is used.
            cache_dir: Where measurements are kept between starts; None: measure each time.

        Raises:
            BundleError: The bundle is unusable.
            CheckpointError: Its weights are.
            DeviceError: The device is not there, does not work, or has too little memory.
            MissingExtraError: ``engine`` is ``openvino``, and it is not installed.
            ModelError: The model gives no finite scores, or the engine that is asked for does not take it.
        """
        bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        return cls._on(bundle, choose_device_for(settings), settings, cache_dir)

    @classmethod
    def load_all(
        cls, bundle: Bundle | str | Path, settings: ModelSettings, *, cache_dir: Path | None = None
    ) -> tuple[Detector, ...]:
        """``load``, once for each device that ``model.device`` stands for; all give the same scores.

        Raises:
            ModelError: As ``load``.
        """
        bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        if settings.engine == "openvino":
            return (cls._on(bundle, choose_device_for(settings), settings, cache_dir),)
        choices = choose_devices(settings.device)
        first = cls._on(bundle, choices[0], settings, cache_dir)
        # What was measured on one holds for all: they are the same model, and must run in the same way.
        same = dataclasses.replace(
            settings, engine="torch", precision=first.device.precision, batch_size=first.device.batch_size
        )
        detectors = (first, *(cls._beside(bundle, choice, same, cache_dir) for choice in choices[1:]))
        least = min(detector.device.batch_size for detector in detectors)
        side = bundle.input.size_px
        for detector in detectors:
            if detector.device.batch_size > least:
                # The last bits of a score may depend on the size of the batches.
                detector._shrink(least)
                # A CUDA graph is recorded with the first batch, better now than while another device computes.
                detector._run(np.zeros((least, side, side, 3), np.uint8))
        return detectors

    @classmethod
    def _beside(cls, bundle: Bundle, choice: DeviceChoice, settings: ModelSettings, cache_dir: Path | None) -> Detector:
        """``_on`` for a further device, which another program may leave less room than there was on the first."""
        while True:
            try:
                return cls._on(bundle, choice, settings, cache_dir)
            except DeviceError as error:
                if not isinstance(error.__cause__, torch.OutOfMemoryError) or settings.batch_size == 1:
                    raise
            settings = dataclasses.replace(settings, batch_size=settings.batch_size // 2)

    @classmethod
    def _on(cls, bundle: Bundle, choice: DeviceChoice, settings: ModelSettings, cache_dir: Path | None) -> Detector:
        threads = settings.threads or usable_threads(torch.get_num_threads())
        torch.set_num_threads(threads)
        network, folded = fresh_network(bundle)
        try:
            engine, tuning, cached = tune(Workshop(network, bundle, choice, threads), settings, cache_dir)
        except torch.OutOfMemoryError as exc:
            hint = "set a smaller model.batch_size, or free the device's memory"
            raise DeviceError("loading the model on", choice.name, "out of memory", hint=hint, retryable=True) from exc
        except (RuntimeError, AssertionError) as exc:
            # timm asserts that the input has the size that its network was made for.
            raise _failure("trying out the model on", choice.device, choice.name, exc) from exc
        note = without_openvino(choice.device, settings)
        device = DeviceInfo(
            device=str(choice.device),
            name=choice.name,
            reason=choice.reason,
            precision=tuning.precision,
            precision_max_difference=tuning.precision_max_difference,
            batch_size=engine.batch_size,
            batch_invariant=tuning.batch_invariant,
            threads=threads,
            engine=f"{engine.runs} ({note})" if note else engine.runs,
            folded_norms=folded,
            crops_per_s=tuning.crops_per_s,
            measured="earlier" if cached else "now",
            passed_over=tuning.passed_over,
        )
        return cls(bundle, engine, device)

    def score(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Raw p(fake) of each crop; the same crop gets the same score whatever it comes with.

        Safe to call from several threads; the calls run one after the other.

        Args:
            crops: uint8 array of shape (n, size_px, size_px, 3), RGB, n >= 0, cut as ``bundle.crop`` says.

        Returns:
            float32 array of shape (n,), 0 to 1, not calibrated.

        Raises:
            ValueError: The array's shape or type is another.
            ModelError: A score is not finite.
            DeviceError: The device was lost or its memory does not suffice for one crop (retryable).
        """
        side = self.bundle.input.size_px
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != (side, side, 3):
            raise ValueError(f"crops are {crops.dtype} {crops.shape}, not uint8 (n, {side}, {side}, 3)")
        with self._lock:
            scores = self._run(crops)
        bad = int(np.count_nonzero(~np.isfinite(scores)))
        if bad:
            raise ModelError(
                _ACTION,
                self.bundle.id,
                f"{bad} of {len(scores)} scores are not finite ({self.device.precision} on {self.device.name})",
                hint="set model.precision to float32; dfwatch model verify examines the weights",
            )
        return scores

    def heat_maps(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Where in each crop the model found what speaks for FAKE (Grad-CAM); not proof of anything.

        Args:
            crops: As for ``score``; few, because each costs about as much as two scores.

        Returns:
            float32 array of shape (n, size_px, size_px), 0 to 1.

        Raises:
            ModelError: The network has no convolution, or its device had no room.
            DeviceError: The device was lost.
        """
        try:
            with self._lock:
                return self._engine.heat_maps(crops)
        except (LookupError, torch.OutOfMemoryError) as exc:
            raise ModelError("explaining crops", self.bundle.id, exc, hint="set evidence.heat_map to false") from exc
        except RuntimeError as exc:
            raise _failure("explaining crops on", self._engine.device, self.device.name, exc) from exc

    def _run(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        engine = self._engine
        while True:
            try:
                return engine.scores(crops)
            except torch.OutOfMemoryError as exc:
                if not isinstance(engine, TorchEngine) or engine.batch_size == 1:
                    raise DeviceError(
                        _ACTION,
                        self.device.name,
                        "its memory does not suffice for one crop",
                        hint="another program may fill the device's memory",
                        retryable=True,
                    ) from exc
            except RuntimeError as exc:
                raise _failure(_ACTION + " on", engine.device, self.device.name, exc) from exc
            # Outside the except block, so that the failed batch's tensors are gone by now.
            self._shrink(engine.batch_size // 2)

    def _shrink(self, batch_size: int) -> None:
        """Run batches of at most this size from now on."""
        engine = self._engine
        if engine.batch_size <= batch_size or not isinstance(engine, TorchEngine):
            return
        engine.resize(batch_size)
        if engine.device.type != "cpu":
            torch.get_device_module(engine.device).empty_cache()
        self.device = dataclasses.replace(self.device, batch_size=batch_size)


def _failure(action: str, device: torch.device, name: str, error: Exception) -> ModelError:
    cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if device.type == "cpu":
        return ModelError(action, name, cause, hint="dfwatch model verify examines the weights")
    return DeviceError(
        action, name, f"the device failed: {cause}", hint="a restart of the service gets it back", retryable=True
    )
