"""The training loop: one recipe, one folder, stopped and resumed at will."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dfwatch.errors import TrainingError
from dfwatch.models import architectures
from dfwatch.training.batches import plain_crops
from dfwatch.training.deck import FAKE, Item, Pools, data_digest
from dfwatch.training.feeding import Feed
from dfwatch.training.metrics import auc
from dfwatch.training.objective import Objective, Teaching
from dfwatch.training.optim import Averaged, build_optimizer, learning_rate
from dfwatch.training.pretrained import load_initial, quiet_classifier
from dfwatch.training.weights_files import read_best, save_best, save_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from dfwatch.training.ondevice.batches import TensorBatch
    from dfwatch.training.recipe import Recipe

CHECKPOINT_NAME = "checkpoint.pt"
LOG_NAME = "log.jsonl"
_ENDING_S = 3.0  # kept for what comes after the loop: the bundle
LABEL_ORDER = ("REAL", "FAKE")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What may differ between two pieces of the same run without changing what is learned.

    Attributes:
        folder: Where checkpoint, log and best weights are kept.
        device: A torch device name.
        workers: Loader processes; 0 makes the batches in the training process.
        threads: CPU threads of torch; 0 leaves torch's choice.
        stop_at: Stop with a checkpoint before the monotonic clock shows this; None: run to the end.
        stop_asked: Asked between two steps, and between two pieces of the teacher's first look, whether to stop there.
        parts_folder: Also keep the best weights (in parts, in half precision), the log and the groups trained on there,
            to be carried away.
        checkpoint_every_s: Seconds between two checkpoints.
        log_every: Steps between two lines of the log.
    """

    folder: str
    device: str = "cpu"
    workers: int = 1
    threads: int = 0
    stop_at: float | None = None
    stop_asked: Callable[[], bool] = lambda: False
    parts_folder: str = ""
    checkpoint_every_s: float = 120.0
    log_every: int = 50

    def must_stop(self, needed_s: float) -> bool:
        """Whether somebody asked to stop, or there is less time left than ``needed_s``."""
        return self.stop_asked() or (self.stop_at is not None and time.monotonic() + needed_s > self.stop_at)


