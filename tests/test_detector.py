from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from dfwatch.config import ModelSettings
from dfwatch.detector import Detector
from dfwatch.errors import BundleError, DeviceError, MissingExtraError, ModelError
from dfwatch.inference import candidates, tuning
from dfwatch.inference.probe_faces import probe_faces
from dfwatch.inference.processor import has_bfloat16
from dfwatch.inference.torch_engine import TorchEngine
from dfwatch.inference.trial import Trial
from dfwatch.models.architectures import build
from dfwatch.models.bundle import OutputSpec, load_bundle, write_bundle
from dfwatch.models.checkpoints import load_network
from dfwatch.models.inspect import verify
from dfwatch.models.probe import probe_crops
from dfwatch.reading import CropSpec
from dfwatch.resources import default_bundle
from tests.models.seeded import example_bundle, seeded_bundle

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from dfwatch.models.bundle import Bundle

SIDE = 64
PLAIN = ModelSettings(device="cpu", precision="float32", threads=1)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return seeded_bundle(tmp_path_factory.mktemp("detector") / "bundle", example_bundle())


@pytest.fixture(scope="session")
def detector(bundle: Bundle) -> Detector:
    return Detector.load(bundle, PLAIN)


def plain_scores(bundle: Bundle, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """p(fake) of each crop by itself, straight from the definition."""
    network = load_network(bundle)
    mean = torch.tensor(bundle.input.mean).view(3, 1, 1)
    std = torch.tensor(bundle.input.std).view(3, 1, 1)
    scores = []
    with torch.inference_mode():
        for crop in crops:
            channels = crop[..., ::-1] if bundle.input.channel_order == "bgr" else crop
            x = (torch.from_numpy(channels.copy()).permute(2, 0, 1) / 255.0 - mean) / std
            logits = network(x[None])[0]
            if bundle.output.kind == "softmax":
                probabilities = torch.softmax(logits, 0)
            else:
                second = torch.sigmoid(logits[0])
                probabilities = torch.stack([1 - second, second])
            scores.append(float(probabilities[bundle.output.label_order.index("FAKE")]))
    return np.array(scores, np.float32)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("labels", [("REAL", "FAKE"), ("FAKE", "REAL")])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_labels_channels_and_output_come_from_the_bundle(
    tmp_path: Path, order: str, labels: tuple[str, str], kind: str
) -> None:
    bundle = example_bundle(output=OutputSpec(kind=kind, label_order=labels))
    bundle = dataclasses.replace(bundle, input=dataclasses.replace(bundle.input, channel_order=order))
    bundle = seeded_bundle(tmp_path / "bundle", bundle)
    crops = probe_crops(3, SIDE, seed=2)
    expected = plain_scores(bundle, crops)
    assert np.ptp(expected) > 0.02
    np.testing.assert_allclose(Detector.load(bundle, PLAIN).score(crops), expected, rtol=0, atol=1e-4)


def test_scores_are_float32_one_for_each_crop(detector: Detector) -> None:
    scores = detector.score(probe_crops(5, SIDE))
    assert (scores.dtype, scores.shape) == (np.float32, (5,))
    assert ((scores >= 0) & (scores <= 1)).all()
    assert detector.score(probe_crops(0, SIDE)).shape == (0,)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_crop_gets_the_same_score_bit_for_bit_whatever_it_comes_with(
    bundle: Bundle, precision: str, threads: int
) -> None:
    if precision == "bfloat16" and not has_bfloat16():
        pytest.skip("this CPU has no bfloat16")
    detector = Detector.load(bundle, ModelSettings(device="cpu", precision=precision, threads=threads))
    assert detector.device.batch_invariant
    crops = probe_crops(21, SIDE, seed=3)
    together = detector.score(crops)
    shuffled = np.random.default_rng(0).permutation(len(crops))
    assert np.array_equal(detector.score(crops[shuffled]), together[shuffled])
    for count in (1, 3, 8, 9):
        assert np.array_equal(detector.score(crops[:count]), together[:count])
    assert np.array_equal(detector.score(crops[20:]), together[20:])


def test_read_only_and_strided_crops_are_scored_alike(detector: Detector) -> None:
    crops = probe_crops(6, SIDE)
    expected = detector.score(crops)
    crops.setflags(write=False)
    assert np.array_equal(detector.score(crops), expected)
    assert np.array_equal(detector.score(crops[::2]), expected[::2])
    assert np.array_equal(detector.score(np.asfortranarray(crops)), expected)


@pytest.mark.parametrize(
    "crops",
    [
        np.zeros((2, SIDE, SIDE, 3), np.float32),
        np.zeros((2, SIDE + 1, SIDE, 3), np.uint8),
        np.zeros((2, 3, SIDE, SIDE), np.uint8),
        np.zeros((SIDE, SIDE, 3), np.uint8),
    ],
)
def test_an_array_of_another_kind_is_refused(detector: Detector, crops: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="not uint8"):
        detector.score(crops)


def test_the_device_says_what_it_is_and_why(detector: Detector) -> None:
    device = detector.device
    assert (device.device, device.precision, device.threads) == ("cpu", "float32", 1)
    assert "cores" in device.name
    assert device.reason == "the configuration asks for the CPU"
    assert device.precision_max_difference == 0.0
    assert device.folded_norms == 49
    assert device.crops_per_s.keys() == {"torch float32"}
    assert device.crops_per_s["torch float32"] > 0
    assert device.engine.startswith("torch ")
    json.dumps(dataclasses.asdict(device))


def test_auto_says_why_it_took_the_cpu(bundle: Bundle) -> None:
    if torch.accelerator.is_available():
        pytest.skip("this machine has an accelerator")
    device = Detector.load(bundle, ModelSettings(threads=1)).device
    assert device.device == "cpu"
    assert device.reason.startswith("no accelerator: ")


@pytest.mark.parametrize("wanted", ["cuda", "cuda:1", "mps", "xpu"])
def test_a_device_that_is_not_there_is_refused(bundle: Bundle, wanted: str) -> None:
    if torch.accelerator.is_available():
        pytest.skip("this machine has an accelerator")
    with pytest.raises(DeviceError, match=f"choosing the device {wanted}") as caught:
        Detector.load(bundle, ModelSettings(device=wanted))
    assert "model.device" in caught.value.hint


def test_an_unknown_device_is_refused(bundle: Bundle) -> None:
    with pytest.raises(DeviceError, match="no such kind of device"):
        Detector.load(bundle, ModelSettings(device="gpu"))


def test_a_path_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        Detector.load(tmp_path, PLAIN)


def test_the_chosen_precision_agrees_with_float32(bundle: Bundle) -> None:
    chosen = Detector.load(bundle, ModelSettings(device="cpu", threads=1))
    crops = probe_crops(16, SIDE, seed=8)
    difference = np.abs(chosen.score(crops) - Detector.load(bundle, PLAIN).score(crops)).max()
    assert chosen.device.precision_max_difference <= 0.02
    assert difference <= 0.05


def test_a_precision_that_disagrees_is_not_taken(tmp_path: Path) -> None:
    if not has_bfloat16():
        pytest.skip("this CPU has no bfloat16")
    sharp = seeded_bundle(tmp_path / "seed", example_bundle())
    network = load_network(sharp)
    state = network.state_dict()
    # So steep, and turning on faces like the probes, that bfloat16's rounding moves a score from one end to the other.
    faces = torch.from_numpy(probe_faces(8, sharp.crop)).permute(0, 3, 1, 2) / 255.0
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (sharp.input.mean, sharp.input.std))
    with torch.inference_mode():
        state["classifier.bias"] -= network((faces - mean) / std).median(dim=0).values
    state["classifier.weight"] *= 3000.0
    state["classifier.bias"] *= 3000.0
    sharp = write_bundle(tmp_path / "bundle", sharp, state)
    detector = Detector.load(sharp, ModelSettings(device="cpu", threads=1))
    assert detector.device.precision == "float32"
    assert "torch bfloat16" in detector.device.crops_per_s
    assert "differs from float32" in detector.device.passed_over["torch bfloat16"]
    forced = Detector.load(sharp, ModelSettings(device="cpu", threads=1, precision="bfloat16"))
    assert forced.device.precision == "bfloat16"
    assert forced.device.precision_max_difference > 0.02


