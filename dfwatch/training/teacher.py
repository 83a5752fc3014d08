"""A trained bundle as the teacher of another network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from dfwatch.errors import TrainingError
from dfwatch.models.bundle import load_bundle
from dfwatch.models.checkpoints import load_network

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def load_teacher(bundle_folder: str, device: str) -> tuple[Callable[[Tensor], Tensor], str]:
    """Return a function from uint8 RGB crops (n, h, w, 3) to logits (n, 2) for REAL and FAKE, and who answers.

    Crops of another size than the teacher's are scaled to it, so that teacher and student see the same picture. On a
    GPU the teacher answers in bfloat16.

    Returns:
        The function, and the SHA-256 of the teacher's weights.
    """
    bundle = load_bundle(bundle_folder)
    if bundle.output.kind != "softmax":
        raise TrainingError("loading the teacher", bundle_folder, "it must have two outputs (softmax)")
    network = load_network(bundle).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    mean = torch.tensor([255 * value for value in bundle.input.mean], device=device).view(1, 3, 1, 1)
    std = torch.tensor([255 * value for value in bundle.input.std], device=device).view(1, 3, 1, 1)
    kind = device.partition(":")[0]
    order = [1 - bundle.output.fake_index, bundle.output.fake_index]
    side_px = bundle.input.size_px

    def answer(crops: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            pixels = crops.to(device).permute(0, 3, 1, 2).float()
            if bundle.input.channel_order == "bgr":
                pixels = pixels.flip(1)
            if pixels.shape[-1] != side_px:
                pixels = functional.interpolate(
                    pixels, (side_px, side_px), mode="bilinear", antialias=True, align_corners=False
                )
            pixels = ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)
            logits: Tensor = network(pixels).float()[:, order]
        return logits

    return answer, bundle.weights_sha256
