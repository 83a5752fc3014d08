"""Features: what a network's classifier is given, and the maps at the end of each of its stages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from dfwatch.errors import TrainingError
from dfwatch.models.architectures import ResNeXt50LSTM
from dfwatch.models.efficientnet_lite import EfficientNetLite
from dfwatch.models.resnext import ResNeXt50

if TYPE_CHECKING:
    from torch import Tensor

# Of EfficientNet-Lite's blocks, those after which the side is a 4th, an 8th, a 16th and a 32nd of the picture's.
_LITE_STAGES = (1, 2, 4, 6)


def classifier_of(network: nn.Module) -> nn.Linear:
    """Return a network's classifier: its last linear layer."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1]


def stages_of(network: nn.Module) -> list[nn.Module]:
    """Return the modules that end at a 4th, an 8th, a 16th and a 32nd of the picture's side.

    Raises:
        TrainingError: For networks whose stages are not known here.
    """
    if isinstance(network, ResNeXt50):
        return [network.layer1, network.layer2, network.layer3, network.layer4]
    if isinstance(network, ResNeXt50LSTM):
        return list(network.model)[-4:]
    if isinstance(network, EfficientNetLite):
        return [network.blocks[number] for number in _LITE_STAGES]
    raise TrainingError(
        "comparing feature maps",
        type(network).__name__,
        "only ResNeXt50 and EfficientNet-Lite have stages that are known here",
        hint="leave teacher.maps out",
    )


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


class MapTap:
    """Keeps the last maps of a network's stages.

    Attributes:
        maps: Four of shape (n, channels, h, w), with their gradient, the largest first; empty before the first crop.
    """

    def __init__(self, network: nn.Module) -> None:
        self._stages = stages_of(network)
        self.maps: list[Tensor] = []
        for stage in self._stages:
            stage.register_forward_hook(self._keep)

    def _keep(self, stage: nn.Module, _given: tuple[Tensor, ...], made: Tensor) -> None:
        if stage is self._stages[0]:
            self.maps = []
        self.maps.append(made)