@dataclass(slots=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    best_auc: float = 0.0
    best_step: int = 0
    finished: bool = False


class Normaliser:
    """Turns uint8 RGB crops (n, h, w, 3) into normalised float32 channels_last tensors (n, 3, h, w) on a device."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: str) -> None:
        self._device = device
        self._mean = torch.tensor([255 * value for value in mean], device=device).view(1, 3, 1, 1)
        self._std = torch.tensor([255 * value for value in std], device=device).view(1, 3, 1, 1)

    def __call__(self, crops: Tensor) -> Tensor:
        """Return the network's input."""
        pixels = crops.to(self._device, non_blocking=True).permute(0, 3, 1, 2).float()
        return ((pixels - self._mean) / self._std).contiguous(memory_format=torch.channels_last)


class Trainer:
    """Train one recipe in one folder; picks up where the folder's checkpoint stopped.

    Args:
        recipe: What to do.
        options: Where and how.
        pools: The training part of the data.
        measured: Held-out items on which the weights are selected.
        teaching: For recipes with a teacher.
    """

    def __init__(
        self,
        recipe: Recipe,
        options: RunOptions,
        pools: Pools,
        measured: Sequence[Item],
        teaching: Teaching | None = None,
    ) -> None:
        self.recipe, self.options = recipe, options
        self.taught_by = "" if teaching is None else teaching.by
        if teaching is not None and teaching.hints is not None:
            teaching = dataclasses.replace(teaching, hints=teaching.hints.to(options.device))
        if options.threads:
            torch.set_num_threads(options.threads)
        torch.manual_seed(recipe.seed)
        # Trying every kernel took minutes for grouped convolutions in bfloat16, and never paid for itself.
        torch.backends.cudnn.benchmark = False
        torch.set_float32_matmul_precision("high" if options.device.startswith("cuda") else "highest")
        self.network = architectures.build(recipe.architecture.name, recipe.architecture.options)
        quiet_classifier(self.network)
        self.taken_over = load_initial(self.network, recipe)
        self.network.to(options.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.objective = Objective(recipe, self.network, teaching).to(options.device)
        self.optimizer = build_optimizer([self.network, self.objective], recipe)
        self.averaged = Averaged(self.network, recipe.ema_decay)
        self.progress = Progress()
        self.normalise = Normaliser(recipe.norm.mean, recipe.norm.std, options.device)
        self.feed = Feed(recipe, pools, options.device, options.workers)
        self.groups = pools.groups
        self.measured = list(measured)
        self._data = data_digest(pools, self.measured)
        self._crops_px = 0
        self._crops = np.empty((0, 0, 0, 3), np.uint8)
        # Losses of the steps since the last look at them, summed on the device so that no step waits for it.
        self._losses = torch.zeros((), device=options.device)
        self._saving_s, self._measuring_s = 2.0, 0.0
        self._step_s, self._step_crops = 0.0, 1
        os.makedirs(options.folder, exist_ok=True)
        self._resume()

    def run(self, report: Callable[[dict[str, Any]], None] = lambda _: None) -> Progress:
        """Train until the recipe, the patience or the time is at its end; a checkpoint is left in every case.

        Raises:
            TrainingError: When the loss is no longer a number; the checkpoint stays that of before.
        """
        recipe, options, progress = self.recipe, self.options, self.progress
        last_saved = window_began = time.monotonic()
        waited_s, crops_seen, steps_seen = 0.0, 0, 0
        batches = self.feed.batches(range(progress.step, recipe.total_steps))
        while progress.step < recipe.total_steps and not progress.finished and not self._must_stop():
            asked = time.monotonic()
            batch = next(batches)
            waited_s += time.monotonic() - asked
            self._step(batch)
            self._step_s, self._step_crops = time.monotonic() - asked, len(batch.labels)
            crops_seen += len(batch.labels)
            steps_seen += 1
            progress.step += 1
            measures = progress.step % recipe.measure_every == 0 or progress.step == recipe.total_steps
            if progress.step % options.log_every == 0:
                loss = self._mean_loss(steps_seen)
                span_s = time.monotonic() - window_began
                report(
                    self._log(
                        event="train",
                        step=progress.step,
                        of=recipe.total_steps,
                        loss=round(loss, 4),
                        lr=learning_rate(recipe, progress.step - 1),
                        crops_per_s=round(crops_seen / span_s, 1),
                        waiting_for_data=round(waited_s / span_s, 3),
                        left_s=round((recipe.total_steps - progress.step) * span_s / steps_seen),
                    )
                )
            if measures:
                report(self._measure())
                self.save()
                last_saved = time.monotonic()
            elif time.monotonic() - last_saved > options.checkpoint_every_s:
                self.save()
                last_saved = time.monotonic()
            if measures or progress.step % options.log_every == 0:
                self._losses.zero_()
                waited_s, crops_seen, steps_seen, window_began = 0.0, 0, 0, time.monotonic()
        progress.finished = progress.finished or progress.step >= recipe.total_steps
        self.save()
        return progress

    def _must_stop(self) -> bool:
        """Whether somebody asked for it, or the time is just enough to leave everything in order."""
        needed_s = _ENDING_S + self._saving_s + self._step_s
        if (self.progress.step + 1) % self.recipe.measure_every == 0:
            # A crop costs less to measure than to train on, so before the first measurement that is a bound.
            guess_s = len(self.measured) * self._step_s / self._step_crops
            needed_s += (self._measuring_s or guess_s) + self._saving_s
        return self.options.must_stop(needed_s)

    def _mean_loss(self, steps: int) -> float:
        """Look at the device: the mean loss of the last steps.

        Raises:
            TrainingError: When it is not finite.
        """
        loss = float(self._losses) / max(1, steps)
        if not math.isfinite(loss):
            where = f"the loss is {loss} in the steps before {self.progress.step}"
            raise TrainingError("training", self.recipe.id, where, hint="lower optim.lr")
        return loss

    def _step(self, batch: TensorBatch) -> None:
        recipe = self.recipe
        # The seed of dropout depends on nothing but the step, so a resumed run repeats it.
        torch.manual_seed(recipe.seed * 1_000_003 + self.progress.step)
        rate = learning_rate(recipe, self.progress.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        with self._autocast():
            logits = self.network(self.normalise(batch.crops))
        loss: Tensor = self.objective(logits.float(), batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if recipe.optim.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.optim.clip_norm)
        self.optimizer.step()
        self.averaged.update(self.progress.step)
        self._losses += loss.detach()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.recipe.precision != "bfloat16":
            return contextlib.nullcontext()
        return torch.autocast(self.options.device.partition(":")[0], torch.bfloat16)

    def score(self, crops: NDArray[np.uint8], batch_size: int = 64) -> NDArray[np.float64]:
        """Return logit differences FAKE - REAL of the averaged weights for uint8 RGB crops (n, h, w, 3)."""
        current = {key: value.clone() for key, value in self.network.state_dict().items()}
        self.network.load_state_dict(self.averaged.state)
        self.network.eval()
        scores = []
        with torch.inference_mode(), self._autocast():
            for start in range(0, len(crops), batch_size):
                part = torch.from_numpy(crops[start : start + batch_size])
                logits = self.network(self.normalise(part)).float()
                scores.append((logits[:, FAKE] - logits[:, 1 - FAKE]).cpu().numpy())
        self.network.load_state_dict(current)
        return np.concatenate(scores).astype(np.float64)

    def _measure(self) -> dict[str, Any]:
        recipe, progress = self.recipe, self.progress
        if not self.measured:
            return self._log(event="measure", step=progress.step, auc=None)
        began = time.monotonic()
        size_px = recipe.stage_at(progress.step - 1).size_px
        if size_px != self._crops_px:
            self._crops = plain_crops(self.measured, size_px, recipe.data.margin, recipe.data.shift_y)
            self._crops_px = size_px
        labels = np.array([int(item.record.is_fake) for item in self.measured], np.int64)
        self._mean_loss(1)
        scores = self.score(self._crops)
        value = auc(labels, scores)
        loss = float(np.mean(np.logaddexp(0, np.where(labels == 1, -scores, scores))))
        if value > progress.best_auc or not progress.best_step:
            progress.best_auc, progress.best_step = value, progress.step
            self._save_best()
        elif recipe.patience and progress.step - progress.best_step >= recipe.patience * recipe.measure_every:
            progress.finished = True
        self._measuring_s = time.monotonic() - began
        return self._log(
            event="measure",
            step=progress.step,
            size_px=size_px,
            auc=round(value, 4),
            accuracy=round(float(np.mean((scores > 0) == (labels == 1))), 4),
            loss=round(loss, 4),
            best_auc=round(progress.best_auc, 4),
            best_step=progress.best_step,
            crops=len(labels),
            took_s=round(self._measuring_s, 1),
        )

    def _log(self, **entry: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON values
        entry["time_s"] = round(time.time())
        with open(os.path.join(self.options.folder, LOG_NAME), "a+b") as stream:
            # A kill may have left half a line.
            torn = stream.tell() and os.pread(stream.fileno(), 1, stream.tell() - 1) != b"\n"
            stream.write(b"\n" * bool(torn) + json.dumps(entry).encode() + b"\n")
        return entry

    def _save_best(self) -> None:
        save_best(self.options.folder, self.averaged.state)
        if self.options.parts_folder:
            save_parts(self.options.parts_folder, self.averaged.state)

    def save(self) -> None:
        """Write the checkpoint; it replaces the old one only when it is whole.

        Raises:
            TrainingError: When the losses since the last look are not finite: such weights must not replace good ones.
        """
        began = time.monotonic()
        self._mean_loss(1)
        path = os.path.join(self.options.folder, CHECKPOINT_NAME)
        torch.save(
            {
                "recipe": self.recipe.digest(),
                "teacher": self.taught_by,
                "data": self._data,
                "step": self.progress.step,
                "best_auc": self.progress.best_auc,
                "best_step": self.progress.best_step,
                "finished": self.progress.finished,
                "network": self.network.state_dict(),
                "averaged": self.averaged.state,
                "objective": self.objective.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            },
            f"{path}.part",
        )
        os.replace(f"{path}.part", path)
        if self.options.parts_folder:
            os.makedirs(self.options.parts_folder, exist_ok=True)
            log = os.path.join(self.options.folder, LOG_NAME)
            if os.path.exists(log):
                shutil.copyfile(log, os.path.join(self.options.parts_folder, LOG_NAME))
        self._saving_s = max(self._saving_s, time.monotonic() - began)

    def _resume(self) -> None:
        path = os.path.join(self.options.folder, CHECKPOINT_NAME)
        if not os.path.exists(path):
            return
        saved = torch.load(path, map_location=self.options.device, weights_only=True)
        if saved["recipe"] != self.recipe.digest():
            raise TrainingError(
                "resuming the run in", self.options.folder, "it was begun with another recipe", hint="use a new folder"
            )
        if saved["teacher"] != self.taught_by:
            raise TrainingError(
                "resuming the run in", self.options.folder, "it was begun with another teacher", hint="use a new folder"
            )
        if saved.get("data", self._data) != self._data:
            raise TrainingError(
                "resuming the run in",
                self.options.folder,
                "it was begun on other data: other packs, another split, or another --exclude",
                hint="give the same ones, or use a new folder",
            )
        # Checkpoints older than the objective lack it; only one without weights of its own can go on from there.
        objective = saved.get("objective", {})
        if objective.keys() != self.objective.state_dict().keys():
            raise TrainingError(
                "resuming the run in",
                self.options.folder,
                "its checkpoint lacks the objective",
                hint="use a new folder",
            )
        self.network.load_state_dict(saved["network"])
        self.averaged.load(saved["averaged"])
        self.objective.load_state_dict(objective)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.progress = Progress(saved["step"], saved["best_auc"], saved["best_step"], saved["finished"])
        best = read_best(self.options.folder)
        if self.options.parts_folder and best is not None:
            # What is carried away from this piece must not depend on whether it finds anything better.
            save_parts(self.options.parts_folder, best)
