from __future__ import annotations

import copy
import socket

import pytest
import torch
from torch import nn

from dfwatch.errors import BundleError
from dfwatch.models.architectures import build
from dfwatch.models.fusion import fold_batch_norm
from tests.models.seeded import seeded_network

# Sides that keep each network's smallest feature map above one pixel, and the time of a test low.
SIDES = {
    "resnext50_32x4d": 64,
    "resnext50_lstm": 64,
    "nasnetalarge": 96,
    "efficientnet_lite0": 64,
    "efficientnet_lite1": 64,
    "efficientnet_lite2": 64,
    "timm:efficientnet_b0": 64,
    "timm:convnext_atto": 64,
}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        raise AssertionError("a builder went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.usefixtures("no_network")
def test_every_architecture_gives_as_many_logits_as_asked(name: str) -> None:
    network = build(name, num_outputs=1).eval()
    with torch.inference_mode():
        logits = network(torch.rand(2, 3, SIDES[name], SIDES[name]))
    assert logits.shape == (2, 1)


def test_resnext50_is_torchvisions_bit_for_bit() -> None:
    from torchvision.models import resnext50_32x4d

    theirs = resnext50_32x4d(weights=None)
    theirs.fc = nn.Linear(2048, 2)
    ours = seeded_network("resnext50_32x4d", 64)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert list(theirs.state_dict()) == list(ours.state_dict())
    pictures = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(theirs.eval()(pictures), ours.eval()(pictures))
    theirs.train()
    ours.train()
    ours.fc.drop_rate = 0.0
    assert torch.equal(theirs(pictures), ours(pictures))


@pytest.mark.parametrize("size", [0, 1, 2])
def test_efficientnet_lite_is_timms_bit_for_bit(size: int) -> None:
    import timm

    theirs = timm.create_model(f"tf_efficientnet_lite{size}", num_classes=2)
    ours = seeded_network(f"efficientnet_lite{size}", 64)
    assert list(theirs.state_dict()) == list(ours.state_dict())
    theirs.load_state_dict(ours.state_dict(), strict=True)
    for side_px in (64, 75, 112):
        pictures = torch.rand(2, 3, side_px, side_px, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            assert torch.equal(theirs.eval()(pictures), ours.eval()(pictures))
    ours = build(f"efficientnet_lite{size}", {"drop_rate": 0.0})
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(theirs.train()(pictures), ours.train()(pictures))


def test_stochastic_depth_skips_blocks_in_training_only() -> None:
    network = build("efficientnet_lite0", {"drop_rate": 0.0, "drop_path_rate": 0.9})
    pictures = torch.rand(4, 3, 64, 64)
    assert not torch.equal(network.train()(pictures), network(pictures))
    assert torch.equal(network.eval()(pictures), network(pictures))


def test_dropout_stands_before_the_classifier_in_training_only() -> None:
    network = build("resnext50_32x4d", {"drop_rate": 0.5})
    assert {"fc.weight", "fc.bias"} <= network.state_dict().keys()
    features = torch.ones(64, 2048)
    assert len(network.fc(features).unique(dim=0)) > 1
    assert len(network.eval().fc(features).unique(dim=0)) == 1


@pytest.mark.parametrize("lstm_bias", [False, True])
def test_the_lstm_step_is_nn_lstm_from_the_zero_state(lstm_bias: bool) -> None:
    network = seeded_network("resnext50_lstm", 64, options={"lstm_bias": lstm_bias})
    pictures = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        features = network.model(pictures).mean(dim=(2, 3))
        zero = torch.zeros(1, 3, 2048)
        hidden, _ = network.lstm(features[None], (zero, zero))
        expected = network.linear1(hidden[0])
        torch.testing.assert_close(network(pictures), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("resnext50_32x4", {}, "did you mean resnext50_32x4d?"),
        ("vit", {}, "known are"),
        ("timm:efficientnet_b99", {}, "did you mean timm:efficientnet_b"),
        ("efficientnet_lite0", {"dropout": 0.5}, "drop_rate"),
        ("resnext50_lstm", {"hidden": 4}, "lstm_bias"),
        ("timm:efficientnet_b0", {"checkpoint_path": "x"}, "not for a bundle to set"),
        ("timm:efficientnet_b0", {"nonsense": 1}, "did not take the options"),
        ("timm:efficientnet_b0", {"act_layer": "nonsense"}, "did not take the options"),
        ("timm:efficientnet_b0", {"global_pool": "nonsense"}, "did not take the options"),
        ("timm:efficientnet_b0.ra_in1k", {}, "did you mean timm:efficientnet_b0?"),
        ("efficientnet_lite0", {"drop_rate": "0,4"}, "drop_rate is '0,4', not a number from 0 to 1"),
        ("resnext50_32x4d", {"drop_rate": 40}, "drop_rate is 40, not a number from 0 to 1"),
        ("resnext50_lstm", {"lstm_bias": "no"}, "lstm_bias is 'no', not true or false"),
    ],
)
def test_an_unknown_name_or_option_is_refused(name: str, options: dict[str, object], expected: str) -> None:
    with pytest.raises(BundleError) as caught:
        build(name, options)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("name", "norms"),
    [
        ("resnext50_32x4d", 53),
        ("resnext50_lstm", 53),
        ("efficientnet_lite0", 49),
        ("nasnetalarge", 260),
        ("timm:convnext_atto", 0),
    ],
)
def test_folding_batch_norm_changes_nothing_but_rounding(name: str, norms: int) -> None:
    network = seeded_network(name, SIDES.get(name, 64))
    pictures = torch.rand(2, 3, SIDES.get(name, 64), SIDES.get(name, 64), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        before = network(pictures).softmax(dim=1)
        folded, count = fold_batch_norm(copy.deepcopy(network))
        after = folded(pictures).softmax(dim=1)
    assert count == norms
    assert before.std() > 0.01
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4)


def test_a_network_that_cannot_be_traced_stays_as_it_is() -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    network = Branching()
    assert fold_batch_norm(network) == (network, 0)


def test_a_convolution_used_twice_keeps_its_norm() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return self.norm(y) + y

    network = Shared().eval()
    network.norm.running_mean.fill_(0.5)
    pictures = torch.rand(1, 3, 8, 8)
    expected = network(pictures)
    folded, count = fold_batch_norm(network)
    assert count == 0
    assert torch.equal(folded(pictures), expected)
