from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dfwatch.errors import TrainingError
from dfwatch.training.pretrained import load_initial
from dfwatch.training.weights_files import read_best, save_best, save_parts
from tests.training.test_loop import recipe


def network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(40, 50), torch.nn.BatchNorm1d(50), torch.nn.Linear(50, 60))


def test_parts_are_small_and_together_are_the_weights_in_half_precision(tmp_path: Path) -> None:
    state = network().state_dict()
    names = save_parts(str(tmp_path), state, limit_bytes=7000)
    assert names == ["best-001-of-002.safetensors", "best-002-of-002.safetensors"]
    assert all((tmp_path / name).stat().st_size < 9000 for name in names)
    assert not set(load_file(tmp_path / names[0])) & set(load_file(tmp_path / names[1]))
    together = read_best(str(tmp_path))
    assert together is not None
    assert together.keys() == state.keys()
    for name, value in state.items():
        assert torch.allclose(together[name].float(), value.float(), atol=2e-4), name
    assert together["0.weight"].dtype == torch.float16
    assert together["1.running_var"].dtype == torch.float32


def test_parts_of_an_earlier_best_do_not_stay(tmp_path: Path) -> None:
    save_parts(str(tmp_path), network().state_dict(), limit_bytes=2000)
    names = save_parts(str(tmp_path), network().state_dict())
    assert names == ["best-001-of-001.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == names


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    names = save_parts(str(tmp_path), network().state_dict(), limit_bytes=5000)
    (tmp_path / names[-1]).unlink()
    with pytest.raises(TrainingError, match="parts are missing"):
        read_best(str(tmp_path))


def test_a_kill_or_a_copy_midway_never_mixes_two_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier, later = network().state_dict(), network().state_dict()
    replace = os.replace
    told = []
    for last in range(3):
        assert len(save_parts(str(tmp_path), earlier, limit_bytes=7000)) == 2
        left = [None] * last

        def kill(source: str, goal: str, left: list[None] = left) -> None:
            if not left:
                raise KeyboardInterrupt
            left.pop()
            replace(source, goal)

        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(os, "replace", kill)
            save_parts(str(tmp_path), later, limit_bytes=7000)
        try:
            found = read_best(str(tmp_path))
        except TrainingError:
            told.append("refused")
            continue
        assert found is not None
        told += [name for name, state in (("earlier", earlier), ("later", later)) if _alike(found, state)]
    assert told == ["earlier", "refused", "later"]


def _alike(found: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> bool:
    return all(torch.allclose(found[name].float(), value.float(), atol=2e-4) for name, value in state.items())


def test_the_whole_weights_come_before_parts(tmp_path: Path) -> None:
    assert read_best(str(tmp_path)) is None
    save_parts(str(tmp_path), network().state_dict())
    exact = network().state_dict()
    save_best(str(tmp_path), exact)
    together = read_best(str(tmp_path))
    assert together is not None
    assert all(torch.equal(together[name], value) for name, value in exact.items())


def test_training_starts_from_parts(tmp_path: Path) -> None:
    source, goal = network(), network()
    save_parts(str(tmp_path), source.state_dict(), limit_bytes=3000)
    assert load_initial(goal, recipe(initial=str(tmp_path))) == len(source.state_dict())
    for name, value in source.state_dict().items():
        assert torch.allclose(goal.state_dict()[name].float(), value.float(), atol=2e-4), name
