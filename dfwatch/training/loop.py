"""The training loop: one recipe, one folder, stopped and resumed at will."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from dfwatch.errors import TrainingError
from dfwatch.models import architectures
from dfwatch.training.batches import (
    FAKE,
    UNLABELLED,
    Batch,
    BatchMaker,
    Item,
    Pools,
    open_items,
    open_pools,
    plain_crops,
)
from dfwatch.training.metrics import auc
from dfwatch.training.optim import Averaged, build_optimizer, learning_rate
from dfwatch.training.pretrained import load_initial, quiet_classifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from dfwatch.training.recipe import Recipe

CHECKPOINT_NAME = "checkpoint.pt"
BEST_NAME = "best.safetensors"
LOG_NAME = "log.jsonl"
LABEL_ORDER = ("REAL", "FAKE")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What may differ between two pieces of the same run without changing what is learned.

    Attributes:
        folder: Where checkpoint, log and best weights are kept.
        device: A torch device name.
        workers: Loader processes; 0 makes the batches in the training process.
        threads: CPU threads of torch; 0 leaves torch's choice.
        max_seconds: Stop with a checkpoint after this time; 0: run to the end.
        checkpoint_every_s: Seconds between two checkpoints.
        log_every: Steps between two lines of the log.
    """

    folder: str
    device: str = "cpu"
    workers: int = 1
    threads: int = 0
    max_seconds: float = 0.0
    checkpoint_every_s: float = 120.0
    log_every: int = 50


@dataclass(slots=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    best_auc: float = 0.0
    best_step: int = 0
    finished: bool = False


def to_input(
    crops: NDArray[np.uint8] | Tensor, recipe_mean: Sequence[float], recipe_std: Sequence[float], device: str
) -> Tensor:
    """Turn uint8 RGB crops (n, h, w, 3) into a normalised float32 channels_last tensor (n, 3, h, w)."""
    pixels = torch.as_tensor(crops).to(device, non_blocking=True).permute(0, 3, 1, 2).float()
    mean = torch.tensor([255 * value for value in recipe_mean], device=device).view(1, 3, 1, 1)
    std = torch.tensor([255 * value for value in recipe_std], device=device).view(1, 3, 1, 1)
    return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)


