"""Features: what a network's classifier is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


def classifier_of(network: nn.Module) -> nn.Linear:
    """Return a network's classifier: its last linear layer."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1]


class FeatureTap:
    """Keeps what a network's classifier was last given.

    Attributes:
        width: Number of features.
        features: Shape (n, width), with their gradient; empty before the first crop.
    """

    def __init__(self, network: nn.Module) -> None:
        classifier = classifier_of(network)
        self.width = classifier.in_features
        self.features = torch.empty(0, self.width)
        classifier.register_forward_pre_hook(self._keep)

    def _keep(self, _classifier: nn.Module, given: tuple[Tensor, ...]) -> None:
        self.features = given[0]
