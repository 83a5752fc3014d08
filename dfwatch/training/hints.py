"""Hints: what a teacher made of each stored crop, computed once before training.

A teacher that answers to every batch costs as much again as a small student's own step. One that has looked at each
stored crop once costs nothing while training, and can say more than its verdict: the student also learns to predict the
teacher's features (Romero et al., "FitNets", ICLR 2015), which is a thousand numbers a crop in place of one. The
student sees the crop augmented, the teacher saw it as it is stored: the student is asked to see through the changes.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from dfwatch.errors import TrainingError
from dfwatch.training.batches import plain_crops, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from dfwatch.training.deck import Pools
    from dfwatch.training.recipe import Recipe

FILE_NAME = "hints.safetensors"
_CHUNK = 512
_BATCH = 64
_CONSTANT_BELOW = 1e-4  # a feature that varies less than this says nothing


class Teacher(Protocol):
    """What hints need of a teacher; ``dfwatch.training.teacher.Teacher`` is one."""

    weights_sha256: str
    size_px: int

    @property
    def features(self) -> Tensor:
        """What its classifier was given for the last crops: (n, width)."""

    def __call__(self, crops: Tensor) -> Tensor:
        """Return logits (n, 2) of uint8 RGB crops (n, size_px, size_px, 3)."""


@dataclass(frozen=True, slots=True)
class Hints:
    """A teacher's answers, one row for each item of ``dfwatch.training.batches.rows_of``.

    Attributes:
        logits: float32, shape (rows, 2): REAL, FAKE.
        features: float16, shape (rows, width): what the teacher's classifier was given.
        mean: float32, shape (width,): of the features, over all rows.
        scale: float32, shape (width,): one over their standard deviation; 0 for features that never vary.
    """

    logits: Tensor
    features: Tensor
    mean: Tensor
    scale: Tensor

    def standardised(self, rows: Tensor) -> Tensor:
        """Return the features of some rows with mean 0 and variance 1 over the data set: float32, (n, width)."""
        return (self.features[rows].float() - self.mean) * self.scale


def load_hints(
    recipe: Recipe, pools: Pools, teacher: Teacher, folder: str, progress: Callable[[int, int], None] = lambda *_: None
) -> Hints:
    """Read a run's hints, or let the teacher look at every crop of the pools and keep them in the run's folder.

    Raises:
        TrainingError: When the file can be neither read nor written.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    path = os.path.join(folder, FILE_NAME)
    made_from = _made_from(recipe, pools, teacher)
    try:
        with safe_open(path, "pt") as stored:
            if (stored.metadata() or {}).get("made_from") == made_from:
                return _standard(stored.get_tensor("logits"), stored.get_tensor("features"))
    except FileNotFoundError:
        pass
    except (OSError, SafetensorError) as error:
        raise TrainingError("reading the hints", path, error, hint="delete the file: it is made anew") from error
    logits, features = _ask(recipe, pools, teacher, progress)
    os.makedirs(folder, exist_ok=True)
    try:
        save_file({"logits": logits, "features": features}, f"{path}.part", metadata={"made_from": made_from})
        os.replace(f"{path}.part", path)
    except (OSError, SafetensorError) as error:
        raise TrainingError("writing the hints", path, error) from error
    return _standard(logits, features)


def _ask(recipe: Recipe, pools: Pools, teacher: Teacher, progress: Callable[[int, int], None]) -> tuple[Tensor, Tensor]:
    items = [item for item, _ in rows_of(pools).values()]
    logits, features = [], []
    for start in range(0, len(items), _CHUNK):
        crops = torch.from_numpy(
            plain_crops(items[start : start + _CHUNK], teacher.size_px, recipe.data.margin, recipe.data.shift_y)
        )
        for part in torch.split(crops, _BATCH):
            logits.append(teacher(part).float().cpu())
            features.append(teacher.features.half().cpu())
        progress(min(start + _CHUNK, len(items)), len(items))
    return torch.cat(logits), torch.cat(features)


def _standard(logits: Tensor, features: Tensor) -> Hints:
    total, squares = torch.zeros(features.shape[1]), torch.zeros(features.shape[1])
    for part in torch.split(features, 4096):
        total += part.float().sum(0)
        squares += part.float().square().sum(0)
    mean = total / len(features)
    spread = (squares / len(features) - mean.square()).clamp(min=0).sqrt()
    scale = torch.where(spread < _CONSTANT_BELOW, torch.zeros(()), 1 / spread.clamp(min=_CONSTANT_BELOW))
    return Hints(logits, features, mean, scale)


def _made_from(recipe: Recipe, pools: Pools, teacher: Teacher) -> str:
    """Return a digest of all that hints depend on, other than the pictures themselves."""
    digest = hashlib.sha256(f"{teacher.weights_sha256} {recipe.data.margin} {recipe.data.shift_y}".encode())
    for item, _ in rows_of(pools).values():
        digest.update(f"\n{item.record.source}/{item.record.name}/{item.record.offset}".encode())
    return digest.hexdigest()