class Trainer:
    """Train one recipe in one folder; picks up where the folder's checkpoint stopped.

    Args:
        recipe: What to do.
        options: Where and how.
        pools: The training part of the data.
        measured: Held-out items on which the weights are selected.
        teacher: Takes uint8 RGB crops and returns logits (n, 2) in our label order; for recipes with a teacher.
    """

    def __init__(
        self,
        recipe: Recipe,
        options: RunOptions,
        pools: Pools,
        measured: Sequence[Item],
        teacher: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if recipe.teacher is not None and teacher is None:
            raise TrainingError("training", recipe.id, "the recipe wants a teacher and none was given")
        self.recipe, self.options, self.teacher = recipe, options, teacher
        if options.threads:
            torch.set_num_threads(options.threads)
        torch.manual_seed(recipe.seed)
        torch.backends.cudnn.benchmark = True  # one shape for each stage: measure the kernels once
        self.network = architectures.build(recipe.architecture.name, recipe.architecture.options)
        quiet_classifier(self.network)
        self.taken_over = load_initial(self.network, recipe)
        self.network.to(options.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = build_optimizer(self.network, recipe)
        self.averaged = Averaged(self.network, recipe.ema_decay)
        self.progress = Progress()
        self.maker = BatchMaker(recipe, pools)
        self.measured = list(measured)
        self.stop_requested = False
        self._crops_px = 0
        self._crops = np.empty((0, 0, 0, 3), np.uint8)
        os.makedirs(options.folder, exist_ok=True)
        self._resume()

    def run(self, report: Callable[[dict[str, Any]], None] = lambda _: None) -> Progress:
        """Train until the recipe, the patience or the time is at its end; a checkpoint is left in every case."""
        recipe, options, progress = self.recipe, self.options, self.progress
        began = last_saved = window_began = time.monotonic()
        losses: list[float] = []
        waited_s, crops_seen = 0.0, 0
        batches = self._batches()
        while progress.step < recipe.total_steps and not progress.finished:
            asked = time.monotonic()
            batch = next(batches)
            waited_s += time.monotonic() - asked
            losses.append(self._step(batch))
            crops_seen += len(batch.labels)
            progress.step += 1
            now = time.monotonic()
            if progress.step % options.log_every == 0:
                span_s = now - window_began
                rate = crops_seen / span_s
                report(
                    self._log(
                        event="train",
                        step=progress.step,
                        of=recipe.total_steps,
                        loss=round(float(np.mean(losses)), 4),
                        lr=learning_rate(recipe, progress.step - 1),
                        crops_per_s=round(rate, 1),
                        waiting_for_data=round(waited_s / span_s, 3),
                        left_s=round((recipe.total_steps - progress.step) * span_s / len(losses)),
                    )
                )
                losses, waited_s, crops_seen, window_began = [], 0.0, 0, now
            if progress.step % recipe.measure_every == 0 or progress.step == recipe.total_steps:
                report(self._measure())
                window_began = time.monotonic()
                losses, waited_s, crops_seen = [], 0.0, 0
                self.save()
                last_saved = time.monotonic()
            elif now - last_saved > options.checkpoint_every_s:
                self.save()
                last_saved = now
            if self.stop_requested or (options.max_seconds and now - began > options.max_seconds):
                break
        progress.finished = progress.finished or progress.step >= recipe.total_steps
        self.save()
        return progress

    def _batches(self) -> Iterator[Batch]:
        steps = range(self.progress.step, self.recipe.total_steps)
        if not self.options.workers:
            yield from (self.maker[step] for step in steps)
            return
        loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
            self.maker,  # type: ignore[arg-type]
            batch_size=None,
            sampler=steps,
            num_workers=self.options.workers,
            # A copy by fork would hold the locks of threads that it does not have: those of OpenMP, of torch.
            multiprocessing_context="spawn",
            prefetch_factor=8,
            collate_fn=_as_it_is,
        )
        yield from loader

    def _step(self, batch: Batch) -> float:
        recipe, device = self.recipe, self.options.device
        # The seed of dropout depends on nothing but the step, so a resumed run repeats it.
        torch.manual_seed(recipe.seed * 1_000_003 + self.progress.step)
        rate = learning_rate(recipe, self.progress.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        crops = torch.from_numpy(batch.crops)
        labels = torch.from_numpy(batch.labels).to(device)
        pixels = to_input(crops, recipe.norm.mean, recipe.norm.std, device)
        with self._autocast():
            logits = self.network(pixels)
        loss = self._loss(logits.float(), labels, crops)
        if not torch.isfinite(loss):
            raise TrainingError(
                "training", recipe.id, f"the loss is {loss.item()} at step {self.progress.step}", hint="lower optim.lr"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if recipe.optim.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.optim.clip_norm)
        self.optimizer.step()
        self.averaged.update(self.network, self.progress.step)
        return float(loss.detach())

    def _loss(self, logits: Tensor, labels: Tensor, crops: Tensor) -> Tensor:
        recipe = self.recipe
        known = labels != UNLABELLED
        hard = torch.zeros((), device=logits.device)
        if bool(known.any()):
            hard = functional.cross_entropy(logits[known], labels[known], label_smoothing=recipe.label_smoothing)
        if recipe.teacher is None or self.teacher is None:
            return hard
        heat = recipe.teacher.temperature
        with torch.no_grad():
            goal = (self.teacher(crops).float() / heat).softmax(1)
        apart = -(goal * (logits / heat).log_softmax(1)).sum(1) * heat * heat
        # On labelled crops label and teacher share the loss; on the others the teacher is all there is.
        weight = torch.where(known, recipe.teacher.weight, 1.0)
        share_known = known.float().mean()
        return (1 - recipe.teacher.weight) * hard * share_known + (apart * weight).mean()

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
                norm = self.recipe.norm
                pixels = to_input(crops[start : start + batch_size], norm.mean, norm.std, self.options.device)
                logits = self.network(pixels).float()
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
        scores = self.score(self._crops)
        value = auc(labels, scores)
        loss = float(np.mean(np.logaddexp(0, np.where(labels == 1, -scores, scores))))
        if value > progress.best_auc:
            progress.best_auc, progress.best_step = value, progress.step
            self._save_best()
        elif recipe.patience and progress.step - progress.best_step >= recipe.patience * recipe.measure_every:
            progress.finished = True
        return self._log(
            event="measure",
            step=progress.step,
            size_px=size_px,
            auc=round(value, 4),
            accuracy=round(float(np.mean((scores > 0) == (labels == 1))), 4),
            loss=round(loss, 4),
            best_auc=round(progress.best_auc, 4),
            crops=len(labels),
            took_s=round(time.monotonic() - began, 1),
        )

    def _log(self, **entry: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON values
        entry["time_s"] = round(time.time())
        with open(os.path.join(self.options.folder, LOG_NAME), "a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
        return entry

    def _save_best(self) -> None:
        from safetensors.torch import save_file  # noqa: PLC0415

        path = os.path.join(self.options.folder, BEST_NAME)
        save_file({key: value.cpu().contiguous() for key, value in self.averaged.state.items()}, f"{path}.part")
        os.replace(f"{path}.part", path)

    def save(self) -> None:
        """Write the checkpoint; it replaces the old one only when it is whole."""
        path = os.path.join(self.options.folder, CHECKPOINT_NAME)
        torch.save(
            {
                "recipe": self.recipe.digest(),
                "step": self.progress.step,
                "best_auc": self.progress.best_auc,
                "best_step": self.progress.best_step,
                "finished": self.progress.finished,
                "network": self.network.state_dict(),
                "averaged": self.averaged.state,
                "optimizer": self.optimizer.state_dict(),
            },
            f"{path}.part",
        )
        os.replace(f"{path}.part", path)

    def _resume(self) -> None:
        path = os.path.join(self.options.folder, CHECKPOINT_NAME)
        if not os.path.exists(path):
            return
        saved = torch.load(path, map_location=self.options.device, weights_only=True)
        if saved["recipe"] != self.recipe.digest():
            raise TrainingError(
                "resuming the run in", self.options.folder, "it was begun with another recipe", hint="use a new folder"
            )
        self.network.load_state_dict(saved["network"])
        self.averaged.state = saved["averaged"]
        self.optimizer.load_state_dict(saved["optimizer"])
        self.progress = Progress(saved["step"], saved["best_auc"], saved["best_step"], saved["finished"])


def _as_it_is(batch: Any) -> Any:  # noqa: ANN401 - torch hands over whatever the maker made
    return batch


def open_measured(data_root: str, recipe: Recipe, excluded: frozenset[str]) -> list[Item]:
    """Return the select part, as many fakes as reals, the same ones on every call.

    Raises:
        TrainingError: When it lacks a label: no step could be chosen over another.
    """
    items = open_items(data_root, recipe.data.packs, recipe, excluded, "select")
    rng = np.random.default_rng(0)
    chosen: list[Item] = []
    by_label = [[item for item in items if item.record.is_fake == fake] for fake in (False, True)]
    count = min(recipe.measure_crops, *(len(part) for part in by_label))
    if not count:
        raise TrainingError(
            "opening the held-out data",
            data_root,
            f"its select part has {len(by_label[0])} real and {len(by_label[1])} fake crops",
            hint="for few groups set data.split in the recipe, e.g. {select: 0.3, test: 0.2}, or the index's column",
        )
    for part in by_label:
        chosen.extend(part[int(place)] for place in sorted(rng.permutation(len(part))[:count]))
    return chosen


def open_trainer(data_root: str, recipe: Recipe, options: RunOptions, excluded: frozenset[str]) -> Trainer:
    """Open data and teacher and build the trainer of a recipe."""
    pools = open_pools(data_root, recipe, excluded)
    teacher = None
    if recipe.teacher is not None:
        from dfwatch.training.teacher import load_teacher  # noqa: PLC0415 - only distillation needs it

        teacher = load_teacher(recipe.teacher.bundle, options.device)
    return Trainer(recipe, options, pools, open_measured(data_root, recipe, excluded), teacher)
