"""Hints: a teacher that looks at each stored crop once, and a student that learns its answers and its features."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from dfwatch.errors import TrainingError
from dfwatch.models import architectures
from dfwatch.training import hints as hints_module
from dfwatch.training import opening
from dfwatch.training import teacher as teacher_module
from dfwatch.training.batches import BatchMaker, open_pools, plain_crops, rows_of
from dfwatch.training.cli import INCOMPLETE
from dfwatch.training.deck import FAKE
from dfwatch.training.hints import FOLDER_NAME, Hints, StoppedError, load_hints
from dfwatch.training.loop import RunOptions, Trainer
from dfwatch.training.objective import Teaching
from dfwatch.training.recipe import BatchSpec, DataSpec, Recipe, Stage, TeacherSpec
from tests.training.made import PLAIN, RedTeacher
from tests.training.test_evaluate import call
from tests.training.test_loop import recipe, stopping, tiny

BATCH = BatchSpec(labelled=8, blended=4, unlabelled=2)


RECIPE = """
id: tiny
architecture: {name: tiny}
norm: {mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}
data: {packs: [made], blend_packs: [made], unlabelled_packs: [made], margin: 0.0, shift_y: 0.0}
stages: [{size_px: 32, steps: 4, batch: {labelled: 8, blended: 4, unlabelled: 2}}]
teacher: {bundle: none, once: true, features: 1.0}
measure_every: 2
"""


@pytest.fixture(autouse=True)
def _tiny_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "BUILDERS", {**architectures.BUILDERS, "tiny": tiny})
    torch.set_num_threads(1)


def taught(steps: int = 30) -> Recipe:
    return recipe(
        teacher=TeacherSpec(bundle="none", weight=0.6, once=True, features=1.0),
        stages=(Stage(size_px=32, steps=steps, batch=BATCH),),
        data=DataSpec(packs=("made",), blend_packs=("made",), unlabelled_packs=("made",), margin=0.0, shift_y=0.0),
    )


def hints_of(data_root: str, folder: Path, teacher: RedTeacher) -> Hints:
    made = taught()
    return load_hints(made, open_pools(data_root, made, frozenset()), teacher, str(folder))


def trainer(data_root: str, folder: Path, steps: int = 30) -> Trainer:
    made = taught(steps)
    pools = open_pools(data_root, made, frozenset())
    hints = load_hints(made, pools, RedTeacher(), str(folder))
    options = RunOptions(folder=str(folder), workers=0, log_every=5)
    return Trainer(made, options, pools, [], Teaching(by="red", hints=hints))


def test_the_teacher_looks_at_every_training_crop_once_and_at_no_other(data_root: str, tmp_path: Path) -> None:
    teacher, heard = RedTeacher(), []
    made = taught()
    pools = open_pools(data_root, made, frozenset())
    hints = load_hints(made, pools, teacher, str(tmp_path), progress=lambda *counts: heard.append(counts))
    crops = {item.key for item in (*pools.reals, *pools.blendable, *pools.unlabelled)}
    crops |= {item.key for items in pools.fakes_of.values() for item in items}
    assert teacher.asked == len(crops) == len(hints.logits) == len(hints.features)
    assert heard[-1] == (len(crops), len(crops))
    assert {item.record.group for item, _ in rows_of(pools).values()} == set(pools.groups)


def test_hints_are_kept_for_the_next_piece(data_root: str, tmp_path: Path) -> None:
    first = hints_of(data_root, tmp_path, RedTeacher())
    teacher = RedTeacher()
    again = hints_of(data_root, tmp_path, teacher)
    assert teacher.asked == 0
    for name in ("logits", "features", "mean", "scale"):
        assert torch.equal(getattr(first, name), getattr(again, name)), name
    assert os.listdir(tmp_path) == [FOLDER_NAME]


@pytest.mark.parametrize("change", [{"weights_sha256": "another"}, {"conventions": "bgr"}, {"size_px": 24}])
def test_hints_are_made_anew_for_another_teacher_or_another_way_to_show_it_pictures(
    data_root: str, tmp_path: Path, change: dict[str, object]
) -> None:
    hints_of(data_root, tmp_path, RedTeacher())
    other = RedTeacher(**change)  # type: ignore[arg-type]
    assert other.asked < len(hints_of(data_root, tmp_path, other).logits) == other.asked


@pytest.mark.parametrize("change", [{"length": 1}, {"box": (0.1, 0.1, 0.8, 0.8)}])
def test_hints_are_made_anew_when_a_crop_is_another(data_root: str, tmp_path: Path, change: dict[str, object]) -> None:
    hints_of(data_root, tmp_path, RedTeacher())
    pools = open_pools(data_root, taught(), frozenset())
    first = pools.reals[0]
    length = first.record.length + 1 if "length" in change else first.record.length
    record = dataclasses.replace(first.record, **{**change, "length": length})
    pools = dataclasses.replace(pools, reals=(dataclasses.replace(first, record=record), *pools.reals[1:]))
    again = RedTeacher()
    load_hints(taught(), pools, again, str(tmp_path))
    assert again.asked > 0


def test_a_look_that_was_stopped_goes_on_where_it_was(
    data_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = hints_of(data_root, tmp_path / "whole", RedTeacher())
    monkeypatch.setattr(hints_module, "_CHUNK", 20)
    made = taught()
    pools = open_pools(data_root, made, frozenset())
    crops = len(rows_of(pools))
    pieces = -(-crops // 20)
    asked = 0
    for number in range(pieces):
        teacher, looks = RedTeacher(), []

        def one(slowest_s: float, heard: list[float] = looks) -> bool:
            heard.append(slowest_s)
            return len(heard) > 1

        if number < pieces - 1:
            with pytest.raises(StoppedError):
                load_hints(made, pools, teacher, str(tmp_path / "pieces"), must_stop=one)
            assert looks[0] == 0 < looks[1]
        else:
            hints = load_hints(made, pools, teacher, str(tmp_path / "pieces"), must_stop=one)
        asked += teacher.asked
    assert asked == crops
    for name in ("logits", "features", "mean", "scale"):
        assert torch.equal(getattr(whole, name), getattr(hints, name)), name
    assert len(os.listdir(tmp_path / "pieces" / FOLDER_NAME)) == pieces
    # Pieces that a smaller look no longer needs go.
    monkeypatch.setattr(hints_module, "_CHUNK", 512)
    load_hints(made, pools, RedTeacher(weights_sha256="another"), str(tmp_path / "pieces"))
    assert os.listdir(tmp_path / "pieces" / FOLDER_NAME) == ["00000.safetensors"]


def test_hints_go_where_the_run_is(data_root: str, tmp_path: Path) -> None:
    hints = hints_of(data_root, tmp_path, RedTeacher()).to("meta")
    assert {getattr(hints, part.name).device.type for part in dataclasses.fields(hints)} == {"meta"}


def test_a_damaged_hints_file_is_named(data_root: str, tmp_path: Path) -> None:
    (tmp_path / FOLDER_NAME).mkdir()
    (tmp_path / FOLDER_NAME / "00000.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(TrainingError, match=r"00000\.safetensors"):
        hints_of(data_root, tmp_path, RedTeacher())


@pytest.fixture
def _signals_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_signals_as_before")
@pytest.mark.parametrize("kind", ["signal", "time"])
def test_train_leaves_an_unfinished_look_in_order(
    data_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    looks = []

    class Looker(RedTeacher):
        maps = None

        def __init__(self, _bundle: str, _device: str) -> None:
            super().__init__()

        def __call__(self, crops: torch.Tensor) -> torch.Tensor:
            looks.append(len(crops))
            if len(looks) == 2 and kind == "signal":
                signal.raise_signal(signal.SIGTERM)
            return super().__call__(crops)

    monkeypatch.setattr(teacher_module, "Teacher", Looker)
    monkeypatch.setattr(opening, "inherited_groups", lambda _: frozenset())
    monkeypatch.setattr(hints_module, "_CHUNK", 20)
    recipe_file = tmp_path / "recipe.yaml"
    recipe_file.write_text(RECIPE)
    words = ["train", str(recipe_file), "--data", data_root, "--run", str(tmp_path / "run"), "--workers", "0"]
    words += ["--bundle", str(tmp_path / "bundle"), "--device", "cpu"]
    limit = ["--max-minutes", "0.000001"] if kind == "time" else []
    assert call(*words, *limit) == INCOMPLETE
    assert not (tmp_path / "bundle").exists()
    # The piece that it was looking at is finished and kept; without time none was begun.
    pieces = [20, 20] if kind == "signal" else []
    assert looks == pieces
    assert call(*words) == 0
    assert sum(looks) == len(rows_of(open_pools(data_root, taught(), frozenset())))
    assert (tmp_path / "bundle" / "bundle.yaml").exists()


def test_features_are_standardised_and_one_that_never_varies_says_nothing(data_root: str, tmp_path: Path) -> None:
    hints = hints_of(data_root, tmp_path, RedTeacher())
    scaled = hints.standardised(torch.arange(len(hints.features)))
    assert scaled.mean(0).abs().max() < 0.01
    assert scaled[:, :3].std(0).sub(1).abs().max() < 0.02
    assert torch.all(scaled[:, 3] == 0)


def test_each_crop_of_a_batch_points_at_the_hint_of_its_own_picture(data_root: str, tmp_path: Path) -> None:
    hints = hints_of(data_root, tmp_path, RedTeacher())
    made = dataclasses.replace(taught(), augment=PLAIN)
    pools = open_pools(data_root, made, frozenset())
    batch = BatchMaker(made, pools)[1]
    blended = slice(BATCH.labelled, BATCH.labelled + BATCH.blended)
    assert np.array_equal(batch.rows < 0, np.isin(np.arange(BATCH.size), np.arange(BATCH.size)[blended][1::2]))
    assert np.array_equal(batch.rows[blended] < 0, batch.labels[blended] == FAKE)
    plain = np.r_[: BATCH.labelled, BATCH.labelled + BATCH.blended : BATCH.size]
    colours = batch.crops[plain].mean((1, 2)) / 255
    assert np.abs(hints.features[batch.rows[plain]][:, :3].numpy() - colours).max() < 0.02


def test_a_student_learns_its_teachers_features_and_answers(data_root: str, tmp_path: Path) -> None:
    losses: list[float] = []
    run = trainer(data_root, tmp_path, steps=90)
    before = run.objective.state_dict()["features.weight"].clone()
    run.run(lambda entry: losses.append(entry.get("loss", 0.0)))
    assert losses[-1] < 0.7 * losses[0]
    assert not torch.equal(before, run.objective.state_dict()["features.weight"])
    items = [item for item, _ in rows_of(open_pools(data_root, taught(), frozenset())).values()]
    crops = plain_crops(items, 32, 0.0, 0.0)
    answers = RedTeacher()(torch.from_numpy(crops))
    assert np.corrcoef(run.score(crops), (answers[:, 1] - answers[:, 0]).numpy())[0, 1] > 0.5


def test_a_stopped_run_with_hints_ends_with_the_same_weights(data_root: str, tmp_path: Path) -> None:
    whole = trainer(data_root, tmp_path / "whole")
    whole.run()
    piece = trainer(data_root, tmp_path / "pieces")
    piece.run(stopping(piece, lambda entry: entry.get("step") == 15))
    assert piece.progress.step == 15
    again = trainer(data_root, tmp_path / "pieces")
    again.run()
    for name, value in whole.averaged.state.items():
        assert torch.equal(value, again.averaged.state[name]), name


def test_a_checkpoint_without_the_objective_does_not_continue_a_run_that_learns_features(
    data_root: str, tmp_path: Path
) -> None:
    trainer(data_root, tmp_path, steps=2).run()
    path = tmp_path / "checkpoint.pt"
    saved = torch.load(path, weights_only=True)
    del saved["objective"]
    torch.save(saved, path)
    with pytest.raises(TrainingError, match="lacks the objective"):
        trainer(data_root, tmp_path, steps=2)


def test_without_hints_a_recipe_that_wants_them_does_not_run(data_root: str, tmp_path: Path) -> None:
    made = taught()
    pools = open_pools(data_root, made, frozenset())
    with pytest.raises(TrainingError, match="teacher"):
        Trainer(made, RunOptions(folder=str(tmp_path), workers=0), pools, [], Teaching(answer=RedTeacher()))
