"""ResNeXt50-32x4d (Xie et al., CVPR 2017) under torchvision's parameter names.

The same network as ``torchvision.models.resnext50_32x4d``, bit for bit (a test holds them against each other); written
out because importing torchvision takes a second, which is a quarter of the service's time to start.
"""

from __future__ import annotations

from torch import Tensor, nn

CARDINALITY = 32
BLOCKS = (3, 4, 6, 3)
FEATURES = 2048


class Bottleneck(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolutions around a shortcut."""

    def __init__(self, in_channels: int, width: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=CARDINALITY, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(n, in_channels, h, w) to (n, out_channels, h / stride, w / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += shortcut
        activated: Tensor = self.relu(y)
        return activated


class ResNeXt50(nn.Module):
    """Logits (n, num_outputs) of pictures (n, 3, h, w); sides of 32 px and more."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(64, 1, BLOCKS[0])
        self.layer2 = _stage(256, 2, BLOCKS[1])
        self.layer3 = _stage(512, 3, BLOCKS[2])
        self.layer4 = _stage(1024, 4, BLOCKS[3])
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = classifier
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        y = self.layer4(self.layer3(self.layer2(self.layer1(y))))
        logits: Tensor = self.fc(self.avgpool(y).flatten(1))
        return logits

    def feature_layers(self) -> nn.Sequential:
        """The layers before pooling, as one module: (n, 3, h, w) to (n, 2048, h / 32, w / 32)."""
        return nn.Sequential(
            self.conv1, self.bn1, self.relu, self.maxpool, self.layer1, self.layer2, self.layer3, self.layer4
        )


def _stage(in_channels: int, number: int, blocks: int) -> nn.Sequential:
    """Stage 1 to 4: the width doubles and, from stage 2 on, the side halves."""
    width, out_channels = 64 * 2**number, 128 * 2**number
    layers = [Bottleneck(in_channels, width, out_channels, stride=1 if number == 1 else 2)]
    layers += [Bottleneck(out_channels, width, out_channels, stride=1) for _ in range(blocks - 1)]
    return nn.Sequential(*layers)
