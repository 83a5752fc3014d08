"""What a training step makes small: the labels' loss and, where a recipe has a teacher, what the teacher says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from dfwatch.errors import TrainingError
from dfwatch.training.deck import UNLABELLED
from dfwatch.training.features import FeatureTap, MapTap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from dfwatch.training.hints import Hints
    from dfwatch.training.ondevice.batches import TensorBatch
    from dfwatch.training.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Teaching:
    """What a recipe's teacher has to say.

    Attributes:
        by: Who teaches; a run goes on only with the teacher that it began with.
        answer: Takes uint8 RGB crops (n, h, w, 3) and returns logits (n, 2), REAL and FAKE; for teachers that
            answer live.
        hints: What it made of each stored crop; for teachers that look once.
        maps: Takes uint8 RGB crops and returns the maps of its stages, at the crops' own size; for ``teacher.maps``.
    """

    by: str = ""
    answer: Callable[[Tensor], Tensor] | None = None
    hints: Hints | None = None
    maps: Callable[[Tensor], Sequence[Tensor]] | None = None


class Objective(nn.Module):
    """The loss of a recipe. Nothing in it asks the device for anything.

    Args:
        recipe: Its teacher and label smoothing.
        network: The student. What it makes of a batch is looked at from outside, by hooks.
        teaching: For recipes with a teacher.

    Raises:
        TrainingError: When the recipe wants of a teacher what is not there.
    """

    def __init__(self, recipe: Recipe, network: nn.Module, teaching: Teaching | None = None) -> None:
        super().__init__()
        self._spec, self._smoothing = recipe.teacher, recipe.label_smoothing
        self._said = teaching or Teaching()
        self.features: nn.Linear | None = None
        self.maps = nn.ModuleList()
        spec, said = self._spec, self._said
        if spec is None:
            return
        wanted = (said.hints if spec.once else said.answer, said.maps if spec.maps else True)
        if None in wanted:
            raise TrainingError("training", recipe.id, "the recipe wants a teacher and none was given")
        if said.hints is not None and spec.features:
            self._tap = FeatureTap(network)
            self.features = nn.Linear(self._tap.width, said.hints.features.shape[1])
        if said.maps is not None and spec.maps:
            self._map_tap = MapTap(network)
            for own, its in zip(_widths(network, self._map_tap), _channels(said.maps), strict=True):
                self.maps.append(nn.Conv2d(own, its, 1))

    def forward(self, logits: Tensor, batch: TensorBatch) -> Tensor:
        """Return the loss of a batch from the student's logits (n, 2), float32."""
        spec, said, known = self._spec, self._said, batch.labels != UNLABELLED
        hard = functional.cross_entropy(
            logits, batch.labels, ignore_index=UNLABELLED, label_smoothing=self._smoothing, reduction="none"
        )
        if spec is None:
            return hard.sum() / known.sum().clamp(min=1)
        rows = batch.rows.clamp(min=0)
        if said.hints is not None:
            goal, seen = said.hints.logits[rows], (batch.rows >= 0).float()
        else:
            assert said.answer is not None
            with torch.no_grad():
                goal = said.answer(batch.crops).float()
            seen = torch.ones_like(hard)
        heat = spec.temperature
        apart = -((goal / heat).softmax(1) * (logits / heat).log_softmax(1)).sum(1) * heat * heat
        # On labelled crops label and teacher share the loss; on unlabelled ones the teacher is all there is, and on
        # those that the teacher has not seen the label.
        share = torch.where(known, spec.weight, 1.0) * seen
        loss = ((1 - share) * hard + share * apart).mean()
        if self.features is not None:
            assert said.hints is not None
            off = (self.features(self._tap.features.float()) - said.hints.standardised(rows)).square().mean(1)
            loss = loss + spec.features * (off * seen).sum() / seen.sum().clamp(min=1)
        if len(self.maps):
            loss = loss + spec.maps * self._maps_apart(batch.crops)
        return loss

    def _maps_apart(self, crops: Tensor) -> Tensor:
        """Mean squared difference of the stages' maps, each of the teacher's channels having variance 1."""
        assert self._said.maps is not None
        with torch.no_grad():
            goals = [functional.batch_norm(goal.float(), None, None, training=True) for goal in self._said.maps(crops)]
        losses = []
        for own, turn, goal in zip(self._map_tap.maps, self.maps, goals, strict=True):
            # In the precision of the student's own maps, which are large.
            weight, bias = (value.to(own.dtype) for value in turn.parameters())
            losses.append((functional.conv2d(own, weight, bias).float() - goal).square().mean())
        return torch.stack(losses).mean()


def _channels(maps: Callable[[Tensor], Sequence[Tensor]]) -> list[int]:
    """How many channels a teacher's maps have."""
    return [made.shape[1] for made in maps(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))]


def _widths(network: nn.Module, tap: MapTap) -> list[int]:
    """How many channels the student's maps have."""
    training = network.training
    first = next(network.parameters())
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, 64, 64, device=first.device, dtype=first.dtype))
    network.train(training)
    return [made.shape[1] for made in tap.maps]
