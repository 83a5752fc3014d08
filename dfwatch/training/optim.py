"""Optimiser, learning rate and weight averaging of a recipe."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from dfwatch.training.recipe import Recipe


class Averaged:
    """Exponential moving average of a network's weights and buffers (Polyak averaging), in float32."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        live = network.state_dict()
        self.state = {key: value.detach().clone() for key, value in live.items()}
        # Optimisers and batch norms change tensors in place, so these stay the network's own.
        floats = [key for key, value in live.items() if value.is_floating_point()]
        counts = [key for key, value in live.items() if not value.is_floating_point()]
        self._floats = [self.state[key] for key in floats], [live[key].detach() for key in floats]
        self._counts = [self.state[key] for key in counts], [live[key].detach() for key in counts]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the network after a step; early steps count more, so that the first weights are soon forgotten."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(*self._floats, 1 - decay)
        if self._counts[0]:
            torch._foreach_copy_(*self._counts)

    @torch.no_grad()
    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Take over saved averages."""
        for key, value in self.state.items():
            value.copy_(state[key])


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the rate of a step: linear warm-up, then half a cosine."""
    optim, total = recipe.optim, recipe.total_steps
    warmup = max(1, round(optim.warmup_share * total))
    if step < warmup:
        return optim.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    share = optim.final_share + (1 - optim.final_share) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return optim.lr * share


def build_optimizer(modules: Sequence[nn.Module], recipe: Recipe) -> torch.optim.Optimizer:
    """Weight decay for weights, none for norms and biases."""
    optim = recipe.optim
    parameters = [value for module in modules for value in module.parameters()]
    decayed = [value for value in parameters if value.ndim > 1]
    kept = [value for value in parameters if value.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": optim.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    if optim.name == "sgd":
        return torch.optim.SGD(groups, lr=optim.lr, momentum=0.9, nesterov=True)
    kind = torch.optim.AdamW if optim.name == "adamw" else torch.optim.Adam
    # One kernel for all tensors; on the CPU the plain one stays, whose sums the shipped weights were made with.
    return kind(groups, lr=optim.lr, fused=parameters[0].is_cuda or None)
