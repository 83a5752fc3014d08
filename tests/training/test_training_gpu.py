"""Training on a CUDA device; every test here is skipped, with the reason, where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dfwatch.training.augment import AugmentSpec
from dfwatch.training.batches import open_pools
from dfwatch.training.hints import load_hints
from dfwatch.training.loop import RunOptions, Trainer
from dfwatch.training.objective import Teaching
from dfwatch.training.ondevice.batches import DeviceBatchMaker
from dfwatch.training.opening import open_measured
from dfwatch.training.recipe import ArchitectureSpec, BatchSpec, DataSpec, Recipe, Stage, TeacherSpec
from tests.training.made import RedTeacher
from tests.training.test_loop import stopping

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]


def recipe(**changes: object) -> Recipe:
    batch = BatchSpec(labelled=16, blended=8, unlabelled=4, donor_share=0.5)
    fields = {
        "id": "gpu",
        "architecture": ArchitectureSpec(name="resnext50_32x4d"),
        "data": DataSpec(packs=("made",), blend_packs=("made",), unlabelled_packs=("made",), margin=0.0, shift_y=0.0),
        "stages": (Stage(size_px=64, steps=40, batch=batch),),
        "augment": AugmentSpec(h264_share=0.3, pad_share=0.3, noise_share=0.0),
        "batches": "device",
        "resident_px": 64,
        "precision": "bfloat16",
        "measure_every": 20,
    }
    return Recipe(**{**fields, **changes})  # type: ignore[arg-type]


def test_crops_made_on_the_gpu_are_those_made_on_the_cpu(data_root: str) -> None:
    torch.set_float32_matmul_precision("highest")  # training itself is content with less
    pools = open_pools(data_root, recipe(), frozenset())
    here, there = (DeviceBatchMaker(recipe(), pools, device) for device in ("cpu", "cuda"))
    for step in range(4):
        mine, theirs = here[step], there[step]
        assert torch.equal(mine.labels, theirs.labels.cpu())
        # Rounding may fall to the other side where a codec's steps are wide; nearly all pixels agree.
        apart = (mine.crops.float() - theirs.crops.cpu().float()).abs()
        assert float((apart > 3).float().mean()) < 0.02


def test_a_step_waits_for_nothing_and_a_stopped_run_goes_on(data_root: str, tmp_path: Path) -> None:
    options = RunOptions(folder=str(tmp_path), device="cuda", workers=0, log_every=10)
    pools = open_pools(data_root, recipe(), frozenset())
    measured = open_measured(data_root, recipe(), frozenset())
    run = Trainer(recipe(), options, pools, measured)
    batches = run.feed.batches(range(6))
    for _ in range(3):  # what is made once is made now
        run._step(next(batches))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            run._step(next(batches))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    first = Trainer(recipe(), options, pools, measured)
    first.run(stopping(first, lambda entry: entry["step"] == 20))
    again = Trainer(recipe(), options, pools, measured)
    assert again.progress.step == 20
    assert again.run().finished
    assert all(bool(value.isfinite().all()) for value in again.averaged.state.values())


def test_hints_made_on_the_cpu_teach_on_the_gpu(data_root: str, tmp_path: Path) -> None:
    made = recipe(
        batches="workers",
        resident_px=160,
        teacher=TeacherSpec(bundle="none", once=True, features=1.0),
        stages=(Stage(size_px=64, steps=4, batch=BatchSpec(labelled=16, blended=8, unlabelled=4)),),
    )
    pools = open_pools(data_root, made, frozenset())
    hints = load_hints(made, pools, RedTeacher(), str(tmp_path))
    assert hints.features.device.type == "cpu"
    options = RunOptions(folder=str(tmp_path), device="cuda", workers=0)
    run = Trainer(made, options, pools, [], Teaching(by="red", hints=hints))
    assert run.run().finished
    assert all(bool(value.isfinite().all()) for value in run.averaged.state.values())
