"""What a training step makes small: the labels' loss and, where a recipe has a teacher, what the teacher says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from dfwatch.errors import TrainingError
from dfwatch.training.deck import UNLABELLED

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from dfwatch.training.hints import Hints
    from dfwatch.training.ondevice.batches import TensorBatch
    from dfwatch.training.recipe import Recipe


class Objective(nn.Module):
    """The loss of a recipe. Nothing in it asks the device for anything.

    Args:
        recipe: Its teacher and label smoothing.
        width: Number of the student's features.
        teacher: Takes uint8 RGB crops and returns logits (n, 2) in our label order; for teachers that answer live.
        hints: What the teacher made of each stored crop; for teachers that look once.
    """

    def __init__(
        self,
        recipe: Recipe,
        width: int,
        teacher: Callable[[Tensor], Tensor] | None = None,
        hints: Hints | None = None,
    ) -> None:
        super().__init__()
        spec = recipe.teacher
        if spec is not None and (hints is None if spec.once else teacher is None):
            raise TrainingError("training", recipe.id, "the recipe wants a teacher and none was given")
        self._spec, self._smoothing = spec, recipe.label_smoothing
        self._teacher, self._hints = teacher, hints
        self.projection: nn.Linear | None = None
        if spec is not None and hints is not None and spec.features:
            self.projection = nn.Linear(width, hints.features.shape[1])

    def forward(self, logits: Tensor, features: Tensor, batch: TensorBatch) -> Tensor:
        """Return the loss of a batch from the student's logits (n, 2) and features (n, width), both float32."""
        spec, known = self._spec, batch.labels != UNLABELLED
        hard = functional.cross_entropy(
            logits, batch.labels, ignore_index=UNLABELLED, label_smoothing=self._smoothing, reduction="none"
        )
        if spec is None:
            return hard.sum() / known.sum().clamp(min=1)
        if self._hints is None:
            assert self._teacher is not None
            with torch.no_grad():
                goal = self._teacher(batch.crops).float()
            seen = torch.ones_like(hard)
        else:
            rows = batch.rows.clamp(min=0)
            goal, seen = self._hints.logits[rows], (batch.rows >= 0).float()
        heat = spec.temperature
        apart = -((goal / heat).softmax(1) * (logits / heat).log_softmax(1)).sum(1) * heat * heat
        # On labelled crops label and teacher share the loss; on unlabelled ones the teacher is all there is, and on
        # those that the teacher has not seen the label.
        share = torch.where(known, spec.weight, 1.0) * seen
        loss = ((1 - share) * hard + share * apart).mean()
        if self.projection is None or self._hints is None:
            return loss
        off = (self.projection(features) - self._hints.standardised(rows)).square().mean(1)
        mimicry: Tensor = (off * seen).sum() / seen.sum().clamp(min=1)
        return loss + spec.features * mimicry