def test_scores_that_are_not_finite_are_never_returned(tmp_path: Path, bundle: Bundle) -> None:
    state = load_network(bundle).state_dict()
    state["classifier.weight"].fill_(3e38)  # finite, and so large that every product overflows
    broken = write_bundle(tmp_path / "bundle", bundle, state)
    with pytest.raises(ModelError, match="not finite"):
        Detector.load(broken, PLAIN)


def test_a_score_that_turns_nan_later_is_an_error(bundle: Bundle) -> None:
    detector = Detector.load(bundle, PLAIN)
    with torch.no_grad():
        detector._engine.network.get_submodule("classifier").weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="3 of 3 scores are not finite"):
        detector.score(probe_crops(3, SIDE))


def test_a_precision_that_overflows_on_one_face_of_many_is_refused(tmp_path: Path) -> None:
    bundle = seeded_bundle(tmp_path / "seed", example_bundle())
    network = load_network(bundle)
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (bundle.input.mean, bundle.input.std))
    faces = torch.from_numpy(probe_faces(24, bundle.crop)).permute(0, 3, 1, 2) / 255.0
    with torch.inference_mode():
        highest = network((faces - mean) / std).max(dim=1).values
    first, later = float(highest[:8].max()), float(highest[8:].max())
    assert later > 1.1 * first
    state = network.state_dict()
    # The first faces stay within float16, one of the later ones does not.
    for name in ("classifier.weight", "classifier.bias"):
        state[name] *= torch.finfo(torch.float16).max / (first * later) ** 0.5
    steep = write_bundle(tmp_path / "bundle", bundle, state)
    with pytest.raises(ModelError, match="not finite in float16"):
        Detector.load(steep, ModelSettings(device="cpu", threads=1, engine="torch", precision="float16"))
    assert Detector.load(steep, PLAIN).device.precision == "float32"


