"""The df_model.pt family: every fork of the file, and scores against a plain frame-by-frame reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dfwatch.config import ModelSettings
from dfwatch.detector import Detector
from dfwatch.errors import BundleError, CheckpointError
from dfwatch.models.architectures import build
from dfwatch.models.bundle import load_bundle
from dfwatch.models.checkpoints import load_network
from dfwatch.models.importing import ImportFacts, import_checkpoint
from dfwatch.models.probe import probe_crops
from tests.models.seeded import seeded_network

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

State = dict[str, Tensor]
FORKS: dict[str, Callable[[State], Any]] = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"epoch": 20, "state_dict": state},
    "model": lambda state: {"model": state, "optimizer": {"lr": 1e-5}},
    "net": lambda state: {"net": state},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": 0.3},
    "module.": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "both": lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
}


def light_state(*, lstm_bias: bool) -> State:
    """Every tensor of the family in its true shape, each holding one number, so that the file is small."""
    network = build("resnext50_lstm", {"lstm_bias": lstm_bias})
    return {
        name: tensor if tensor.ndim == 0 else torch.full((1,) * tensor.ndim, 0.001 * i).expand(tensor.shape)
        for i, (name, tensor) in enumerate(network.state_dict().items(), start=1)
    }


@pytest.fixture(scope="module")
def states() -> dict[bool, State]:
    return {bias: light_state(lstm_bias=bias) for bias in (False, True)}


def reference(state: State, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The older project's way, one frame at a time, all in float32: BGR, ImageNet numbers, LSTM from zero, softmax."""
    from torchvision.models import resnext50_32x4d

    features = nn.Sequential(*list(resnext50_32x4d(weights=None).children())[:-2])
    lstm = nn.LSTM(2048, 2048, 1, bias="lstm.bias_ih_l0" in state)
    linear = nn.Linear(2048, 2)
    for prefix, module in (("model.", features), ("lstm.", lstm), ("linear1.", linear)):
        module.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        module.eval()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    scores = []
    with torch.inference_mode():
        for crop in crops:
            bgr = np.ascontiguousarray(crop[:, :, ::-1])
            frame = (torch.from_numpy(bgr).permute(2, 0, 1).float() / 255.0 - mean) / std
            pooled = nn.functional.adaptive_avg_pool2d(features(frame[None]), 1).view(1, 1, 2048)
            zero = torch.zeros(1, 1, 2048)
            hidden, _ = lstm(pooled, (zero, zero))
            scores.append(torch.softmax(linear(hidden[0, 0]), dim=0)[0].item())
    return np.array(scores, np.float32)


@pytest.mark.parametrize("lstm_bias", [False, True])
def test_scores_agree_with_a_plain_reference(tmp_path: Path, lstm_bias: bool) -> None:
    state = dict(seeded_network("resnext50_lstm", 112, options={"lstm_bias": lstm_bias}).state_dict())
    path = tmp_path / "df_model.pt"
    torch.save(state, path)
    crops = probe_crops(5, 112, seed=5)
    expected = reference(state, crops)
    assert np.ptp(expected) > 0.2

    detector = Detector.load(path, ModelSettings(precision="float32", threads=1))
    np.testing.assert_allclose(detector.score(crops), expected, rtol=0, atol=1e-4)
    assert np.abs(detector.score(crops[..., ::-1]) - expected).max() > 1e-2, "the channel order would not matter"


@pytest.mark.parametrize("lstm_bias", [False, True])
@pytest.mark.parametrize("fork", FORKS)
def test_every_fork_of_the_file_loads_by_itself(
    tmp_path: Path, states: dict[bool, State], fork: str, lstm_bias: bool
) -> None:
    path = tmp_path / "model_87_acc_20_frames_final_data.pt"
    torch.save(FORKS[fork](states[lstm_bias]), path)
    bundle = load_bundle(path)
    assert bundle.profile == "df_model"
    assert bundle.architecture_options == {"lstm_bias": lstm_bias}
    loaded = load_network(bundle).state_dict()
    for name in ("model.0.weight", "model.7.2.bn3.running_var", "lstm.weight_ih_l0", "linear1.bias"):
        assert torch.equal(loaded[name], states[lstm_bias][name]), name


