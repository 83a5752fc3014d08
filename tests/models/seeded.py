"""Seeded weights for tests: real networks with sane statistics, and bundles of them. Never used outside tests."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dfwatch.models.architectures import build
from dfwatch.models.bundle import Bundle, Calibration, InputSpec, OutputSpec, Thresholds, write_bundle
from dfwatch.models.probe import probe_crops
from dfwatch.reading import CropSpec

if TYPE_CHECKING:
    from pathlib import Path


def example_bundle(architecture: str = "efficientnet_lite0", size_px: int = 64, **changes: Any) -> Bundle:
    bundle = Bundle(
        id="example",
        version="1.0",
        architecture=architecture,
        input=InputSpec(size_px=size_px, channel_order="rgb", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        crop=CropSpec(size_px=size_px, margin=0.1),
        output=OutputSpec(kind="softmax", label_order=("REAL", "FAKE")),
        calibration=Calibration(fitted_on="nothing"),
        thresholds=Thresholds(real=0.25, fake=0.75, false_positive_rate=None, chosen_on="not verified"),
        licence="MIT",
    )
    return dataclasses.replace(bundle, **changes)


def seeded_network(
    architecture: str, size_px: int, *, num_outputs: int = 2, options: dict[str, Any] | None = None, seed: int = 0
) -> nn.Module:
    """A network whose batch norms know their inputs and whose scores of the probe crops spread over 0 to 1."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build(architecture, options, num_outputs=num_outputs)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
                nn.init.uniform_(module.weight, 0.5, 1.0)
                nn.init.normal_(module.bias, 0.0, 0.1)
        pixels = torch.from_numpy(probe_crops(8, size_px, seed=99)).permute(0, 3, 1, 2).float() / 255.0
        with torch.no_grad():
            network.train()(pixels * 4.0 - 2.0)
            logits = network.eval()(pixels * 4.0 - 2.0)
            classifier = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
            gain = 1.5 / logits.std(dim=0, keepdim=True).clamp_min(1e-6)
            classifier.weight.mul_(gain.T)
            classifier.bias.copy_((classifier.bias - logits.mean(dim=0)) * gain[0])
    return network


def seeded_bundle(folder: Path, bundle: Bundle) -> Bundle:
    """Write ``bundle`` with seeded weights."""
    network = seeded_network(
        bundle.architecture,
        bundle.input.size_px,
        num_outputs=bundle.output.num_outputs,
        options=dict(bundle.architecture_options),
    )
    return write_bundle(folder, bundle, network.state_dict())
