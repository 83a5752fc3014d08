from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dfwatch import resources
from dfwatch.errors import BundleError, CheckpointError
from dfwatch.models.bundle import (
    Bundle,
    Calibration,
    InputSpec,
    OutputSpec,
    Thresholds,
    TrainingRecord,
    group_hash,
    load_bundle,
    write_bundle,
)
from dfwatch.models.bundle_file import read, render
from dfwatch.models.inspect import describe, describe_shipped
from dfwatch.reading import CropSpec
from tests.users import somebody_else

if TYPE_CHECKING:
    from collections.abc import Callable

GOLDEN = Path(__file__).parent / "golden" / "bundle.yaml"
PROBABILITIES = st.floats(0.0, 1.0)
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=200)


def full_bundle() -> Bundle:
    return Bundle(
        id="dfwatch-resnext50",
        version="1.2.0",
        description="ResNeXt50-32x4d, trained by dfwatch",
        architecture="resnext50_32x4d",
        architecture_options={"drop_rate": 0.2},
        input=InputSpec(size_px=160, channel_order="rgb", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        crop=CropSpec(size_px=160, margin=-0.02, square=True, shift_y=0.05),
        output=OutputSpec(kind="softmax", label_order=("REAL", "FAKE")),
        calibration=Calibration(
            method="platt", parameters={"slope": 0.8125, "intercept": -1e-05}, fitted_on="400 held-out DFDC groups"
        ),
        thresholds=Thresholds(real=0.2, fake=0.91, false_positive_rate=0.01, chosen_on="the same 400 groups"),
        licence="MIT; trained on DFDC, whose terms are research use",
        metrics={"dfdc_held_out": {"auc": 0.953, "auc_95": [0.94, 0.965], "videos": 3268}},
        known_failures=(
            "Text-to-video and whole-image generation.",
            "Profile faces; heavy compression: below 200 kb/s.",
        ),
        training=TrainingRecord(data=("DFDC face crops",), recipe="resnext50.yaml", groups_file="groups.txt"),
        card="README.md",
        weights_sha256="0123456789abcdef" * 4,
    )


def changed_file(tmp_path: Path, change: Callable[[dict[str, object]], None]) -> Path:
    document = yaml.safe_load(render(full_bundle()))
    change(document)
    (tmp_path / "bundle.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return tmp_path


def test_a_written_file_is_the_golden_one(request: pytest.FixtureRequest) -> None:
    text = render(full_bundle())
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_reading_gives_back_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "bundle.yaml").write_text(render(full_bundle()), encoding="utf-8")
    assert load_bundle(tmp_path) == dataclasses.replace(full_bundle(), folder=tmp_path)
    assert load_bundle(tmp_path / "bundle.yaml").folder == tmp_path


@given(
    words=WORDS,
    items=st.lists(WORDS, max_size=4),
    slope=st.floats(1e-6, 1e6),
    thresholds=st.tuples(PROBABILITIES, PROBABILITIES).map(sorted),
    margin=st.floats(-0.4, 2.0),
    metric=st.floats(allow_nan=False, allow_infinity=False),
)
def test_any_words_and_numbers_survive_the_file(
    tmp_path_factory: pytest.TempPathFactory,
    words: str,
    items: list[str],
    slope: float,
    thresholds: list[float],
    margin: float,
    metric: float,
) -> None:
    folder = tmp_path_factory.mktemp("bundle")
    bundle = dataclasses.replace(
        full_bundle(),
        folder=folder,
        description=words,
        licence=f"x{words}",
        known_failures=tuple(items),
        training=TrainingRecord(data=tuple(items), recipe=words),
        calibration=Calibration(method="temperature", parameters={"temperature": slope}, fitted_on=words),
        thresholds=Thresholds(real=thresholds[0], fake=thresholds[1], false_positive_rate=None, chosen_on=words),
        crop=CropSpec(size_px=160, margin=margin),
        metrics={"part": {"value": metric, "words": items}},
    )
    (folder / "bundle.yaml").write_text(render(bundle), encoding="utf-8")
    assert load_bundle(folder) == bundle


@pytest.mark.parametrize(
    ("section", "old", "new", "nearest"),
    [
        (None, "licence", "license", "licence"),
        (None, "thresholds", "threshold", "thresholds"),
        ("input", "channel_order", "chanel_order", "channel_order"),
        ("output", "label_order", "labels_order", "label_order"),
        ("thresholds", "false_positive_rate", "false_positives_rate", "false_positive_rate"),
    ],
)
def test_a_misspelt_key_is_named_with_the_nearest_one(
    tmp_path: Path, section: str | None, old: str, new: str, nearest: str
) -> None:
    def misspell(document: dict[str, object]) -> None:
        mapping = document if section is None else document[section]
        mapping[new] = mapping.pop(old)

    with pytest.raises(BundleError) as caught:
        load_bundle(changed_file(tmp_path, misspell))
    assert nearest in caught.value.cause
    assert "missing" in caught.value.cause
    assert new in caught.value.hint


def test_an_unknown_key_is_refused_with_its_line(tmp_path: Path) -> None:
    text = render(full_bundle()).replace("size_px: 160", "size_px: 160\n  channel_ordr: bgr")
    (tmp_path / "bundle.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BundleError, match=r"input\.channel_ordr is not a known key") as caught:
        load_bundle(tmp_path)
    assert caught.value.hint == "did you mean channel_order?"
    line = int(caught.value.subject.rsplit(":", 1)[1])
    assert "channel_ordr" in text.splitlines()[line - 1]


@pytest.mark.parametrize(
    "key",
    "format id version licence architecture weights input crop output calibration thresholds".split(),  # noqa: SIM905
)
def test_no_key_that_matters_has_a_default(tmp_path: Path, key: str) -> None:
    with pytest.raises(BundleError, match=f"{key} is missing"):
        load_bundle(changed_file(tmp_path, lambda document: document.pop(key)))


@pytest.mark.parametrize(
    ("section", "key", "value", "cause"),
    [
        (None, "format", 2, "this dfwatch reads 1"),
        (None, "version", 1.0, "version is float 1.0, not text"),
        (None, "input", [], "input is list"),
        ("input", "size_px", "160", "not a whole number"),
        ("input", "size_px", True, "not a whole number"),
        ("input", "size_px", 4, "between 16 and 2048"),
        ("input", "channel_order", "RGB", "neither rgb nor bgr"),
        ("input", "mean", [0.5], "three finite numbers"),
        ("input", "mean", 0.5, "not a list of numbers"),
        ("input", "std", [0.2, 0.2, 0.0], "not above 0"),
        ("input", "std", [0.2, 0.2, math.nan], "three finite numbers"),
        ("crop", "square", 1, "not true or false"),
        ("crop", "margin", 30, "not between -0.49 and 10"),
        ("crop", "margin", -0.5, "not between -0.49 and 10"),
        ("crop", "margin", math.nan, "not between -0.49 and 10"),
        ("crop", "shift_y", math.inf, "not between -10 and 10"),
        ("output", "kind", "logit", "neither softmax nor sigmoid"),
        ("output", "label_order", ["fake", "real"], "neither"),
        ("output", "label_order", ["FAKE", "FAKE"], "neither"),
        ("calibration", "method", "isotonic", "not one of none, temperature, platt"),
        ("calibration", "method", "temperature", "takes temperature, not slope, intercept"),
        ("calibration", "parameters", {"slope": -1.0, "intercept": 0.0}, "must be above 0"),
        ("calibration", "parameters", {"slope": math.inf, "intercept": 0.0}, "not a finite number"),
        ("thresholds", "real", 0.95, "0 <= real <= fake <= 1"),
        ("thresholds", "fake", 1.5, "0 <= real <= fake <= 1"),
        ("thresholds", "false_positive_rate", 7, "not between 0 and 1"),
        ("weights", "sha256", "abc", "not 64 hexadecimal digits"),
        ("weights", "file", "../weights.safetensors", "not a plain file name"),
        ("weights", "file", "", "is empty"),
        ("training", "groups_file", "/etc/passwd", "not a plain file name"),
    ],
)
def test_an_impossible_value_is_refused_with_its_key(
    tmp_path: Path, section: str | None, key: str, value: object, cause: str
) -> None:
    def spoil(document: dict[str, object]) -> None:
        (document if section is None else document[section])[key] = value

    with pytest.raises(BundleError) as caught:
        load_bundle(changed_file(tmp_path, spoil))
    assert cause in caught.value.cause
    assert caught.value.subject.startswith(str(tmp_path / "bundle.yaml"))


def test_a_version_that_looks_like_a_date_and_is_none_is_refused(tmp_path: Path) -> None:
    text = re.sub(r"^version: .*$", "version: 2026-11-31", render(full_bundle()), flags=re.MULTILINE)
    (tmp_path / "bundle.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BundleError, match="day is out of range") as caught:
        load_bundle(tmp_path)
    assert "quotes" in caught.value.hint


def test_a_card_in_another_encoding_is_shown_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "bundle.yaml").write_text(render(full_bundle()), encoding="utf-8")
    (tmp_path / "README.md").write_bytes("Gemessen für Köln".encode("latin-1"))
    assert load_bundle(tmp_path).card_text == "Gemessen f\ufffdr K\ufffdln"


@pytest.mark.parametrize("closed", ["", "bundle.yaml", "README.md"])
def test_what_may_not_be_read_is_named(closed: str) -> None:
    # Not below pytest's own folder, which is closed to everybody else.
    with tempfile.TemporaryDirectory() as outer:
        Path(outer).chmod(0o755)
        folder = Path(outer, "bundle")
        folder.mkdir()
        (folder / "bundle.yaml").write_text(render(full_bundle()), encoding="utf-8")
        (folder / "README.md").write_text("card")
        (folder / closed).chmod(0)
        with somebody_else(), pytest.raises(BundleError, match="Permission denied"):
            describe(load_bundle(folder))
        (folder / closed).chmod(0o700)


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    text = render(full_bundle()).replace("  kind: softmax\n", "  kind: softmax\n  kind: sigmoid\n")
    (tmp_path / "bundle.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BundleError, match=r"output\.kind is given twice"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "just words", "a: [", "a: !!python/object/apply:os.getcwd []", "\x00"])
def test_what_is_no_bundle_at_all_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "bundle.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BundleError):
        load_bundle(tmp_path)


def test_a_folder_or_path_without_a_bundle_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"holds no bundle\.yaml") as caught:
        load_bundle(tmp_path)
    assert "dfwatch model import" in caught.value.hint
    with pytest.raises(BundleError, match="no such file or folder"):
        load_bundle(tmp_path / "nothing")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"words, not weights", b"\xff" * 64])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        load_bundle(path)


def test_a_safetensors_file_can_be_brought_in_by_path(tmp_path: Path) -> None:
    source = tmp_path / "source.safetensors"
    source.write_bytes((2).to_bytes(8, "little") + b"{}")
    written = write_bundle(tmp_path / "bundle", full_bundle(), source)
    assert written.weights_path.read_bytes() == source.read_bytes()
    assert load_bundle(tmp_path / "bundle") == written
    again = write_bundle(tmp_path / "bundle", dataclasses.replace(written, version="2"), written.weights_path)
    assert (again.version, again.weights_sha256) == ("2", written.weights_sha256)
    assert sorted(path.name for path in (tmp_path / "bundle").iterdir()) == ["bundle.yaml", "weights.safetensors"]


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BundleError, match="writing the model bundle"):
        write_bundle(tmp_path / "file" / "bundle", full_bundle(), tmp_path / "file")