def test_the_old_file_format_loads_too(tmp_path: Path, states: dict[bool, State]) -> None:
    path = tmp_path / "df_model.pt"
    torch.save({"state_dict": states[True]}, path, _use_new_zipfile_serialization=False)
    bundle = load_bundle(path)
    assert bundle.architecture_options == {"lstm_bias": True}
    assert torch.equal(load_network(bundle).state_dict()["linear1.weight"], states[True]["linear1.weight"])


def test_the_profile_claims_no_more_than_is_known(tmp_path: Path, states: dict[bool, State]) -> None:
    path = tmp_path / "df_model.pt"
    torch.save(states[False], path)
    bundle = load_bundle(path)
    assert not bundle.calibration.calibrated
    assert bundle.thresholds.false_positive_rate is None
    assert "not verified" in bundle.thresholds.chosen_on
    assert (bundle.input.size_px, bundle.input.channel_order, bundle.crop.margin) == (112, "bgr", 0.0)
    assert bundle.output.label_order == ("FAKE", "REAL")
    assert bundle.licence.startswith("unknown")


def test_another_bare_checkpoint_is_refused_with_what_to_do(tmp_path: Path, states: dict[bool, State]) -> None:
    path = tmp_path / "model.pt"
    torch.save({name: tensor for name, tensor in states[False].items() if not name.startswith("lstm.")}, path)
    with pytest.raises(BundleError, match=r"not of the df_model\.pt family") as caught:
        load_bundle(path)
    assert "dfwatch model import" in caught.value.hint


def test_a_bidirectional_fork_is_refused_by_its_shapes(tmp_path: Path, states: dict[bool, State]) -> None:
    path = tmp_path / "df_model.pt"
    torch.save(states[False] | {"linear1.weight": torch.zeros(2, 4096)}, path)
    with pytest.raises(CheckpointError, match=r"linear1\.weight has the shape \(2, 4096\)"):
        load_network(load_bundle(path))


def test_it_becomes_a_bundle_without_being_told_anything(tmp_path: Path, states: dict[bool, State]) -> None:
    path = tmp_path / "df_model.pt"
    torch.save({"net": states[True]}, path)
    written = import_checkpoint(path, tmp_path / "bundle", ImportFacts())
    assert load_bundle(tmp_path / "bundle") == written
    assert written.profile == ""
    assert written.input == load_bundle(path).input
    loaded = load_network(written).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in states[True].items())
    with pytest.raises(BundleError, match="a bundle is there already"):
        import_checkpoint(path, tmp_path / "bundle", ImportFacts())


@pytest.mark.parametrize("architecture", [None, "resnext50_lstm"])
def test_what_its_owner_says_goes_before_the_profile(
    tmp_path: Path, states: dict[bool, State], architecture: str | None
) -> None:
    path = tmp_path / "df_model.pt"
    torch.save(states[True], path)
    facts = ImportFacts(
        architecture=architecture,
        channel_order="rgb",
        size_px=224,
        margin=0.2,
        normalisation="half",
        label_order=("REAL", "FAKE"),
    )
    written = import_checkpoint(path, tmp_path / "bundle", facts)
    assert written.architecture_options == {"lstm_bias": True}
    assert (written.input.channel_order, written.input.mean) == ("rgb", (0.5, 0.5, 0.5))
    assert (written.input.size_px, written.crop.size_px, written.crop.margin) == (224, 224, 0.2)
    assert written.output.label_order == ("REAL", "FAKE")
    with pytest.raises(BundleError, match="unknown normalisation zscore"):
        import_checkpoint(path, tmp_path / "other", ImportFacts(normalisation="zscore"))