def test_openvino_that_cannot_be_loaded_is_passed_over(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text("raise ImportError('libopenvino.so: no executable stack')")
    monkeypatch.delitem(sys.modules, "openvino")
    monkeypatch.syspath_prepend(tmp_path)
    device = Detector.load(bundle, dataclasses.replace(PLAIN, engine="auto")).device
    assert device.engine.startswith("torch ")
    assert device.passed_over["openvino float32"] == "openvino cannot be loaded: libopenvino.so: no executable stack"
    with pytest.raises(ModelError, match="no executable stack") as caught:
        Detector.load(bundle, dataclasses.replace(PLAIN, engine="openvino"))
    assert "model.engine" in caught.value.hint


def test_a_network_for_another_size_is_an_error_that_says_so(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    asked = example_bundle("timm:vit_tiny_patch16_224", 112, architecture_options={"depth": 1})
    network = build(asked.architecture, asked.architecture_options, num_outputs=2)
    written = write_bundle(tmp_path / "bundle", asked, network.state_dict())
    with pytest.raises(ModelError, match="doesn't match model"):
        Detector.load(written, PLAIN)
    failed = [check for check in verify(tmp_path / "bundle", PLAIN) if not check.ok]
    assert [check.name for check in failed] == ["scores"]
    assert "does not run at 112 px" in failed[0].detail


class Exhausted(torch.nn.Module):
    """A network on a device with room for so many crops and no more."""

    def __init__(self, network: torch.nn.Module, room: int) -> None:
        super().__init__()
        self.network, self.room = network, room

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.network(x)


def test_batches_are_halved_when_memory_runs_out(bundle: Bundle) -> None:
    detector = Detector.load(bundle, PLAIN)
    crops = probe_crops(9, SIDE)
    expected = detector.score(crops)
    detector._engine.network = Exhausted(detector._engine.network, room=2)
    np.testing.assert_allclose(detector.score(crops), expected, rtol=0, atol=1e-5)
    assert detector.device.batch_size == 2
    detector._engine.network.room = 0
    with pytest.raises(DeviceError, match="does not suffice for one crop") as caught:
        detector.score(crops)
    assert caught.value.retryable


def test_a_measurement_is_kept_for_the_next_start(tmp_path: Path, bundle: Bundle) -> None:
    settings = ModelSettings(device="cpu", threads=1)
    first = Detector.load(bundle, settings, cache_dir=tmp_path / "cache")
    second = Detector.load(bundle, settings, cache_dir=tmp_path / "cache")
    assert (first.device.measured, second.device.measured) == ("now", "earlier")
    assert dataclasses.replace(second.device, measured="now") == first.device
    crops = probe_crops(4, SIDE)
    assert np.array_equal(first.score(crops), second.score(crops))
    assert len(list((tmp_path / "cache").iterdir())) == 1
    other = Detector.load(bundle, dataclasses.replace(settings, batch_size=4), cache_dir=tmp_path / "cache")
    assert (other.device.measured, other.device.batch_size) == ("now", 4)


def test_a_spoilt_measurement_is_taken_again(tmp_path: Path, bundle: Bundle) -> None:
    Detector.load(bundle, PLAIN, cache_dir=tmp_path)
    (kept,) = tmp_path.iterdir()
    facts = json.loads(kept.read_text())
    changes = [
        {"precision": "float8"},
        {"engine": "openvino"},
        {"graph": "no"},
        {"batch_size": 1e9},
        {"batch_size": "8x"},
        {"more": 1},
    ]
    for content in ("", "[]", "{}", *(json.dumps(facts | change) for change in changes)):
        kept.write_text(content)
        assert Detector.load(bundle, PLAIN, cache_dir=tmp_path).device.measured == "now", content
    assert Detector.load(bundle, PLAIN, cache_dir=tmp_path).device.measured == "earlier"


def test_what_was_measured_when_there_was_more_room_does_not_keep_the_service_from_starting(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    Detector.load(bundle, PLAIN, cache_dir=tmp_path)
    [path] = tmp_path.iterdir()
    earlier = json.dumps({**json.loads(path.read_text()), "batch_size": 64})
    path.write_text(earlier)
    scores = TorchEngine.scores

    def filled(engine: TorchEngine, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        if engine.batch_size > 8:
            raise torch.OutOfMemoryError("another program fills the device")
        return scores(engine, crops)

    with monkeypatch.context() as patch:
        patch.setattr(TorchEngine, "scores", filled)
        device = Detector.load(bundle, PLAIN, cache_dir=tmp_path).device
        assert (device.measured, device.batch_size) == ("now", 8)
    assert path.read_text() == earlier
    assert Detector.load(bundle, PLAIN, cache_dir=tmp_path).device.batch_size == 64


def test_a_cache_folder_that_cannot_be_made_costs_nothing_else(tmp_path: Path, bundle: Bundle) -> None:
    (tmp_path / "file").write_text("in the way")
    assert Detector.load(bundle, PLAIN, cache_dir=tmp_path / "file" / "cache").device.measured == "now"


def test_openvino_that_is_missing_is_named_with_its_pip_command(bundle: Bundle) -> None:
    with pytest.raises(MissingExtraError, match="openvino") as caught:
        Detector.load(bundle, dataclasses.replace(PLAIN, engine="openvino"))
    assert "pip install 'dfwatch[openvino]'" in caught.value.hint
    assert "openvino is not installed" in Detector.load(bundle, PLAIN).device.engine
    assert "openvino" not in Detector.load(bundle, dataclasses.replace(PLAIN, engine="torch")).device.engine


def test_a_hopeless_way_of_running_is_given_up_after_its_first_pass(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[str] = []
    real = Trial._pass

    def counted(self: Trial, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        passes.append(str(self.candidate))
        scores = real(self, crops)
        if self.candidate.precision == "bfloat16":
            self._seconds += 60.0
        return scores

    monkeypatch.setattr(Trial, "_pass", counted)
    monkeypatch.setattr(candidates, "has_bfloat16", lambda: True)
    monkeypatch.setattr(tuning, "PRECISION_TOLERANCE", 1.0)
    device = Detector.load(bundle, ModelSettings(device="cpu", threads=1)).device
    assert device.precision == "float32"
    assert passes.count("torch bfloat16") == 1
    assert passes.count("torch float32") > 1


def test_what_is_not_tried_for_want_of_time_is_said(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "has_bfloat16", lambda: True)
    monkeypatch.setattr(tuning, "BUDGET_S", -1.0)
    device = Detector.load(bundle, ModelSettings(device="cpu", threads=1)).device
    assert device.precision == "float32"
    assert device.passed_over["torch bfloat16"].startswith("not tried")


def test_bfloat16_counts_only_where_the_processor_computes_it(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    for text, expected in (
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512bw avx512vl\n", False),
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16\n", True),
        ("processor\t: 0\nflags\t\t: fpu amx_bf16 amx_tile\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n", True),
        ("", False),
    ):
        cpuinfo.write_text(text)
        assert has_bfloat16(str(cpuinfo)) is expected
    assert not has_bfloat16(str(tmp_path / "missing"))


def test_probe_faces_are_the_same_each_time_and_all_different() -> None:
    spec = CropSpec(size_px=48, margin=0.1)
    faces = probe_faces(6, spec)
    assert (faces.dtype, faces.shape) == (np.uint8, (6, 48, 48, 3))
    assert np.array_equal(faces, probe_faces(6, spec))
    assert len({face.tobytes() for face in faces}) == 6
    assert min(float(face.std()) for face in faces) > 15


def test_the_probe_faces_get_scores_from_both_ends_and_between() -> None:
    shipped = load_bundle(default_bundle())
    scores = Detector.load(shipped, PLAIN).score(probe_faces(24, shipped.crop))
    assert scores.min() < 0.1
    assert scores.max() > 0.7
    assert ((scores > 0.2) & (scores < 0.8)).any()


def test_what_agrees_on_the_first_probes_must_agree_on_all(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "has_bfloat16", lambda: True)
    monkeypatch.setattr(Trial, "difference_from", lambda _self, _reference: 0.0)
    monkeypatch.setattr(Trial, "rate", property(lambda self: 9.0 if self.candidate.precision == "bfloat16" else 1.0))
    found = []
    for limit in (1.0, 0.0):
        monkeypatch.setattr(tuning, "PRECISION_TOLERANCE", limit)
        device = Detector.load(bundle, ModelSettings(device="cpu", threads=1)).device
        found.append((device.precision, device.precision_max_difference > 0.0))
    assert found == [("bfloat16", True), ("float32", False)]
    assert "differs from float32" in device.passed_over["torch bfloat16"]