def test_an_unwritten_bundle_has_no_weights_path() -> None:
    with pytest.raises(BundleError, match="never written"):
        _ = full_bundle().weights_path


def test_groups_trained_on_come_from_list_and_file(tmp_path: Path) -> None:
    (tmp_path / "groups.txt").write_text(f"{group_hash('abc.mp4')}\n\n{group_hash('def.mp4')}\n")
    training = TrainingRecord(groups=(group_hash("ghi.mp4"),), groups_file="groups.txt")
    bundle = dataclasses.replace(full_bundle(), folder=tmp_path, training=training)
    assert bundle.trained_groups() == {group_hash(name) for name in ("abc.mp4", "def.mp4", "ghi.mp4")}
    (tmp_path / "groups.txt").unlink()
    with pytest.raises(BundleError, match="groups trained on"):
        bundle.trained_groups()


def test_a_group_hash_is_the_start_of_a_sha256() -> None:
    assert group_hash("abc") == "ba7816bf8f01cfea"


@given(st.lists(PROBABILITIES, min_size=2, max_size=20), st.floats(0.05, 20), st.floats(-10, 10))
def test_calibration_keeps_order_and_range(values: list[float], slope: float, intercept: float) -> None:
    for calibration in (
        Calibration(method="none"),
        Calibration(method="temperature", parameters={"temperature": slope}),
        Calibration(method="platt", parameters={"slope": slope, "intercept": intercept}),
    ):
        result = calibration.apply(np.sort(np.array(values)))
        assert result.shape == (len(values),)
        assert ((result >= 0) & (result <= 1)).all()
        assert (np.diff(result) >= 0).all()


