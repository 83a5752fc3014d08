"""Logits to p(fake)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from dfwatch.models.facts import OutputSpec


def p_fake(logits: Tensor, output: OutputSpec) -> Tensor:
    """p(fake), shape (n,), of float32 logits (n, num_outputs)."""
    if output.kind == "softmax":
        return logits.softmax(dim=1)[:, output.fake_index]
    # sigmoid(-z) instead of 1 - sigmoid(z) keeps small values exact.
    return torch.sigmoid(logits[:, 0] if output.fake_index == 1 else -logits[:, 0])
