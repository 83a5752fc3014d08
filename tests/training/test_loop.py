from __future__ import annotations

import dataclasses
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dfwatch.errors import TrainingError
from dfwatch.models import architectures
from dfwatch.training import loop
from dfwatch.training.augment import AugmentSpec
from dfwatch.training.batches import BatchMaker, open_pools
from dfwatch.training.deck import FAKE, REAL, UNLABELLED, Deck, Item, Pools
from dfwatch.training.export import read_log
from dfwatch.training.loop import LOG_NAME, RunOptions, Trainer
from dfwatch.training.objective import Teaching
from dfwatch.training.opening import open_measured, open_trainer
from dfwatch.training.recipe import (
    ArchitectureSpec,
    BatchSpec,
    DataSpec,
    NormSpec,
    OptimSpec,
    Recipe,
    Stage,
    TeacherSpec,
)
from dfwatch.training.records import INDEX_NAME, read_index, write_index
from dfwatch.training.splits import SplitRule
from tests.training.made import record

BATCH = BatchSpec(labelled=8, blended=4)


def tiny(num_outputs: int = 2, drop_rate: float = 0.1) -> torch.nn.Module:
    """A network that learns the bright spot in a few steps, with dropout and running statistics."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 16, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Dropout(drop_rate),
        torch.nn.Linear(16 * 8 * 8, num_outputs),
    )


@pytest.fixture(autouse=True)
def _tiny_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "BUILDERS", {**architectures.BUILDERS, "tiny": tiny})
    # Networks this small lose more time to waiting for each other's threads than they gain.
    torch.set_num_threads(1)


def recipe(**changes: object) -> Recipe:
    fields = {
        "id": "tiny",
        "architecture": ArchitectureSpec(name="tiny"),
        "norm": NormSpec(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        "data": DataSpec(packs=("made",), blend_packs=("made",), margin=0.0, shift_y=0.0),
        "stages": (Stage(size_px=32, steps=30, batch=BATCH),),
        "optim": OptimSpec(lr=3e-3),
        "ema_decay": 0.9,
        "measure_every": 10,
    }
    return Recipe(**{**fields, **changes})  # type: ignore[arg-type]


def trainer(data_root: str, folder: Path, the_recipe: Recipe, **options: object) -> Trainer:
    told = RunOptions(**{"folder": str(folder), "log_every": 5, "workers": 0, **options})  # type: ignore[arg-type]
    return open_trainer(data_root, the_recipe, told, frozenset())


def stopping(run: Trainer, wanted: Callable[[dict[str, Any]], bool]) -> Callable[[dict[str, Any]], None]:
    """A listener that stops a run at the first report that is wanted."""
    asked = threading.Event()
    run.options = dataclasses.replace(run.options, stop_asked=asked.is_set)
    return lambda entry: asked.set() if wanted(entry) else None


def weights(one: Trainer) -> dict[str, torch.Tensor]:
    return one.averaged.state


def test_a_run_learns_and_leaves_weights_checkpoint_and_log(data_root: str, tmp_path: Path) -> None:
    run = trainer(data_root, tmp_path, recipe(stages=(Stage(size_px=32, steps=40, batch=BATCH),)))
    progress = run.run()
    assert progress.finished
    assert progress.best_auc > 0.8
    assert {"best.safetensors", "checkpoint.pt", "log.jsonl"} <= set(os.listdir(tmp_path))
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if entry["event"] == "measure"] == [10, 20, 30, 40]
    assert {"loss", "lr", "crops_per_s", "waiting_for_data", "left_s"} <= set(log[0])


def test_a_run_that_was_stopped_ends_with_the_same_weights(data_root: str, tmp_path: Path) -> None:
    whole = trainer(data_root, tmp_path / "whole", recipe())
    whole.run()
    for _ in range(10):
        piece = trainer(data_root, tmp_path / "pieces", recipe())
        if piece.run(stopping(piece, lambda entry: entry["event"] == "train")).finished:
            break
    assert piece.progress == whole.progress
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(piece)[name]), name


def test_batches_made_on_the_device_teach_and_a_stopped_run_ends_the_same(data_root: str, tmp_path: Path) -> None:
    made = recipe(batches="device", resident_px=64, stages=(Stage(size_px=32, steps=40, batch=BATCH),))
    whole = trainer(data_root, tmp_path / "whole", made)
    assert whole.run().best_auc > 0.8
    piece = trainer(data_root, tmp_path / "pieces", made)
    piece.run(stopping(piece, lambda entry: entry["event"] == "train" and entry["step"] == 25))
    assert piece.progress.step == 25
    again = trainer(data_root, tmp_path / "pieces", made, parts_folder=str(tmp_path / "carried"))
    at_once = ["best-001-of-001.safetensors", "training_groups.txt"]  # the best so far
    assert sorted(os.listdir(tmp_path / "carried")) == at_once
    again.run()
    assert sorted(os.listdir(tmp_path / "carried")) == sorted([*at_once, "log.jsonl"])
    assert again.progress == whole.progress
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(whole).items())


class _Waits(TorchDispatchMode):
    """Notes every operation whose result the host has to read before it can go on."""

    _ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        masked = name.startswith("index") and any(
            isinstance(part, torch.Tensor) and part.dtype == torch.bool
            for arg in args
            if isinstance(arg, (list, tuple))
            for part in arg
        )
        if name in self._ASKING or masked:
            self.asked.append(name)
        return func(*args, **(kwargs or {}))


def test_a_step_asks_the_device_for_nothing(data_root: str, tmp_path: Path) -> None:
    """On a GPU each such question costs a whole step's head start. The optimiser is torch's own affair: fused there."""
    made = recipe(
        stages=(Stage(size_px=32, steps=9, batch=BatchSpec(labelled=8, blended=4, unlabelled=4, donor_share=0.5)),),
        data=DataSpec(packs=("made",), blend_packs=("made",), unlabelled_packs=("made",), margin=0.0, shift_y=0.0),
        augment=AugmentSpec(h264_share=0.5, pad_share=0.5, noise_share=0.5, blur_share=0.5, rotate_share=0.5),
        teacher=TeacherSpec(bundle="none"),
        batches="device",
        resident_px=64,
    )
    pools, options = open_pools(data_root, made, frozenset()), RunOptions(folder=str(tmp_path), workers=0)
    run = Trainer(made, options, pools, [], Teaching(answer=lambda crops: crops.float().mean((1, 2))[:, :2]))
    run.optimizer.step = lambda: None  # type: ignore[assignment, method-assign]
    with _Waits() as waits:
        for batch in run.feed.batches(range(3)):
            run._step(batch)
        assert waits.asked == []
        run._mean_loss(3)
    assert waits.asked == ["_local_scalar_dense"]


def test_time_that_is_up_leaves_a_checkpoint_and_no_step(data_root: str, tmp_path: Path) -> None:
    late = trainer(data_root, tmp_path, recipe(), stop_at=time.monotonic() + 1)  # less than a checkpoint is allowed
    assert not late.run().finished
    assert late.progress.step == 0
    assert (tmp_path / "checkpoint.pt").exists()


def test_time_for_a_slow_step_and_the_first_measurement_is_kept(
    data_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0

    def answer(crops: torch.Tensor) -> torch.Tensor:
        nonlocal now_s
        now_s += 10
        return torch.zeros(len(crops), 2)

    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now_s, time=lambda: 0))
    taught = recipe(teacher=TeacherSpec(bundle="here"))
    pools, measured = open_pools(data_root, taught, frozenset()), open_measured(data_root, taught, frozenset())
    for stop_at_s, measured_at, steps in ((114, 0, 9), (139, 10, 13)):
        now_s = 0.0
        options = RunOptions(folder=str(tmp_path / f"{stop_at_s}"), workers=0, stop_at=stop_at_s)
        # One batch has as many crops as are measured: that takes no longer than a step, 10 s.
        run = Trainer(taught, options, pools, measured[: BATCH.size], Teaching(by="it", answer=answer))
        progress = run.run()
        assert (progress.best_step, progress.step) == (measured_at, steps)
        assert now_s + 5 < stop_at_s  # a checkpoint and the bundle


def zeros(who: str) -> Teaching:
    return Teaching(by=who, answer=lambda crops: torch.zeros(len(crops), 2))


def test_another_teacher_does_not_continue_a_run(data_root: str, tmp_path: Path) -> None:
    taught = recipe(teacher=TeacherSpec(bundle="here"))
    pools, options = (
        open_pools(data_root, taught, frozenset()),
        RunOptions(folder=str(tmp_path), workers=0, stop_at=0.0),
    )
    Trainer(taught, options, pools, [], zeros("first")).run()
    Trainer(taught, options, pools, [], zeros("first"))
    with pytest.raises(TrainingError, match="another teacher"):
        Trainer(taught, options, pools, [], zeros("second"))


def test_the_same_seed_gives_the_same_run_and_another_seed_another(data_root: str, tmp_path: Path) -> None:
    runs = [
        trainer(data_root, tmp_path / str(number), recipe(seed=seed, measure_every=100))
        for number, seed in enumerate((1, 1, 2))
    ]
    for run in runs:
        run.run()
    first, again, other = (weights(run)["0.weight"] for run in runs)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_loader_processes_change_nothing(data_root: str, tmp_path: Path) -> None:
    short = recipe(stages=(Stage(size_px=32, steps=4, batch=BATCH),))
    alone, helped = trainer(data_root, tmp_path / "a", short), trainer(data_root, tmp_path / "b", short, workers=1)
    alone.run()
    helped.run()
    assert torch.equal(weights(alone)["0.weight"], weights(helped)["0.weight"])


def test_another_recipe_does_not_continue_a_run(data_root: str, tmp_path: Path) -> None:
    trainer(data_root, tmp_path, recipe(), stop_at=0.0).run()
    with pytest.raises(TrainingError, match="another recipe"):
        trainer(data_root, tmp_path, recipe(seed=9))


def test_a_checkpoint_older_than_the_objective_goes_on(data_root: str, tmp_path: Path) -> None:
    trainer(data_root, tmp_path, recipe(), stop_at=0.0).run()
    path = tmp_path / "checkpoint.pt"
    saved = torch.load(path, weights_only=True)
    del saved["objective"]
    torch.save(saved, path)
    assert trainer(data_root, tmp_path, recipe()).run().finished


def test_patience_ends_a_run_that_no_longer_improves(data_root: str, tmp_path: Path) -> None:
    run = trainer(
        data_root, tmp_path, recipe(stages=(Stage(size_px=32, steps=2000, batch=BATCH),), measure_every=5, patience=2)
    )
    progress = run.run()
    assert progress.finished
    assert progress.step < 2000


def test_a_loss_that_is_no_number_stops_the_run(data_root: str, tmp_path: Path) -> None:
    run = trainer(data_root, tmp_path, recipe())
    with torch.no_grad():
        run.network[0].weight.fill_(float("nan"))  # type: ignore[index, union-attr]
    with pytest.raises(TrainingError, match="loss is nan"):
        run.run()
    assert not (tmp_path / "checkpoint.pt").exists()  # such weights never replace good ones


def test_a_student_follows_its_teacher_where_there_are_no_labels(data_root: str, tmp_path: Path) -> None:
    distilling = recipe(
        teacher=TeacherSpec(bundle="none", weight=0.5),
        data=DataSpec(packs=("made",), unlabelled_packs=("made",), margin=0.0, shift_y=0.0),
        stages=(Stage(size_px=32, steps=60, batch=BatchSpec(labelled=0, blended=0, unlabelled=12)),),
    )
    options = RunOptions(folder=str(tmp_path), workers=0)

    def teacher(crops: torch.Tensor) -> torch.Tensor:
        """Calls red pictures fake: nothing that the labels know of."""
        red = crops[..., 0].float().mean((1, 2)) - crops[..., 2].float().mean((1, 2))
        return torch.stack([-red, red], 1) / 5

    pools = open_pools(data_root, distilling, frozenset())
    run = Trainer(distilling, options, pools, [], Teaching(answer=teacher))
    run.run()
    rng = np.random.default_rng(0)
    crops = np.clip(rng.normal(128, 10, (60, 32, 32, 3)) + rng.normal(0, 25, (60, 1, 1, 3)), 0, 255).astype(np.uint8)
    wanted = (teacher(torch.from_numpy(crops))[:, 1] > 0).numpy()
    assert np.mean((run.score(crops) > 0) == wanted) > 0.85


def test_a_recipe_with_a_teacher_does_not_run_without_one(data_root: str, tmp_path: Path) -> None:
    wanting = recipe(teacher=TeacherSpec(bundle="none"))
    with pytest.raises(TrainingError, match="teacher"):
        Trainer(wanting, RunOptions(folder=str(tmp_path), workers=0), open_pools(data_root, wanting, frozenset()), [])


def test_batches_are_balanced_and_never_touch_held_out_groups(data_root: str) -> None:
    made = recipe(
        stages=(Stage(size_px=32, steps=40, batch=BatchSpec(labelled=8, blended=4, unlabelled=2, donor_share=0.5)),),
        data=DataSpec(packs=("made",), blend_packs=("made",), unlabelled_packs=("made",), margin=0.0, shift_y=0.0),
    )
    excluded = frozenset({"group3", "group4"})
    pools = open_pools(data_root, made, excluded)
    held_out = {item.record.group for item in open_measured(data_root, made, excluded)}
    assert held_out
    assert not pools.groups & (held_out | excluded)
    maker = BatchMaker(made, pools)
    batch = maker[3]
    assert batch.crops.shape == (14, 32, 32, 3)
    assert [int((batch.labels == label).sum()) for label in (REAL, FAKE, UNLABELLED)] == [6, 6, 2]
    assert np.array_equal(maker[3].crops, BatchMaker(made, pools)[3].crops)
    assert not np.array_equal(maker[3].crops, maker[4].crops)


def test_every_real_is_seen_once_in_an_epoch(data_root: str) -> None:
    made = recipe()
    pools = open_pools(data_root, made, frozenset())
    deck = Deck(made.seed, pools)
    rng = np.random.default_rng(0)
    pairs = [deck.labelled_pair(index, rng) for index in range(2 * len(pools.reals))]
    names = [real.record.name for real, _ in pairs]
    assert len(set(names[: len(pools.reals)])) == len(pools.reals)
    assert all(real.record.group == fake.record.group for real, fake in pairs)


def made_pools(reals_of: dict[str, int], fakes_of: dict[str, int]) -> Pools:
    """Pools of so many crops of each group; nothing is read."""
    places = iter(range(10**6))

    def items(label: str, group: str, count: int) -> tuple[Item, ...]:
        made = (record(f"{label}{group}-{number}", label, group, offset=next(places)) for number in range(count))
        return tuple(Item(SimpleNamespace(folder="made"), one) for one in made)  # type: ignore[arg-type]

    reals = tuple(item for group, count in reals_of.items() for item in items("REAL", group, count))
    fakes = {group: items("FAKE", group, count) for group, count in fakes_of.items()}
    return Pools(reals, fakes, tuple(sorted(set(fakes) - set(reals_of))), (), ())


def test_all_fakes_of_a_video_have_their_turn() -> None:
    pools = made_pools({f"g{number}": 16 for number in range(30)}, {f"g{number}": 64 for number in range(30)})
    deck, rng = Deck(0, pools), np.random.default_rng(0)
    names = [deck.labelled_pair(index, rng)[1].record.name for index in range(4 * 480)]
    # None twice in an epoch, and each once in four.
    assert [len(set(names[start : start + 480])) for start in range(0, 4 * 480, 480)] == [480] * 4
    assert len(set(names)) == 30 * 64


def test_fakes_without_a_real_have_their_share() -> None:
    rng = np.random.default_rng(0)
    known = {f"g{number}": 1 for number in range(90)}
    some = Deck(0, made_pools(known, {**known, **{f"o{number}": 1 for number in range(10)}}))
    drawn = [some.labelled_pair(index, rng)[1].record.group for index in range(5000)]
    assert np.mean([group.startswith("o") for group in drawn]) == pytest.approx(0.1, abs=0.02)
    # A single one is not drawn by every real that has no fake.
    lonely = Deck(0, made_pools({**known, **{f"r{number}": 1 for number in range(90)}}, {**known, "o": 1}))
    drawn = [lonely.labelled_pair(index, rng)[1].record.group for index in range(5000)]
    assert np.mean([group == "o" for group in drawn]) < 0.04


def test_a_run_goes_on_with_no_other_data_than_it_began_with(data_root: str, tmp_path: Path) -> None:
    run = trainer(data_root, tmp_path, recipe())
    run.save()
    somebody = frozenset({min(run.groups)})
    with pytest.raises(TrainingError, match="other data"):
        open_trainer(data_root, run.recipe, run.options, somebody)
    open_trainer(data_root, run.recipe, run.options, frozenset())


def test_a_log_whose_last_line_was_cut_short_goes_on(data_root: str, tmp_path: Path) -> None:
    piece = trainer(data_root, tmp_path, recipe())
    piece.run(stopping(piece, lambda entry: entry["event"] == "measure"))
    log = tmp_path / LOG_NAME
    before = read_log(str(tmp_path))
    log.write_bytes(log.read_bytes()[:-9])
    assert read_log(str(tmp_path)) == before[:-1]
    assert trainer(data_root, tmp_path, recipe()).run().finished
    steps = [entry["step"] for entry in read_log(str(tmp_path)) if entry["event"] == "train"]
    assert steps == [5, 10, 15, 20, 25, 30]


def test_a_run_that_gets_every_select_crop_wrong_leaves_weights_too(data_root: str, tmp_path: Path) -> None:
    pack = Path(shutil.copytree(Path(data_root) / "made", tmp_path / "data" / "made"))
    other_label = {"REAL": "FAKE", "FAKE": "REAL"}
    held_out = next(
        name for name in (f"group{number}" for number in range(60)) if SplitRule().of_group(name) != "train"
    )
    records = [
        dataclasses.replace(item, label=other_label[item.label], split="select") if item.group == held_out else item
        for item in read_index(str(pack / INDEX_NAME))
        if item.group == held_out or SplitRule().of_group(item.group) == "train"
    ]
    write_index(str(pack / INDEX_NAME), records)
    run = trainer(str(tmp_path / "data"), tmp_path / "run", recipe())
    run.run()
    assert [entry["auc"] for entry in read_log(str(tmp_path / "run")) if entry["event"] == "measure"][-1] == 0
    assert run.progress.best_step > 0
    assert (tmp_path / "run" / "best.safetensors").exists()


def test_an_empty_select_part_is_refused_with_advice(data_root: str) -> None:
    made = recipe()
    held_out = frozenset(item.record.group for item in open_measured(data_root, made, frozenset()))
    with pytest.raises(TrainingError, match="0 real and 0 fake"):
        open_measured(data_root, made, held_out)


def test_a_group_in_two_parts_of_the_packs_is_refused(data_root: str, tmp_path: Path) -> None:
    pack = Path(shutil.copytree(Path(data_root) / "made", tmp_path / "data" / "made"))
    # One pack says that a group is tested, which another trains on.
    other = Path(shutil.copytree(pack, tmp_path / "data" / "other"))
    trained = next(name for name in (f"group{number}" for number in range(60)) if SplitRule().of_group(name) == "train")
    records = [
        dataclasses.replace(item, split="test") if item.group == trained else item
        for item in read_index(str(other / INDEX_NAME))
    ]
    write_index(str(other / INDEX_NAME), records)
    made = recipe(data=DataSpec(packs=("made",), blend_packs=("other",), margin=0.0, shift_y=0.0))
    with pytest.raises(TrainingError, match=f"{trained}: this group is in two parts"):
        trainer(str(tmp_path / "data"), tmp_path / "run", made)


def test_an_empty_training_part_is_refused(data_root: str) -> None:
    everything = frozenset(f"group{number}" for number in range(60))
    with pytest.raises(TrainingError, match="no labelled crops of both labels"):
        open_pools(data_root, recipe(), everything)