def test_calibration_follows_its_formulas() -> None:
    p = np.array([0.01, 0.2, 0.5, 0.9], np.float32)
    logit = np.log(p / (1 - p)).astype(np.float64)
    temperature = Calibration(method="temperature", parameters={"temperature": 2.0})
    platt = Calibration(method="platt", parameters={"slope": 0.5, "intercept": -1.0})
    np.testing.assert_allclose(temperature.apply(p), 1 / (1 + np.exp(-logit / 2)), rtol=1e-6)
    np.testing.assert_allclose(platt.apply(p), 1 / (1 + np.exp(-(0.5 * logit - 1))), rtol=1e-6)
    np.testing.assert_array_equal(Calibration().apply(p), p.astype(np.float64))
    assert 0 < temperature.apply(0.0) < temperature.apply(1.0) < 1
    assert math.isnan(float(temperature.apply(math.nan)))


@pytest.mark.parametrize("module", ["dfwatch.models.bundle", "dfwatch.models.inspect", "dfwatch.inference.openmp"])
def test_reading_a_bundle_needs_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_yaml_without_a_folder_name_is_read_directly(tmp_path: Path) -> None:
    path = tmp_path / "bundle.yaml"
    path.write_text(render(full_bundle()), encoding="utf-8")
    assert read(path) == load_bundle(path)


def test_a_bundle_that_ships_is_loaded_by_its_name() -> None:
    for name, folder in resources.shipped_bundles().items():
        assert load_bundle(f"shipped:{name}").folder == folder
    assert next(iter(resources.shipped_bundles().values())) == resources.default_bundle()


def test_an_unknown_name_gives_the_nearest_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("careful_resnext", "quick_lite"):
        write_bundle(tmp_path / "model" / name, full_bundle(), {})
    (tmp_path / "model" / "default.txt").write_text("quick_lite\n")
    monkeypatch.setattr(resources, "_find", lambda name: tmp_path / name)
    assert list(resources.shipped_bundles()) == ["quick_lite", "careful_resnext"]
    with pytest.raises(BundleError, match="no bundle of this name ships") as caught:
        load_bundle("shipped:quik")
    assert caught.value.hint == "did you mean shipped:quick_lite? known: quick_lite, careful_resnext"
    shown = describe_shipped("quick_lite", {name: load_bundle(f"shipped:{name}") for name in ("quick_lite",)})
    assert shown.startswith("shipped:quick_lite (default)\n")
    assert full_bundle().description in shown
