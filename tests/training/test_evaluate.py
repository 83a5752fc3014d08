from __future__ import annotations

import csv
import dataclasses
import html.parser
import json
import shlex
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dfwatch.cli import build_parser
from dfwatch.errors import ConfigError, TrainingError
from dfwatch.models import architectures
from dfwatch.models.bundle import Bundle, load_bundle
from dfwatch.training import commands, robustness
from dfwatch.training.alone import alone_in
from dfwatch.training.card import render
from dfwatch.training.cli import INCOMPLETE
from dfwatch.training.deck import Item
from dfwatch.training.export import export_bundle
from dfwatch.training.judging import Judged, draw_videos, judge_crops, no_more_fakes_than_reals, refuse_trained
from dfwatch.training.loop import LOG_NAME
from dfwatch.training.metrics import lower_bound, right_among_flagged, upper_bound
from dfwatch.training.packs import Pack, PackWriter
from dfwatch.training.recipe import load_recipe
from dfwatch.training.report import as_json, markdown, page, write_report
from dfwatch.training.summary import evaluate, operating_point
from tests.training.made import face_like, jpeg, record
from tests.training.test_loop import tiny

RECIPE = """
id: tiny
architecture: {name: tiny}
norm: {mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}
data: {packs: [made], margin: 0.0, shift_y: 0.0}
stages: [{size_px: 32, steps: 40, batch: {labelled: 8, blended: 0}}]
optim: {lr: 3.0e-3}
ema_decay: 0.9
measure_every: 20
about: {version: "7", description: Finds bright spots., licence: MIT, known_failures: [Everything else.]}
"""


