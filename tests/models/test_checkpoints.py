from __future__ import annotations

import dataclasses
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dfwatch.errors import CheckpointError
from dfwatch.models.bundle import file_sha256, write_bundle
from dfwatch.models.checkpoints import fill_network, half_precision, load_network, read_state_dict
from tests.models.seeded import example_bundle

if TYPE_CHECKING:
    from pathlib import Path

    from dfwatch.models.bundle import Bundle


class TinyNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(TinyNet().state_dict())


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def filled(state: dict[str, torch.Tensor], path: Path) -> TinyNet:
    network = TinyNet()
    fill_network(network, state, path)
    return network


def test_both_kinds_of_file_give_their_tensors(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pt")
    torch.save(state, tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "b.pt", "c.pth"):
        assert_same(read_state_dict(tmp_path / name), state)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "net", "model_state_dict", "network", "weights"])
def test_a_wrapped_state_dict_is_found(tmp_path: Path, state: dict[str, torch.Tensor], wrapper: str) -> None:
    optimiser = {"state": {0: {"momentum": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({"epoch": 3, wrapper: state, "optimizer": optimiser, "loss": torch.tensor(0.2)}, tmp_path / "a.pt")
    torch.save({"outer": 1, "model": {wrapper: state}}, tmp_path / "b.pt")
    assert_same(read_state_dict(tmp_path / "a.pt"), state)
    assert_same(read_state_dict(tmp_path / "b.pt"), state)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.module.", "net.backbone."])
def test_a_prefix_before_every_name_is_taken_off(state: dict[str, torch.Tensor], tmp_path: Path, prefix: str) -> None:
    network = filled({prefix + name: tensor for name, tensor in state.items()}, tmp_path / "a.pt")
    assert_same(dict(network.state_dict()), state)


def test_half_precision_and_old_files_load_as_float32(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    old = {name: tensor.double() for name, tensor in state.items() if "num_batches" not in name}
    network = filled(old, tmp_path / "old.pt")
    assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}
    assert_same(dict(network.state_dict()), state)
    halved = filled(half_precision(state), tmp_path / "half.pt")
    assert {tensor.dtype for tensor in halved.parameters()} == {torch.float32}
    torch.testing.assert_close(halved.fc.weight, state["fc.weight"], rtol=1e-3, atol=1e-6)


def test_only_matrices_that_fit_become_float16(state: dict[str, torch.Tensor]) -> None:
    state["fc.weight"][0, 0] = 1e6
    halved = half_precision(state)
    kinds = {name: tensor.dtype for name, tensor in halved.items()}
    assert kinds["conv.weight"] == torch.float16
    assert kinds["fc.weight"] == kinds["norm.running_var"] == kinds["conv.bias"] == torch.float32
    assert kinds["norm.num_batches_tracked"] == torch.int64


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, state: dict[str, torch.Tensor], kind: str, share: float) -> None:
    path = tmp_path / f"weights.{kind}"
    save_file(state, path) if kind == "safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(CheckpointError, match=r"truncated|neither") as caught:
        read_state_dict(path)
    assert "copy the file again" in caught.value.hint
    assert not caught.value.retryable


class Malice:
    """Unpickling one of these creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.target), "w")


@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickled_object_is_refused_and_never_run(
    tmp_path: Path, state: dict[str, torch.Tensor], new_format: bool
) -> None:
    target = tmp_path / "executed"
    path = tmp_path / "model.pt"
    torch.save({"state_dict": state, "more": Malice(target)}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(CheckpointError, match="whatever code the file's author chose") as caught:
        read_state_dict(path)
    assert not target.exists()
    assert "state_dict()" in caught.value.hint


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(TinyNet(), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"it holds pickled objects \(.*TinyNet.*\)"):
        read_state_dict(tmp_path / "model.pt")


def test_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"a": [1, 2, 3]}))
    with pytest.raises(CheckpointError):
        read_state_dict(tmp_path / "model.pkl")


@pytest.mark.parametrize("value", [{}, {"epoch": 1}, [1, 2], torch.ones(3), {"model": {"model": {}}}])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="no state dict"):
        read_state_dict(tmp_path / "a.pt")


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        read_state_dict(tmp_path / "nothing.pt")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["conv.weight", "norm.running_mean", "fc.bias"])
def test_values_that_are_not_finite_are_refused(
    state: dict[str, torch.Tensor], tmp_path: Path, bad: float, name: str
) -> None:
    state[name].view(-1)[1] = bad
    with pytest.raises(CheckpointError, match=f"1 of the {state[name].numel()} values of {name} are NaN or infinite"):
        filled(state, tmp_path / "a.pt")


def test_a_negative_variance_is_refused(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state["norm.running_var"][0] = -0.1
    with pytest.raises(CheckpointError, match="negative variance"):
        filled(state, tmp_path / "a.pt")


def test_whole_numbers_are_refused(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state["fc.weight"] = torch.zeros(2, 4, dtype=torch.int8)
    with pytest.raises(CheckpointError, match=r"fc\.weight holds torch\.int8"):
        filled(state, tmp_path / "a.pt")


def test_a_wrong_shape_is_refused(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state["fc.weight"] = torch.zeros(3, 4)
    with pytest.raises(CheckpointError, match=r"fc\.weight has the shape \(3, 4\), the network needs \(2, 4\)"):
        filled(state, tmp_path / "a.pt")


def test_missing_and_unknown_names_are_told_apart(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    del state["fc.bias"]
    state["head.bias"] = torch.zeros(2)
    with pytest.raises(CheckpointError) as caught:
        filled({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "a.pt")
    assert "1 of 8 tensors are missing (fc.bias)" in caught.value.cause
    assert "1 belong to another network (head.bias)" in caught.value.cause


def test_weights_that_are_not_the_bundles_are_refused(tmp_path: Path, small_bundle: Bundle) -> None:
    changed = bytearray(small_bundle.weights_path.read_bytes())
    changed[-1] ^= 1
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(changed)
    with pytest.raises(CheckpointError, match="its sha256 is"):
        load_network(dataclasses.replace(small_bundle, folder=folder))


def test_a_bundle_of_another_architecture_is_refused(small_bundle: Bundle) -> None:
    with pytest.raises(CheckpointError, match="tensors are missing") as caught:
        load_network(dataclasses.replace(small_bundle, architecture="efficientnet_lite2"))
    assert "right architecture" in caught.value.hint


def test_a_loaded_network_has_the_written_weights(tmp_path: Path, small_bundle: Bundle) -> None:
    network = load_network(small_bundle)
    assert not network.training
    written = write_bundle(tmp_path / "again", example_bundle(), network.state_dict())
    assert written.weights_sha256 == file_sha256(small_bundle.weights_path)
