"""The maps of a network's stages, and learning them from a teacher's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dfwatch.errors import TrainingError
from dfwatch.models import architectures
from dfwatch.training.batches import open_pools
from dfwatch.training.features import MapTap
from dfwatch.training.loop import RunOptions, Trainer
from dfwatch.training.objective import Objective, Teaching
from dfwatch.training.ondevice.batches import TensorBatch
from dfwatch.training.recipe import ArchitectureSpec, BatchSpec, Recipe, Stage, TeacherSpec
from tests.training.test_loop import recipe, stopping, tiny


def maps_only(steps: int = 12) -> Recipe:
    """A recipe that learns next to nothing but the teacher's maps."""
    return recipe(
        architecture=ArchitectureSpec(name="efficientnet_lite0"),
        teacher=TeacherSpec(bundle="none", weight=1.0, maps=1.0, temperature=0.1),
        stages=(Stage(size_px=64, steps=steps, batch=BatchSpec(labelled=8, blended=0)),),
    )


class Guide:
    """A Lite0 with other weights than the student's."""

    def __init__(self) -> None:
        torch.manual_seed(7)
        self.network = architectures.build("efficientnet_lite0").eval()
        self.tap = MapTap(self.network)

    def maps(self, crops: torch.Tensor) -> list[torch.Tensor]:
        with torch.no_grad():
            self.network(crops.permute(0, 3, 1, 2) / 255)
        return self.tap.maps


def crops_of(count: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(3).integers(0, 256, (count, 64, 64, 3)).astype(np.uint8))


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2", "resnext50_32x4d", "resnext50_lstm"])
def test_stages_end_at_a_4th_8th_16th_and_32nd_of_the_side(name: str) -> None:
    network = architectures.build(name).eval()
    tap = MapTap(network)
    for _ in range(2):  # a second picture replaces the first one's maps
        network(torch.zeros(1, 3, 64, 64))
        assert [made.shape[-1] for made in tap.maps] == [16, 8, 4, 2]


def test_a_network_without_known_stages_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"teacher\.maps"):
        MapTap(tiny())


def test_maps_that_are_the_teachers_up_to_a_linear_map_cost_nothing() -> None:
    guide, crops = Guide(), crops_of(4)
    said = Teaching(answer=lambda given: torch.zeros(len(given), 2), maps=guide.maps)
    objective = Objective(maps_only(), guide.network, said)
    own = [made.clone() for made in guide.maps(crops)]
    nobody = torch.full((4,), -1)
    batch = TensorBatch(crops, torch.tensor([0, 1, 0, 1]), nobody)
    with torch.no_grad():
        before = float(objective(torch.zeros(4, 2), batch))
        for turn, made in zip(objective.maps, own, strict=True):
            weight, bias = turn.parameters()
            scale = 1 / (made.var((0, 2, 3), unbiased=False) + 1e-5).sqrt()
            weight.copy_(torch.diag(scale)[..., None, None])
            bias.copy_(-made.mean((0, 2, 3)) * scale)
        guide.maps(crops)
        after = float(objective(torch.zeros(4, 2), batch))
    assert before > after + 0.5
    assert after == pytest.approx(0.01 * np.log(2), abs=1e-3)  # what the answers cost at this temperature


def test_a_student_learns_its_teachers_maps_and_a_stopped_run_ends_the_same(data_root: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    made = maps_only()
    pools, losses = open_pools(data_root, made, frozenset()), []

    def trainer(folder: str) -> Trainer:
        said = Teaching(by="guide", answer=lambda given: torch.zeros(len(given), 2), maps=Guide().maps)
        return Trainer(made, RunOptions(folder=str(tmp_path / folder), workers=0, log_every=3), pools, [], said)

    whole = trainer("whole")
    whole.run(lambda entry: losses.append(entry.get("loss", losses[-1] if losses else 9.0)))
    assert losses[-1] < 0.9 * losses[0]
    piece = trainer("pieces")
    piece.run(stopping(piece, lambda entry: entry.get("step") == 6))
    again = trainer("pieces")
    assert again.progress.step == 6
    again.run()
    for name, value in whole.averaged.state.items():
        assert torch.equal(value, again.averaged.state[name]), name


def test_without_maps_a_recipe_that_wants_them_does_not_run() -> None:
    said = Teaching(answer=lambda given: torch.zeros(len(given), 2))
    with pytest.raises(TrainingError, match="teacher"):
        Objective(maps_only(), architectures.build("efficientnet_lite0"), said)
