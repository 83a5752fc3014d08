"""EfficientNet-Lite 0 to 2 (Tan and Le, ICML 2019; the Lite variants by Google, 2020) under timm's parameter names.

The same network as timm's ``tf_efficientnet_lite*``, bit for bit (a test holds them against each other); written out
because timm brings torchvision, and together they take seconds of the service's start.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

FEATURES = 1280
_STEM_CHANNELS = 32
# TensorFlow's values, which the ImageNet weights were trained with.
_NORM_EPS = 1e-3
_NORM_MOMENTUM = 0.01
# Width and depth multiplier of each size.
_MULTIPLIERS = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2))


class _Stage(NamedTuple):
    repeats: int
    kernel_px: int
    stride: int
    expansion: int
    channels: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


class Conv2dSame(nn.Conv2d):
    """A convolution padded as TensorFlow pads: just enough, and where that is odd, more at the end."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Conv2d's own argument name
        """As ``nn.Conv2d``."""
        rows, columns = (
            max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
            for side, stride, kernel in zip(input.shape[-2:], self.stride, self.kernel_size, strict=True)
        )
        padding = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        return functional.conv2d(functional.pad(input, padding), self.weight, self.bias, self.stride, 0, 1, self.groups)


def _convolution(in_channels: int, out_channels: int, kernel_px: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    if stride > 1:
        return Conv2dSame(in_channels, out_channels, kernel_px, stride=stride, groups=groups, bias=False)
    return nn.Conv2d(in_channels, out_channels, kernel_px, padding=kernel_px // 2, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_NORM_EPS, momentum=_NORM_MOMENTUM)


class Block(nn.Module):
    """Expand, filter each channel, project; a shortcut where the shape allows one (stochastic depth in training)."""

    def __init__(self, in_channels: int, stage: _Stage, stride: int, drop_path_rate: float) -> None:
        super().__init__()
        width = in_channels * stage.expansion
        if stage.expansion > 1:
            self.conv_pw = _convolution(in_channels, width, 1)
            self.bn1 = _norm(width)
            self.conv_dw = _convolution(width, width, stage.kernel_px, stride, groups=width)
            self.bn2 = _norm(width)
            self.conv_pwl = _convolution(width, stage.channels, 1)
            self.bn3 = _norm(stage.channels)
        else:
            self.conv_dw = _convolution(width, width, stage.kernel_px, stride, groups=width)
            self.bn1 = _norm(width)
            self.conv_pw = _convolution(width, stage.channels, 1)
            self.bn2 = _norm(stage.channels)
        self.act = nn.ReLU6()
        self.expands = stage.expansion > 1
        self.has_shortcut = stride == 1 and in_channels == stage.channels
        self.drop_path_rate = drop_path_rate

    def forward(self, x: Tensor) -> Tensor:
        """Features (n, channels, h, w) to features (n, channels', h', w')."""
        if self.expands:
            y = self.act(self.bn1(self.conv_pw(x)))
            y = self.act(self.bn2(self.conv_dw(y)))
            y = self.bn3(self.conv_pwl(y))
        else:
            y = self.act(self.bn1(self.conv_dw(x)))
            y = self.bn2(self.conv_pw(y))
        return self._dropped(y) + x if self.has_shortcut else y

    def _dropped(self, y: Tensor) -> Tensor:
        """Stochastic depth (Huang et al., ECCV 2016): whole samples of a batch skip the block in training."""
        if not self.training or self.drop_path_rate == 0.0:
            return y
        kept = 1.0 - self.drop_path_rate
        return y * (torch.empty(len(y), 1, 1, 1, dtype=y.dtype, device=y.device).bernoulli_(kept) / kept)


class EfficientNetLite(nn.Module):
    """The network.

    Args:
        size: 0, 1 or 2.
        classifier: Takes features (n, 1280).
        drop_path_rate: Probability with which the last block is skipped in training; it rises from 0 at the first.
    """

    def __init__(self, size: int, classifier: nn.Module, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        width, depth = _MULTIPLIERS[size]
        last = len(_STAGES) - 1
        # The first and the last stage keep their depth, stem and head their width: that is what makes it Lite.
        stages = [
            stage._replace(
                channels=_rounded(stage.channels * width),
                repeats=stage.repeats if number in {0, last} else math.ceil(stage.repeats * depth),
            )
            for number, stage in enumerate(_STAGES)
        ]
        self.conv_stem = _convolution(3, _STEM_CHANNELS, 3, 2)
        self.bn1 = _norm(_STEM_CHANNELS)
        self.act = nn.ReLU6()
        total = sum(stage.repeats for stage in stages)
        blocks, channels, number = [], _STEM_CHANNELS, 0
        for stage in stages:
            row = []
            for repeat in range(stage.repeats):
                row.append(Block(channels, stage, stage.stride if repeat == 0 else 1, drop_path_rate * number / total))
                channels, number = stage.channels, number + 1
            blocks.append(nn.Sequential(*row))
        self.blocks = nn.Sequential(*blocks)
        self.conv_head = _convolution(channels, FEATURES, 1)
        self.bn2 = _norm(FEATURES)
        self.classifier = classifier
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        """Logits of normalised crops (n, 3, h, w)."""
        features = self.blocks(self.act(self.bn1(self.conv_stem(x))))
        pooled = self.act(self.bn2(self.conv_head(features))).mean(dim=(2, 3))
        logits: Tensor = self.classifier(pooled)
        return logits

    def _initialise(self) -> None:
        """As TensorFlow's EfficientNet: normal by fan-out, fan-out counted within a group."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
                nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))


def _rounded(channels: float) -> int:
    """To a multiple of 8, and never down by more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
