"""Trained bundles as the teacher of another network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from dfwatch.errors import TrainingError
from dfwatch.models.bundle import load_bundle
from dfwatch.models.checkpoints import load_network
from dfwatch.training.features import FeatureTap, MapTap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Teacher:
    """Answers to uint8 RGB crops (n, h, w, 3) with logits (n, 2) for REAL and FAKE.

    Crops of another size than the teacher's are scaled to it, so that teacher and student see the same picture. On a
    GPU the teacher answers in bfloat16.

    Args:
        bundle_folder: The teacher's bundle.
        device: A torch device name.

    Attributes:
        size_px: Side of the crops that it looks at.
        weights_sha256: Who answers.
        conventions: How it is shown a picture and in which order it answers, in words; others are another teacher's.

    Raises:
        TrainingError: When the bundle does not have two outputs.
    """

    def __init__(self, bundle_folder: str, device: str) -> None:
        bundle = load_bundle(bundle_folder)
        if bundle.output.kind != "softmax":
            raise TrainingError("loading the teacher", bundle_folder, "it must have two outputs (softmax)")
        self._network = load_network(bundle).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._tap = FeatureTap(self._network)
        self._map_tap: MapTap | None = None
        self._mean = torch.tensor([255 * value for value in bundle.input.mean], device=device).view(1, 3, 1, 1)
        self._std = torch.tensor([255 * value for value in bundle.input.std], device=device).view(1, 3, 1, 1)
        self._device = device
        self._bgr = bundle.input.channel_order == "bgr"
        self._order = [1 - bundle.output.fake_index, bundle.output.fake_index]
        self.size_px = bundle.input.size_px
        self.weights_sha256 = bundle.weights_sha256
        facts = bundle.input
        self.conventions = (
            f"{facts.channel_order}, mean {facts.mean}, std {facts.std}, answers {bundle.output.label_order}"
        )

    @property
    def features(self) -> Tensor:
        """What the teacher's classifier was given for the last crops: (n, width)."""
        return self._tap.features

    def __call__(self, crops: Tensor) -> Tensor:
        """Return logits (n, 2), float32."""
        return self._look(crops, self.size_px)[:, self._order]

    def maps(self, crops: Tensor) -> list[Tensor]:
        """Return the maps of its stages, which it looks for at the crops' own size: four of (n, channels, h, w).

        Raises:
            TrainingError: For networks whose stages are not known.
        """
        if self._map_tap is None:
            self._map_tap = MapTap(self._network)
        self._look(crops, crops.shape[1])
        return self._map_tap.maps

    def _look(self, crops: Tensor, size_px: int) -> Tensor:
        kind = self._device.partition(":")[0]
        with torch.no_grad(), torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            pixels = crops.to(self._device).permute(0, 3, 1, 2).float()
            if self._bgr:
                pixels = pixels.flip(1)
            if pixels.shape[-1] != size_px:
                side = (size_px, size_px)
                pixels = functional.interpolate(pixels, side, mode="bilinear", antialias=True, align_corners=False)
            pixels = ((pixels - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
            logits: Tensor = self._network(pixels).float()
        return logits


class Panel:
    """Several teachers who answer with the mean of their logits; features and maps are the first one's.

    Networks that are alike in AUC err apart, so that together they know more than any of them (Hinton et al., 2015).

    Args:
        members: The teachers, at least one.

    Attributes:
        size_px: Side of the crops to show; each member scales them to its own.
        weights_sha256: Who answers, in order.
        conventions: What ``Teacher.conventions`` says, for each.
    """

    def __init__(self, members: Sequence[Teacher]) -> None:
        self._members = members
        self.size_px = max(member.size_px for member in members)
        self.weights_sha256 = "+".join(member.weights_sha256 for member in members)
        self.conventions = "; ".join(f"{member.size_px} px, {member.conventions}" for member in members)

    @property
    def features(self) -> Tensor:
        """What the first teacher's classifier was given for the last crops: (n, width)."""
        return self._members[0].features

    def __call__(self, crops: Tensor) -> Tensor:
        """Return logits (n, 2), float32."""
        return torch.stack([member(crops) for member in self._members]).mean(0)

    def maps(self, crops: Tensor) -> list[Tensor]:
        """Return the maps of the first teacher's stages: ``Teacher.maps``."""
        return self._members[0].maps(crops)


def open_teacher(bundle_folders: Sequence[str], device: str) -> Teacher | Panel:
    """Return the teacher that a recipe names: a bundle, or a panel of several.

    Raises:
        TrainingError: When a bundle does not have two outputs.
    """
    members = [Teacher(folder, device) for folder in bundle_folders]
    return members[0] if len(members) == 1 else Panel(members)
