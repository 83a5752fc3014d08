"""Grad-CAM: where in a crop the network's last convolution found what moved its answer towards FAKE.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization" (ICCV 2017),
equations 1 and 2, for the log-odds of FAKE. A picture of the model, not of the world: it shows where, never why, and it
also shows something for a crop that the model judges wrongly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dfwatch.models.facts import OutputSpec


def heat_maps(network: nn.Module, pixels: Tensor, output: OutputSpec) -> NDArray[np.float32]:
    """Heat maps of normalised crops.

    Args:
        network: In evaluation mode; its last layer of type Conv2d in order of execution is looked at.
        pixels: float (n, 3, side, side), as the network takes them, on its device.
        output: What its logits mean.

    Returns:
        float32 (n, side, side), 0 to 1; all zero where nothing speaks for FAKE.

    Raises:
        LookupError: The network has no convolution.
    """
    last: list[nn.Conv2d] = []
    handles = [
        module.register_forward_hook(lambda module, _inputs, _output: last.append(module))
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        with torch.no_grad():
            network(pixels[:1])
    finally:
        for handle in handles:
            handle.remove()
    if not last:
        raise LookupError("the network has no convolution")
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, activation: Tensor) -> Tensor:
        # The graph begins here: what lies before costs no memory. The copy is for activations that work in place.
        kept.append(activation.detach().requires_grad_())
        return kept[-1].clone()

    handle = last[-1].register_forward_hook(keep)
    try:
        with torch.enable_grad():
            logits = network(pixels).float()
            (gradients,) = torch.autograd.grad(_log_odds(logits, output).sum(), kept[0])
    finally:
        handle.remove()
    activations = kept[0].detach().float()
    weights = gradients.float().mean(dim=(2, 3), keepdim=True)
    heat = functional.relu((weights * activations).sum(dim=1, keepdim=True))
    heat = functional.interpolate(heat, size=pixels.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    peak = heat.amax(dim=(1, 2), keepdim=True)
    scaled: NDArray[np.float32] = torch.where(peak > 0, heat / peak.clamp(min=1e-20), 0.0).cpu().numpy()
    return np.nan_to_num(scaled).astype(np.float32)


def _log_odds(logits: Tensor, output: OutputSpec) -> Tensor:
    if output.kind == "softmax":
        return logits[:, output.fake_index] - logits[:, 1 - output.fake_index]
    return logits[:, 0] if output.fake_index == 1 else -logits[:, 0]
