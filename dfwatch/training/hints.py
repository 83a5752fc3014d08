"""Hints: what a teacher made of each stored crop, computed once before training.

A teacher that answers to every batch costs as much again as a small student's own step. One that has looked at each
stored crop once costs nothing while training, and can say more than its verdict: the student also learns to predict the
teacher's features (Romero et al., "FitNets", ICLR 2015), which is a thousand numbers a crop in place of one. The
student sees the crop augmented, the teacher saw it as it is stored: the student is asked to see through the changes.

What it said is kept in the run's folder in pieces, one file each, so that a look that was stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from dfwatch.errors import TrainingError
from dfwatch.training.batches import plain_crops, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from dfwatch.training.deck import Item, Pools
    from dfwatch.training.recipe import Recipe

FOLDER_NAME = "hints"
_CHUNK = 512  # crops in a file
_FILE = re.compile(r"\d{5}\.safetensors")
_BATCH = 64
_CONSTANT_BELOW = 1e-4  # a feature that varies less than this says nothing


class StoppedError(Exception):
    """The teacher was stopped before it had looked at every crop; what it has said so far is kept."""


class Teacher(Protocol):
    """What hints need of a teacher; ``dfwatch.training.teacher.Teacher`` is one."""

    weights_sha256: str
    conventions: str
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

    def to(self, device: str) -> Hints:
        """Return the same hints on a torch device."""
        return Hints(*(getattr(self, part.name).to(device) for part in dataclasses.fields(self)))

    def standardised(self, rows: Tensor) -> Tensor:
        """Return the features of some rows with mean 0 and variance 1 over the data set: float32, (n, width)."""
        return (self.features[rows].float() - self.mean) * self.scale


def load_hints(
    recipe: Recipe,
    pools: Pools,
    teacher: Teacher,
    folder: str,
    *,
    progress: Callable[[int, int], None] = lambda *_: None,
    must_stop: Callable[[float], bool] = lambda _: False,
) -> Hints:
    """Read a run's hints, and let the teacher look at every crop of the pools that it has not seen.

    Args:
        recipe: How crops are cut.
        pools: The training part of the data.
        teacher: Who looks.
        folder: The run's folder; what the teacher says is kept there, and what is there is not asked again.
        progress: Called with the number of crops done and the number of all.
        must_stop: Asked before each piece, with the seconds that the slowest one took, whether to stop there.

    Raises:
        StoppedError: When it was told to stop before the end.
        TrainingError: When a file can be neither read nor written.
    """
    items = [item for item, _ in rows_of(pools).values()]
    made_from = _made_from(recipe, items, teacher)
    folder = os.path.join(folder, FOLDER_NAME)
    pieces: list[tuple[Tensor, Tensor]] = []
    slowest_s = 0.0
    for start in range(0, len(items), _CHUNK):
        path = os.path.join(folder, _name(len(pieces)))
        piece = _read(path, made_from)
        if piece is None:
            if must_stop(slowest_s):
                raise StoppedError
            began = time.monotonic()
            piece = _ask(recipe, items[start : start + _CHUNK], teacher)
            _write(path, piece, made_from)
            slowest_s = max(slowest_s, time.monotonic() - began)
        pieces.append(piece)
        progress(min(start + _CHUNK, len(items)), len(items))
    _remove_others(folder, {_name(number) for number in range(len(pieces))})
    logits, features = (torch.cat(part) for part in zip(*pieces, strict=True))
    return _standard(logits, features)


def _name(number: int) -> str:
    return f"{number:05d}.safetensors"


def _read(path: str, made_from: str) -> tuple[Tensor, Tensor] | None:
    """Return the logits and features of a piece; None where there is none, or one that was made of something else."""
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    try:
        with safe_open(path, "pt") as stored:
            if (stored.metadata() or {}).get("made_from") != made_from:
                return None
            return stored.get_tensor("logits"), stored.get_tensor("features")
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError) as error:
        raise TrainingError("reading the hints", path, error, hint="delete the file: it is made anew") from error


def _write(path: str, piece: tuple[Tensor, Tensor], made_from: str) -> None:
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    logits, features = piece
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        save_file({"logits": logits, "features": features}, f"{path}.part", metadata={"made_from": made_from})
        os.replace(f"{path}.part", path)
    except (OSError, SafetensorError) as error:
        raise TrainingError("writing the hints", path, error) from error


def _remove_others(folder: str, names: set[str]) -> None:
    """Remove the pieces of an earlier, larger look."""
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        if _FILE.fullmatch(name) and name not in names:
            os.unlink(os.path.join(folder, name))


def _ask(recipe: Recipe, items: Sequence[Item], teacher: Teacher) -> tuple[Tensor, Tensor]:
    crops = torch.from_numpy(plain_crops(items, teacher.size_px, recipe.data.margin, recipe.data.shift_y))
    logits, features = [], []
    for part in torch.split(crops, _BATCH):
        logits.append(teacher(part).float().cpu())
        features.append(teacher.features.half().cpu())
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


def _made_from(recipe: Recipe, items: Sequence[Item], teacher: Teacher) -> str:
    """Return a digest of all that hints depend on, other than the pictures themselves."""
    data = recipe.data
    how = f"{teacher.weights_sha256} {teacher.size_px} {teacher.conventions} {data.margin} {data.shift_y}"
    digest = hashlib.sha256(how.encode())
    for record in (item.record for item in items):
        # The length stands for the picture: other bytes at the same place are seldom as many.
        digest.update(f"\n{record.source}/{record.name}/{record.offset}/{record.length}/{record.box}".encode())
    return digest.hexdigest()
