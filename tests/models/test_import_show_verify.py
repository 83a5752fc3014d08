from __future__ import annotations

import dataclasses
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from dfwatch.cli import main
from dfwatch.config import ModelSettings
from dfwatch.detector import Detector
from dfwatch.errors import BundleError, CheckpointError
from dfwatch.models.bundle import load_bundle, write_bundle
from dfwatch.models.checkpoints import load_network
from dfwatch.models.importing import REQUIRED_FACTS, ImportFacts, import_checkpoint
from dfwatch.models.inspect import describe, verify
from dfwatch.models.probe import probe_crops
from tests.models.seeded import seeded_network

if TYPE_CHECKING:
    from pathlib import Path

    from dfwatch.models.bundle import Bundle

PLAIN = ModelSettings(device="cpu", precision="float32", threads=1)
FACTS = ImportFacts(
    architecture="efficientnet_lite0",
    size_px=64,
    channel_order="rgb",
    normalisation="imagenet",
    output="softmax",
    label_order=("REAL", "FAKE"),
    margin=0.15,
    licence="MIT",
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training script leaves behind."""
    path = tmp_path_factory.mktemp("checkpoint") / "best.pt"
    torch.save({"state_dict": seeded_network("efficientnet_lite0", 64).state_dict(), "epoch": 7}, path)
    return path


def test_a_checkpoint_and_its_facts_become_a_bundle_that_runs(tmp_path: Path, checkpoint: Path) -> None:
    facts = dataclasses.replace(FACTS, id="mine", version="3", real_threshold=0.1, fake_threshold=0.9)
    written = import_checkpoint(checkpoint, tmp_path / "bundle", facts)
    assert load_bundle(tmp_path / "bundle") == written
    assert (written.id, written.version, written.crop.margin) == ("mine", "3", 0.15)
    assert (written.thresholds.real, written.thresholds.fake) == (0.1, 0.9)
    assert not written.calibration.calibrated
    assert "Nothing yet" in written.card_text
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "bundle").iterdir()}
    assert len(set(modes.values())) == 1, modes
    scores = Detector.load(written, PLAIN).score(probe_crops(4, 64))
    assert np.isfinite(scores).all()
    assert all(check.ok for check in verify(tmp_path / "bundle", PLAIN))


def test_half_precision_halves_the_file_and_hardly_moves_a_score(tmp_path: Path, checkpoint: Path) -> None:
    whole = import_checkpoint(checkpoint, tmp_path / "whole", FACTS)
    half = import_checkpoint(checkpoint, tmp_path / "half", FACTS, half=True)
    assert half.weights_path.stat().st_size < 0.55 * whole.weights_path.stat().st_size
    crops = probe_crops(8, 64)
    difference = Detector.load(half, PLAIN).score(crops) - Detector.load(whole, PLAIN).score(crops)
    assert np.abs(difference).max() < 0.05  # untrained weights magnify rounding


@pytest.mark.parametrize("fact", REQUIRED_FACTS)
def test_no_fact_is_guessed(tmp_path: Path, checkpoint: Path, fact: str) -> None:
    with pytest.raises(BundleError, match="missing: ") as caught:
        import_checkpoint(checkpoint, tmp_path / "bundle", dataclasses.replace(FACTS, **{fact: None}))
    assert caught.value.cause.endswith(REQUIRED_FACTS[fact])
    assert not (tmp_path / "bundle").exists()


def test_all_missing_facts_are_named_at_once(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(BundleError) as caught:
        import_checkpoint(checkpoint, tmp_path / "bundle", ImportFacts())
    assert all(option in caught.value.cause for option in REQUIRED_FACTS.values())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"normalisation": "zscore"}, BundleError, "unknown normalisation"),
        ({"architecture": "efficientnet_lite9"}, BundleError, "no such architecture"),
        ({"architecture": "efficientnet_lite2"}, CheckpointError, "missing"),
        ({"output": "sigmoid"}, CheckpointError, "shape"),
        ({"fake_threshold": 0.9}, BundleError, "only one of the two"),
        ({"real_threshold": 0.9, "fake_threshold": 0.1}, BundleError, "0 <= real <= fake"),
        ({"size_px": 3}, BundleError, "between 16 and 2048"),
    ],
)
def test_wrong_facts_leave_nothing_behind(
    tmp_path: Path, checkpoint: Path, change: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        import_checkpoint(checkpoint, tmp_path / "bundle", dataclasses.replace(FACTS, **change))
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_is_replaced_only_when_told_to(tmp_path: Path, checkpoint: Path) -> None:
    import_checkpoint(checkpoint, tmp_path / "bundle", FACTS)
    (tmp_path / "bundle" / "README.md").write_text("my own card")
    with pytest.raises(BundleError, match="there already"):
        import_checkpoint(checkpoint, tmp_path / "bundle", FACTS)
    again = import_checkpoint(checkpoint, tmp_path / "bundle", dataclasses.replace(FACTS, id="new"), overwrite=True)
    assert again.id == "new"
    assert again.card_text == "my own card"


def test_a_replaced_bundle_has_no_card_of_the_one_before(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bundle"
    import_checkpoint(checkpoint, folder, dataclasses.replace(FACTS, id="before", licence="another"))
    other = shutil.copyfile(checkpoint, tmp_path / "other.pt")
    facts = "--architecture efficientnet_lite0 --size 64 --channels rgb --normalisation imagenet --output softmax"
    command = ["model", "import", str(other), str(folder), *facts.split(), "--labels", "REAL,FAKE", "--margin", "0.1"]
    command += ["--licence", "MIT", "--id", "after", "--overwrite"]
    assert main(command) == 0
    card = load_bundle(folder).card_text
    assert card.startswith("# after 1")
    assert "other.pt" in card
    assert "another" not in card
    assert "card" not in capsys.readouterr().out

    (folder / "README.md").write_text(card.replace("Nothing yet.", "An AUC of 0.99."))
    assert main(command) == 0
    assert "An AUC of 0.99." in load_bundle(folder).card_text
    assert "see that it is true of this model" in capsys.readouterr().out


def test_a_missing_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such file"):
        import_checkpoint(tmp_path / "nothing.pt", tmp_path / "bundle", ImportFacts())
    with pytest.raises(CheckpointError, match="No such file"):
        import_checkpoint(tmp_path / "nothing.pt", tmp_path / "bundle", FACTS)


def test_a_description_holds_what_a_reader_wants_to_know(tmp_path: Path, small_bundle: Bundle) -> None:
    card = tmp_path / "README.md"
    card.write_text("# The card\n")
    rich = dataclasses.replace(
        small_bundle,
        card="README.md",
        folder=tmp_path,
        metrics={"dfdc": {"auc": 0.95}},
        known_failures=("Profile faces.",),
    )
    text = describe(rich)
    for words in (
        "example 1.0",
        "efficientnet_lite0",
        "REAL up to 0.25, FAKE from 0.75",
        "never measured",
        "auc: 0.95",
    ):
        assert words in text
    assert "MISSING" in text
    assert text.rstrip().endswith("# The card")
    assert max(map(len, text.splitlines())) <= 110
    assert "MiB" in describe(small_bundle)


def test_verify_finds_nothing_wrong_with_a_good_bundle(small_bundle: Bundle) -> None:
    checks = verify(str(small_bundle.folder), PLAIN)
    assert [check.name for check in checks] == [
        "bundle",
        "files",
        "weights",
        "scores",
        "consistency",
        "not constant",
        "device",
        "engine",
    ]
    assert all(check.ok for check in checks), checks
    assert "torch float32" in checks[-1].detail


def broken_copy(small_bundle: Bundle, folder: Path) -> Path:
    shutil.copytree(str(small_bundle.folder), folder)
    return folder


def test_verify_names_what_is_wrong(tmp_path: Path, small_bundle: Bundle) -> None:
    missing = broken_copy(small_bundle, tmp_path / "missing")
    (missing / "weights.safetensors").unlink()
    other = broken_copy(small_bundle, tmp_path / "other")
    with (other / "weights.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\xff")
    unreadable = broken_copy(small_bundle, tmp_path / "unreadable")
    (unreadable / "bundle.yaml").write_text("format: 9\n")
    cardless = broken_copy(small_bundle, tmp_path / "cardless")
    with (cardless / "bundle.yaml").open("a") as stream:
        stream.write("card: README.md\n")
    for folder, name, words in (
        (missing, "weights", "No such file"),
        (other, "weights", "sha256"),
        (unreadable, "bundle", "this dfwatch reads 1"),
        (cardless, "files", "README.md is missing"),
    ):
        (failed,) = [check for check in verify(folder, PLAIN) if not check.ok]
        assert failed.name == name
        assert words in failed.detail


def test_verify_notices_a_model_that_always_says_the_same(tmp_path: Path, small_bundle: Bundle) -> None:
    state = load_network(small_bundle).state_dict()
    state["classifier.weight"].zero_()
    dead = write_bundle(tmp_path / "dead", small_bundle, state)
    assert [check.name for check in verify(str(dead.folder), PLAIN) if not check.ok] == ["not constant"]
