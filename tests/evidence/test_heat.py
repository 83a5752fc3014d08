"""Grad-CAM on networks of which it is known where they look."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dfwatch.inference.heat import heat_maps
from dfwatch.models.facts import OutputSpec

SOFTMAX = OutputSpec(kind="softmax", label_order=("FAKE", "REAL"))


class Brightness(nn.Module):
    """Speaks for FAKE the more, the brighter the picture is anywhere; works in place after its convolution."""

    def __init__(self, sign: float = 1.0, outputs: int = 2) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 1, 1, bias=False)
        self.convolution.weight.data.fill_(1.0)
        self.activation = nn.ReLU(inplace=True)
        self.head = nn.Linear(1, outputs, bias=False)
        self.head.weight.data.copy_(torch.tensor([[sign], [-sign]])[:outputs])
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.activation(self.convolution(x)).mean(dim=(2, 3)))
        return logits


def patch(row: int, column: int) -> torch.Tensor:
    pixels = torch.zeros(1, 3, 32, 32)
    pixels[:, :, row : row + 8, column : column + 8] = 1.0
    return pixels


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 24), (20, 4)])
def test_the_heat_is_where_the_evidence_is(row: int, column: int) -> None:
    [heat] = heat_maps(Brightness(), patch(row, column), SOFTMAX)
    assert heat.dtype == np.float32
    assert heat.shape == (32, 32)
    assert np.array_equal(heat > 0.5, patch(row, column)[0, 0].numpy() > 0.5)
    assert (heat.min(), heat.max()) == (0.0, 1.0)


def test_what_speaks_for_real_is_cold() -> None:
    assert not heat_maps(Brightness(sign=-1.0), patch(0, 0), SOFTMAX).any()


@pytest.mark.parametrize(("order", "sign"), [(("REAL", "FAKE"), 1.0), (("FAKE", "REAL"), -1.0)])
def test_one_logit_is_read_the_right_way_round(order: tuple[str, str], sign: float) -> None:
    output = OutputSpec(kind="sigmoid", label_order=order)
    hot = heat_maps(Brightness(sign, outputs=1), patch(0, 0), output)
    cold = heat_maps(Brightness(-sign, outputs=1), patch(0, 0), output)
    assert hot.any()
    assert not cold.any()


def test_each_crop_has_a_map_of_its_own_and_no_hook_stays() -> None:
    network = Brightness()
    both = heat_maps(network, torch.cat([patch(0, 0), patch(24, 24)]), SOFTMAX)
    assert both[0, 4, 4] == both[1, 28, 28] == 1.0
    assert both[0, 28, 28] == both[1, 4, 4] == 0.0
    assert not network.convolution._forward_hooks


def test_low_precision_and_no_convolution() -> None:
    heat = heat_maps(Brightness().bfloat16(), patch(0, 0).bfloat16(), SOFTMAX)
    assert np.isfinite(heat).all()
    assert heat[0, 4, 4] == 1.0
    with pytest.raises(LookupError):
        heat_maps(nn.Flatten(), patch(0, 0), SOFTMAX)