class SpotFinder:
    """A detector that measures how much brighter the middle is than the rest."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def score(self, crops: np.ndarray) -> np.ndarray:
        middle = crops[:, 12:20, 12:20].mean((1, 2, 3)) - crops.mean((1, 2, 3))
        return (1 / (1 + np.exp(-(middle - 25) / 8))).astype(np.float32)


@pytest.fixture(scope="module")
def trained(data_root: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The bundle and run of the four commands of the docs, on made-up data."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("trained")
    (folder / "recipe.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(architectures, "BUILDERS", {**architectures.BUILDERS, "tiny": tiny})
        run, bundle = folder / "run", folder / "bundle"
        words = ["train", str(folder / "recipe.yaml"), "--data", data_root, "--run", str(run), "--workers", "0"]
        assert call(*words, "--bundle", str(bundle)) == 0
    return bundle, run


def call(*words: str) -> int:
    parsed = build_parser().parse_args(words)
    return int(parsed.command(parsed))


@pytest.fixture
def _spot_finder(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loader:
        @staticmethod
        def load(bundle: Bundle, _settings: object) -> SpotFinder:
            return SpotFinder(bundle)

    monkeypatch.setattr(commands, "Detector", Loader)


def test_a_run_becomes_a_bundle_with_a_card(trained: tuple[Path, Path]) -> None:
    bundle = load_bundle(trained[0])
    assert (bundle.id, bundle.version, bundle.input.size_px) == ("tiny", "7", 32)
    assert (bundle.crop.margin, bundle.crop.shift_y) == (0.0, 0.0)
    assert not bundle.calibration.calibrated
    assert len(bundle.trained_groups()) > 30
    assert "Finds bright spots." in bundle.card_text
    assert "Everything else." in bundle.card_text


def test_the_next_command_is_whole(
    trained: tuple[Path, Path], data_root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, bundle = str(trained[0].parent / "recipe.yaml"), str(tmp_path / "a bundle")
    words = ["train", recipe, "--data", data_root, "--run", str(trained[1]), "--only-bundle", "--bundle", bundle]
    assert call(*words) == 0
    following = shlex.split(capsys.readouterr().err.strip().rpartition("next: ")[2])
    assert following == ["dfwatch", "calibrate", bundle, "--data", data_root, "--pack", "made"]
    # It is a command line as it stands.
    build_parser().parse_args(following[1:])


def test_a_run_without_weights_yet_says_so(
    trained: tuple[Path, Path], data_root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(trained[0].parent / "recipe.yaml"), "--data", data_root, "--run", str(tmp_path / "run")]
    words += ["--workers", "0", "--bundle", str(tmp_path / "bundle"), "--max-minutes", "0.0001"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(architectures, "BUILDERS", {**architectures.BUILDERS, "tiny": tiny})
        assert call(*words) == INCOMPLETE
    assert "no weights yet" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_how_many_names_of_an_exclusion_list_were_met_is_said(
    trained: tuple[Path, Path], data_root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "exclude.txt").write_text("group1\nreal2\nclip3.mp4\n")
    exclude = ["--exclude", str(tmp_path / "exclude.txt")]
    words = ["train", str(trained[0].parent / "recipe.yaml"), "--data", data_root, "--run", str(tmp_path / "run")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(architectures, "BUILDERS", {**architectures.BUILDERS, "tiny": tiny})
        call(*words, *exclude, "--workers", "0", "--max-minutes", "0.0001")
    assert "2 of 3 names" in capsys.readouterr().err
    words = ["evaluate", str(trained[0]), "--data", data_root, "--pack", "made", "--out", str(tmp_path / "out")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "Detector", SimpleNamespace(load=lambda bundle, _settings: SpotFinder(bundle)))
        assert call(*words, *exclude, "--rounds", "2") == 0
    assert "2 of 3 names" in capsys.readouterr().err


def test_a_report_that_cannot_be_is_told_before_the_work(
    trained: tuple[Path, Path], data_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "Detector", None)  # there is no work without it
    words = ["evaluate", str(trained[0]), "--data", data_root, "--pack", "made", "--out"]
    (tmp_path / "file").write_text("of mine")
    with pytest.raises(TrainingError, match="making the report's folder"):
        call(*words, str(tmp_path / "file"))
    with pytest.raises(TrainingError, match="nowhere: there is none"):
        call(*words, str(tmp_path / "out"), "--run", str(tmp_path / "nowhere"))


def test_two_runs_do_not_train_in_one_folder(trained: tuple[Path, Path], data_root: str, tmp_path: Path) -> None:
    words = ["train", str(trained[0].parent / "recipe.yaml"), "--data", data_root, "--run", str(tmp_path / "run")]
    with alone_in(str(tmp_path / "run")), pytest.raises(TrainingError, match="another command is at work in it"):
        call(*words)
    assert not any((tmp_path / "run").iterdir())


def test_a_teacher_for_a_recipe_that_has_none_is_refused(trained: tuple[Path, Path], data_root: str) -> None:
    with pytest.raises(ConfigError, match="learns from none"):
        call(*("train", str(trained[0].parent / "recipe.yaml"), "--data", data_root, "--run", "x", "--teacher", "y"))


def test_a_bundle_names_the_step_of_its_weights_where_rounded_figures_tie(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained[1], tmp_path / "run"))
    made = load_recipe(str(trained[0].parent / "recipe.yaml"))
    log = [json.loads(line) for line in (run / LOG_NAME).read_text().splitlines()]
    measured = [entry for entry in log if entry["event"] == "measure"]
    assert measured[-1]["best_step"] in {20, 40}
    ties = [
        {**measured[0], "step": 20, "size_px": 32, "auc": 0.9876, "best_step": 20},
        {**measured[0], "step": 40, "size_px": 48, "auc": 0.9876, "best_step": 40},
        {**measured[0], "step": 60, "size_px": 64, "auc": 0.9, "best_step": 40},
    ]
    (run / LOG_NAME).write_text("".join(json.dumps(entry) + "\n" for entry in ties))
    bundle = export_bundle(str(run), made, str(tmp_path / "bundle"), ())
    assert (bundle.input.size_px, bundle.metrics["training"]["weights_of_step"]) == (48, 40)
    # Older logs do not name the step.
    for entry in ties:
        del entry["best_step"]
    (run / LOG_NAME).write_text("".join(json.dumps(entry) + "\n" for entry in ties))
    assert export_bundle(str(run), made, str(tmp_path / "old"), ()).metrics["training"]["weights_of_step"] == 20


@pytest.mark.usefixtures("_spot_finder")
def test_calibrate_then_evaluate_store_what_they_found(
    trained: tuple[Path, Path], data_root: str, tmp_path: Path
) -> None:
    bundle, run = Path(shutil.copytree(trained[0], tmp_path / "bundle")), trained[1]
    # A dozen held-out real groups can't promise one false alarm in a hundred.
    few = ["calibrate", str(bundle), "--data", data_root, "--pack", "made"]
    with pytest.raises(TrainingError, match="too few"):
        call(*few)
    assert call(*few, "--false-alarms", "0.5") == 0
    after = load_bundle(bundle)
    assert after.calibration.method == "platt"
    assert "select part of made" in after.calibration.fitted_on
    assert after.thresholds.false_positive_rate is not None
    words = ["evaluate", str(bundle), "--data", data_root, "--pack", "made", "--out", str(tmp_path / "report")]
    assert call(*words, "--rounds", "20", "--robustness", "3", "--run", str(run), "--store", "held out") == 0
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "report.html", "report.md", "evaluation.json", "scores.csv",
    }  # fmt: skip
    figures = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert figures["data"] == "test part of made"
    assert figures["all"]["AUC"][0] > 0.7
    assert set(figures["robustness"]) == {"unchanged", *robustness.CHANGES}
    stored = load_bundle(bundle)
    assert stored.metrics["held out"]["all"]["AUC"] == figures["all"]["AUC"]
    assert "### held out" in stored.card_text
    assert stored.weights_sha256 == after.weights_sha256
    assert stored.metrics["training"]["steps_trained"] == 40
    # Another calibration: what was measured under the old one is no longer true.
    assert call(*few, "--false-alarms", "0.6") == 0
    again = load_bundle(bundle)
    assert again.metrics == {"training": stored.metrics["training"]}
    assert "### held out" not in again.card_text


@pytest.mark.usefixtures("_spot_finder")
def test_a_calibrated_bundle_is_kept_beside_the_one_that_takes_its_place(
    trained: tuple[Path, Path], data_root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run, folder = trained[0].parent / "recipe.yaml", trained[1], tmp_path / "bundle"
    words = ["train", str(recipe), "--data", data_root, "--run", str(run), "--only-bundle", "--bundle", str(folder)]
    for _ in range(2):
        # One that is not calibrated yet is replaced, as after each piece of a run.
        assert call(*words) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert call("calibrate", str(folder), "--data", data_root, "--pack", "made", "--false-alarms", "0.5") == 0
    thresholds = load_bundle(folder).thresholds
    capsys.readouterr()
    assert call(*words) == 0
    assert f"is now {folder}.1" in capsys.readouterr().err
    assert load_bundle(f"{folder}.1").thresholds == thresholds
    assert not load_bundle(folder).calibration.calibrated


@pytest.mark.usefixtures("_spot_finder")
def test_the_fake_threshold_can_come_from_real_videos_with_several_frames(
    trained: tuple[Path, Path], data_root: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    data = Path(shutil.copytree(Path(data_root) / "made", tmp_path / "data" / "made")).parent
    for name, frames in (("videos", 4), ("single", 1)):
        with PackWriter(str(data / name)) as writer:
            for number in range(240):
                for frame in range(frames):
                    named = record(f"{number}-{frame}", "REAL", f"person{number}", video=f"video{number}")
                    writer.add(jpeg(face_like(rng)), named)
    bundle = Path(shutil.copytree(trained[0], tmp_path / "bundle"))
    words = ["calibrate", str(bundle), "--data", str(data), "--pack", "made", "--real-videos"]
    with pytest.raises(TrainingError, match="one frame only"):
        call(*words, "single")
    assert call(*words, "videos") == 0
    thresholds = load_bundle(bundle).thresholds
    assert thresholds.chosen_on.startswith("240 real videos of videos in 240 groups, 4 frames of each; for REAL,")
    assert thresholds.false_positive_rate is not None
    assert thresholds.false_positive_rate < 0.01
    # What a threshold was chosen on shows nothing of new videos, whichever packs are beside it.
    for packs, split, held_out in (
        (("made",), "test", True), (("made",), "select", False), (("videos", "made"), "test", False),
    ):  # fmt: skip
        told = [word for name in packs for word in ("--pack", name)]
        report = tmp_path / "report"
        evaluated = ["evaluate", str(bundle), "--data", str(data), *told, "--split", split, "--out", str(report)]
        assert call(*evaluated, "--rounds", "2") == 0
        assert ("no held-out figures" not in (report / "report.md").read_text()) is held_out
    both = Path(shutil.copytree(trained[0], tmp_path / "both"))
    shutil.copytree(data / "made", data / "twin")
    packs = ["--data", str(data), "--pack", "twin"]
    assert call("calibrate", str(both), *packs, "--pack", "made", "--no-guarantee") == 0
    assert call("evaluate", str(both), *packs, "--split", "select", "--out", str(tmp_path / "r"), "--rounds", "2") == 0
    assert "no held-out figures" in (tmp_path / "r" / "report.md").read_text()
    (tmp_path / "exclude.txt").write_text("\n".join(f"person{number}" for number in range(240)))
    with pytest.raises(TrainingError, match="no real video is there"):
        call(*words, "videos", "--exclude", str(tmp_path / "exclude.txt"))
    # Nobody whom the model was trained on may say how rarely it accuses.
    with pytest.raises(TrainingError, match="trained on"):
        call(*words, "made")


def test_labels_are_balanced_by_whole_videos(tmp_path: Path) -> None:
    frames_of = {"REAL": (1, 5, 2, 3), "FAKE": (4, 4, 1, 1, 6, 2, 3)}
    with PackWriter(str(tmp_path / "pack")) as writer:
        for label, counts in frames_of.items():
            for number, frames in enumerate(counts):
                for frame in range(frames):
                    named = record(f"{label}{number}-{frame}", label, f"{number}", video=f"{label}{number}")
                    writer.add(jpeg(face_like(np.random.default_rng(0))), named)
    pack = Pack(str(tmp_path / "pack"))
    items = [Item(pack, one) for one in pack.records]
    few_fakes = [item for item in items if not item.record.is_fake or item.record.video in {"FAKE0", "FAKE1"}]
    for drawn, reals, fakes in (
        (no_more_fakes_than_reals(items), 4, 4),
        # Reals are what a promise about false alarms rests on, and stay.
        (no_more_fakes_than_reals(few_fakes), 4, 2),
        (no_more_fakes_than_reals([item for item in items if item.record.is_fake]), 0, 7),
        (draw_videos(items, most_reals=3, most_fakes=3), 3, 3),
    ):
        videos = Counter(item.record.video for item in drawn)
        assert Counter(video[:4] for video in videos) == Counter({"REAL": reals, "FAKE": fakes})
        assert all(frames == frames_of[video[:4]][int(video[4:])] for video, frames in videos.items())


def test_thresholds_are_chosen_on_what_evaluate_will_see_and_every_crop_is_scored_once(
    trained: tuple[Path, Path], data_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Counting(SpotFinder):
        def score(self, crops: np.ndarray) -> np.ndarray:
            asked.append(len(crops))
            # One frame of each video looks fake without doubt: calibrating the mean is then not the mean of calibrated.
            return np.where(crops[:, 0, 0, 0] > 250, 0.999, super().score(crops)).astype(np.float32)

    monkeypatch.setattr(commands, "Detector", SimpleNamespace(load=lambda bundle, _: Counting(bundle)))
    rng = np.random.default_rng(0)
    with PackWriter(str(tmp_path / "data" / "videos")) as writer:
        for number in range(120):
            for label in ("REAL", "FAKE"):
                for frame in range(4):
                    crop = face_like(rng)
                    if label == "FAKE":
                        crop[24:40, 24:40] = np.clip(crop[24:40, 24:40].astype(int) + 30, 0, 255).astype(np.uint8)
                    crop[:8, :8] = 255 if frame == 0 else np.minimum(crop[:8, :8], 240)
                    named = record(f"{label}{number}-{frame}", label, f"new{number}", video=f"{label}{number}")
                    writer.add(jpeg(crop), dataclasses.replace(named, split="select"))
    bundle = Path(shutil.copytree(trained[0], tmp_path / "bundle"))
    data = ["--data", str(tmp_path / "data"), "--pack", "videos"]
    assert call("calibrate", str(bundle), *data, "--false-alarms", "0.1", "--misses", "0.05") == 0
    assert sum(asked) == 120 * 2 * 4
    after = load_bundle(bundle)
    words = ["evaluate", str(bundle), *data, "--split", "select", "--out", str(tmp_path / "report"), "--rounds", "2"]
    assert call(*words) == 0
    with (tmp_path / "report" / "scores.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    reals = [row["verdict"] == "FAKE" for row in rows if row["label"] in {"0", "REAL"}]
    fakes = [row["verdict"] == "REAL" for row in rows if row["label"] in {"1", "FAKE"}]
    assert (len(reals), len(fakes)) == (120, 120)
    assert "no held-out figures" in (tmp_path / "report" / "report.md").read_text()
    assert np.mean(reals) == pytest.approx(after.thresholds.false_positive_rate)
    assert np.mean(fakes) == 0.05


@pytest.mark.usefixtures("_spot_finder")
def test_groups_trained_on_are_refused_and_otherwise_named(
    trained: tuple[Path, Path], data_root: str, tmp_path: Path
) -> None:
    words = ["evaluate", str(trained[0]), "--data", data_root, "--pack", "made", "--split", "train"]
    words += ["--out", str(tmp_path), "--rounds", "5"]
    with pytest.raises(TrainingError, match=r"trained on \d+ of these"):
        call(*words)
    assert call(*words, "--include-trained") == 0
    for name in ("report.md", "report.html"):
        assert "These figures flatter it" in (tmp_path / name).read_text()
    with pytest.raises(TrainingError, match="flatter"):
        refuse_trained(load_bundle(trained[0]), ["group0", "group1", "group2", "group3"], allowed=False)
    assert refuse_trained(load_bundle(trained[0]), ["never seen"], allowed=False) == 0


def test_videos_and_packs_are_not_mixed(trained: tuple[Path, Path], tmp_path: Path) -> None:
    words = ["evaluate", str(trained[0]), "--out", str(tmp_path)]
    with pytest.raises(ConfigError, match="either --videos, or --data and --pack"):
        call(*words)
    with pytest.raises(ConfigError, match="are for packs"):
        call(*words, "--videos", str(tmp_path), "--robustness", "5")
    with pytest.raises(ConfigError, match="tells how it was trained"):
        call(*words, "--videos", str(tmp_path), "--store", "training")


@pytest.mark.usefixtures("_spot_finder")
def test_a_card_that_somebody_wrote_is_kept(
    trained: tuple[Path, Path], data_root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(trained[0], tmp_path / "bundle"))
    words = ["calibrate", str(bundle), "--data", data_root, "--pack", "made", "--false-alarms", "0.5"]
    assert call(*words) == 0
    assert sorted(path.name for path in bundle.glob("*.md")) == ["README.md"]
    card = bundle / "README.md"
    card.write_text("What I know of it.\n")
    assert call(*words) == 0
    assert (bundle / "README.1.md").read_text() == "What I know of it.\n"
    assert f"is now {bundle}/README.1.md" in capsys.readouterr().err
    assert "Finds bright spots." in card.read_text()


def test_the_card_of_a_model_of_unknown_origin_promises_no_refusal(trained: tuple[Path, Path]) -> None:
    bundle = load_bundle(trained[0])
    unknown = dataclasses.replace(bundle, training=dataclasses.replace(bundle.training, groups_file=""))
    assert "refuses to report on them. It knows them by their names" in render(bundle)
    assert "cannot refuse to report on them" in render(unknown)
    assert "it may have been these very videos" in markdown(evaluate(unknown, "made", some_judged(unknown), rounds=2))


def some_judged(bundle: Bundle) -> list[Judged]:
    rng = np.random.default_rng(3)
    judged = []
    for number in range(40):
        label = number % 2
        p_fake = float(np.clip(rng.normal(0.3 + 0.4 * label, 0.15), 0, 1))
        verdict = "FAKE" if p_fake >= bundle.thresholds.fake else "REAL"
        judged.append(
            Judged(
                name=f"<clip {number}>",
                label=label,
                group=f"g{number // 2}",
                source="one" if number < 20 else "two",
                manipulation="swap" if label else "",
                p_raw=p_fake,
                p_fake=p_fake,
                verdict=verdict,
                picture=face_like(rng, 32),
            )
        )
    nothing = {"p_raw": float("nan"), "p_fake": float("nan"), "verdict": "NO_FACE"}
    judged.append(Judged(name="dark", label=1, group="g99", source="two", manipulation="swap", **nothing))
    return judged


def test_videos_without_a_face_are_reported_both_ways(trained: tuple[Path, Path]) -> None:
    bundle = load_bundle(trained[0])
    found = evaluate(bundle, "made", some_judged(bundle), rounds=20)
    assert found.overall.without_face == 1
    assert (found.overall.fakes, found.no_face_as_real.fakes) == (20, 21)
    assert found.no_face_as_real.figures["fakes called FAKE"].value < found.overall.figures["fakes called FAKE"].value
    assert found.confusion["FAKE"]["NO_FACE"] == 1
    fakes = [item.p_fake for item in found.judged if item.label and item.verdict != "NO_FACE"]
    missed = found.overall.figures["fakes called REAL"].value
    assert missed == pytest.approx(np.mean(np.array(fakes) <= bundle.thresholds.real))
    assert [part.title for part in found.sources] == ["one", "two"]
    assert [part.title for part in found.manipulations] == ["one: swap", "two: swap"]
    assert (found.manipulations[0].reals, found.manipulations[0].fakes) == (10, 10)
    text = markdown(found)
    assert "no face counted as not fake" in text
    assert as_json(found)["sources"]["one"]["reals"] == 10


def test_figures_are_those_of_the_verdicts(trained: tuple[Path, Path]) -> None:
    bundle = load_bundle(trained[0])
    judged = some_judged(bundle)
    # Too few faces: the service says INCONCLUSIVE, whatever the score.
    held_back = [
        dataclasses.replace(item, verdict="INCONCLUSIVE") if item.label and item.verdict == "FAKE" else item
        for item in judged
    ]
    judged = [*held_back, dataclasses.replace(held_back[-1], name="broken", verdict="FAILED")]
    found = evaluate(bundle, "made", judged, rounds=5)
    assert found.overall.figures["fakes called FAKE"].value == 0
    assert found.overall.figures["coverage"].value < 0.9
    assert (found.overall.without_face, found.overall.unreadable) == (1, 1)
    # Nobody was told anything of it, which is no answer at all.
    assert found.no_face_as_real.fakes == 21
    assert "1 that could not be read" in markdown(found)


def test_scores_are_a_table_whatever_the_names(trained: tuple[Path, Path], tmp_path: Path) -> None:
    bundle = load_bundle(trained[0])
    odd = dataclasses.replace(some_judged(bundle)[1], name='a "b", c', source="x,y", manipulation='"swap"')
    write_report(evaluate(bundle, "made", [odd, some_judged(bundle)[0]], rounds=2), str(tmp_path))
    with (tmp_path / "scores.csv").open(newline="") as stream:
        row = next(csv.DictReader(stream))
    assert (row["name"], row["source"], row["manipulation"], row["label"]) == ('a "b", c', "x,y", '"swap"', "FAKE")


def test_the_report_says_what_other_thresholds_would_do(trained: tuple[Path, Path]) -> None:
    bundle = load_bundle(trained[0])
    found = evaluate(bundle, "made", some_judged(bundle), rounds=20)
    alarms = [point.false_alarms.value for point in found.operating_points]
    hits = [point.hits.value for point in found.operating_points]
    assert alarms == sorted(alarms, reverse=True)
    assert hits == sorted(hits, reverse=True)
    assert bundle.thresholds.fake in {point.fake for point in found.operating_points}
    none_seen = next(point for point in found.operating_points if point.false_alarms.value == 0 < point.hits.value)
    # Twenty reals without a false alarm: up to 14 in 100 may be called FAKE all the same.
    found_least = lower_bound(round(20 * none_seen.hits.value), 20, 0.95)
    assert 0 < found_least < none_seen.hits.value
    assert none_seen.right_if_even == pytest.approx(found_least / (found_least + 0.1391), abs=1e-3)
    assert none_seen.right_if_rare < 0.1
    text = markdown(found)
    assert "## What other FAKE thresholds would do" in text
    assert text.count("(shipped)") == 1


def test_twenty_videos_of_a_person_are_no_more_evidence_than_one(trained: tuple[Path, Path]) -> None:
    judged = some_judged(load_bundle(trained[0]))
    again = [dataclasses.replace(item, name=f"{number}") for item in judged for number in range(20)]
    once, often = (operating_point(items, 0.95, rounds=5) for items in (judged, again))
    assert once.false_alarms.value == 0
    assert often.right_if_even == once.right_if_even
    # A single accused video of a person is a false alarm of that person.
    accused = operating_point([*again, dataclasses.replace(judged[0], p_fake=0.99)], 0.95, rounds=5)
    most = upper_bound(1, 20, 0.95)
    least = lower_bound(round(20 * once.hits.value), 20, 0.95)
    assert accused.right_if_even == pytest.approx(right_among_flagged(least, most, 0.5))


def test_the_page_is_whole_and_needs_nothing_else(trained: tuple[Path, Path], tmp_path: Path) -> None:
    bundle = load_bundle(trained[0])
    log = [json.loads(line) for line in (trained[1] / LOG_NAME).read_text().splitlines()]
    found = evaluate(bundle, "made", some_judged(bundle), rounds=5)
    write_report(found, str(tmp_path), log)
    text = (tmp_path / "report.html").read_text()

    class Collector(html.parser.HTMLParser):
        tags: list[str]
        outside: list[str]

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.tags.append(tag)
            self.outside += [
                v or "" for k, v in attrs if k in {"src", "href"} and not (v or "").startswith(("data:", "#"))
            ]

    collector = Collector()
    collector.tags, collector.outside = [], []
    collector.feed(text)
    assert collector.outside == []
    assert collector.tags.count("svg") == 5
    assert collector.tags.count("img") == 24
    assert "&lt;clip" in text
    assert "<clip 1>" not in text
    assert page(found, log) == text


def test_crops_of_one_video_are_averaged(trained: tuple[Path, Path], pack: Pack) -> None:
    bundle = load_bundle(trained[0])
    reals = [item for item in pack.records if item.label == "REAL"][:3]
    items = [Item(pack, dataclasses.replace(item, video="one video")) for item in reals]
    (judged,) = judge_crops(SpotFinder(bundle), items)
    apart = [judge_crops(SpotFinder(bundle), [item])[0].p_fake for item in items]
    assert judged.p_fake == pytest.approx(np.mean(apart))
    assert judged.faces == 3


def test_a_real_and_a_fake_of_one_name_are_two_videos(trained: tuple[Path, Path], pack: Pack) -> None:
    bundle = load_bundle(trained[0])
    items = [Item(pack, dataclasses.replace(item, video="clip.mp4")) for item in pack.records[:4]]
    judged = judge_crops(SpotFinder(bundle), items)
    assert [(video.label, video.faces) for video in judged] == [(0, 2), (1, 2)]


@pytest.mark.parametrize("name", ["$a_{b$", "_hidden", "caf\udce9"])
def test_a_data_set_of_any_name_is_in_the_report(trained: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    judged = [
        Judged(name=f"{source}{n}", label=n % 2, group=f"{source}{n}", source=source, manipulation="", p_raw=0.1 * n,
               p_fake=0.1 * n, verdict="INCONCLUSIVE")
        for source in ("plain", name)
        for n in range(10)
    ]  # fmt: skip
    evaluation = evaluate(load_bundle(trained[0]), "made", judged, rounds=5)
    write_report(evaluation, str(tmp_path))
    # Matplotlib leaves every text beside its outlines as a comment.
    shown = name.encode("utf-8", "backslashreplace").decode()
    assert f"<!-- {' ' * name.startswith('_')}{shown} -->" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("name", list(robustness.CHANGES))
def test_changes_keep_size_and_do_change(name: str) -> None:
    crop = np.random.default_rng(0).integers(0, 255, (33, 33, 3)).astype(np.uint8)
    changed = robustness.CHANGES[name](crop)
    assert changed.shape == crop.shape
    assert changed.dtype == np.uint8
    assert not np.array_equal(changed, crop)
    assert np.array_equal(changed, robustness.CHANGES[name](crop))
