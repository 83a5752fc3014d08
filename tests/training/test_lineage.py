"""What a model knows through its first weights and its teacher is remembered, and never measured on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from dfwatch.errors import TrainingError
from dfwatch.models import architectures
from dfwatch.models.bundle import Bundle, group_hash
from dfwatch.training.batches import open_pools
from dfwatch.training.export import export_bundle
from dfwatch.training.lineage import GROUPS_FILE, inherited_groups, read_groups
from dfwatch.training.loop import CHECKPOINT_NAME, RunOptions, Trainer
from dfwatch.training.opening import open_measured, open_trainer
from dfwatch.training.recipe import BatchSpec, Recipe, Stage, TeacherSpec
from dfwatch.training.weights_files import save_parts
from tests.training.test_loop import recipe, tiny

SHORT = (Stage(size_px=32, steps=10, batch=BatchSpec(labelled=8, blended=4)),)


@pytest.fixture(autouse=True)
def _tiny_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "BUILDERS", {**architectures.BUILDERS, "tiny": tiny})
    torch.set_num_threads(1)


def opened(data_root: str, folder: Path, made: Recipe, parts: Path | None = None) -> Trainer:
    options = RunOptions(folder=str(folder), workers=0, parts_folder=str(parts or ""))
    return open_trainer(data_root, made, options, frozenset())


def bundled(data_root: str, folder: Path, made: Recipe, *more: str) -> Bundle:
    """Train a run in a folder and make a bundle of it that also knows some other groups."""
    run = opened(data_root, folder / "run", made, folder / "parts")
    run.run()
    return export_bundle(str(folder / "run"), made, str(folder / "bundle"), [*run.groups, *more])


def hashes(groups: frozenset[str]) -> frozenset[str]:
    return frozenset(map(group_hash, groups))


@pytest.mark.parametrize("kind", ["bundle", "run", "parts", "bundle/weights.safetensors"])
def test_a_bundle_remembers_what_its_first_weights_were_trained_on(data_root: str, tmp_path: Path, kind: str) -> None:
    first = recipe(stages=SHORT)
    # The first weights know people of whom the run that starts from them sees nothing.
    elder = bundled(data_root, tmp_path / "elder", first, "known of old")
    for name in ("run", "parts"):
        with (tmp_path / "elder" / name / GROUPS_FILE).open("a") as stream:
            stream.write(f"{group_hash('known of old')}\n")
    made = recipe(stages=SHORT, initial=str(tmp_path / "elder" / kind))
    younger = bundled(data_root, tmp_path / "younger", made)
    own = hashes(open_pools(data_root, made, frozenset()).groups)
    assert group_hash("known of old") in elder.trained_groups()
    assert younger.trained_groups() == own | {group_hash("known of old")}
    for name in ("run", "parts"):
        assert read_groups(str(tmp_path / "younger" / name)) == younger.trained_groups()


def test_a_bundle_remembers_what_its_teacher_was_trained_on(data_root: str, tmp_path: Path) -> None:
    bundled(data_root, tmp_path / "teacher", recipe(stages=SHORT), "only the teacher saw it")
    bundled(data_root, tmp_path / "other", recipe(stages=SHORT), "only the other teacher saw it")
    teachers = [str(tmp_path / name / "bundle") for name in ("teacher", "other")]
    made = recipe(stages=SHORT, teacher=TeacherSpec(bundle=teachers[0], others=(teachers[1],)))
    student = bundled(data_root, tmp_path / "student", made)
    assert group_hash("only the teacher saw it") in student.trained_groups()
    assert group_hash("only the other teacher saw it") in student.trained_groups()
    # A bundle that is made elsewhere, without the teacher, of what was carried away.
    elsewhere = dataclasses.replace(made, teacher=dataclasses.replace(made.teacher, bundle="not there"))
    again = export_bundle(str(tmp_path / "student" / "parts"), elsewhere, str(tmp_path / "again"), ())
    assert again.trained_groups() == student.trained_groups()


@pytest.mark.parametrize("way", ["initial", "teacher"])
def test_no_step_is_chosen_on_groups_that_first_weights_or_teacher_have_seen(
    data_root: str, tmp_path: Path, way: str
) -> None:
    held_out = open_measured(data_root, recipe(), frozenset())[0].record.group
    bundle = bundled(data_root, tmp_path / "elder", recipe(stages=SHORT), held_out).folder
    change = {"initial": str(bundle)} if way == "initial" else {"teacher": TeacherSpec(bundle=str(bundle))}
    with pytest.raises(TrainingError, match=r"trained on 1 of the \d+ groups of the select part") as caught:
        opened(data_root, tmp_path / "run", recipe(**change))
    assert "data.split" in str(caught.value)
    assert not (tmp_path / "run").exists()
    # Without that group nothing speaks against it.
    options = RunOptions(folder=str(tmp_path / "run"), workers=0)
    open_trainer(data_root, recipe(**change), options, frozenset({held_out}))


def test_a_piece_of_a_run_does_not_forget_the_groups_of_an_earlier_one(data_root: str, tmp_path: Path) -> None:
    made = recipe(stages=SHORT)
    first = opened(data_root, tmp_path, made)
    first.run()
    left_out = min(first.groups)
    # Checkpoints from before they knew their data go on with any.
    saved = torch.load(tmp_path / CHECKPOINT_NAME, weights_only=True)
    del saved["data"]
    torch.save(saved, tmp_path / CHECKPOINT_NAME)
    open_trainer(data_root, made, RunOptions(folder=str(tmp_path), workers=0), frozenset({left_out}))
    assert read_groups(str(tmp_path)) == hashes(first.groups)


def test_a_run_that_kept_no_groups_is_no_start_and_its_bundle_is(data_root: str, tmp_path: Path) -> None:
    made = recipe(stages=SHORT)
    run = opened(data_root, tmp_path / "run", made)
    run.run()
    (tmp_path / "run" / GROUPS_FILE).unlink()
    with pytest.raises(TrainingError, match=r"kept no training_groups\.txt"):
        inherited_groups(recipe(initial=str(tmp_path / "run")))
    export_bundle(str(tmp_path / "run"), made, str(tmp_path / "bundle"), run.groups)
    assert inherited_groups(recipe(initial=str(tmp_path / "bundle"))) == hashes(run.groups)


def test_weights_from_packages_and_foreign_folders_know_no_groups(tmp_path: Path) -> None:
    save_parts(str(tmp_path), tiny().state_dict())
    for source in ("none", "pypi", "torchvision", "timm", str(tmp_path), str(tmp_path / "some.safetensors")):
        assert inherited_groups(recipe(initial=source)) == frozenset()


@pytest.mark.parametrize("name", ["efficientnet_lite0_dfdc", "efficientnet_lite2_dfdc", "resnext50_32x4d_dfdc"])
def test_the_shipped_bundles_held_out_what_the_usual_split_holds_out(name: str) -> None:
    made = recipe(teacher=TeacherSpec(bundle=f"shipped:{name}"))
    # Two source videos of DFDC: one of the train part and one of the test part.
    assert group_hash("hqqmtxvbjj.mp4") in inherited_groups(made)
    assert group_hash("xnojggkrxt.mp4") not in inherited_groups(made)
