"""The detector on a CUDA device; every test here is skipped, with the reason, where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from dfwatch.config import ModelSettings
from dfwatch.detector import Detector
from dfwatch.errors import DeviceError
from dfwatch.models.probe import probe_crops
from tests.models.seeded import example_bundle, seeded_bundle

if TYPE_CHECKING:
    from dfwatch.models.bundle import Bundle

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]
SIDE = 112


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return seeded_bundle(tmp_path_factory.mktemp("gpu") / "bundle", example_bundle("resnext50_32x4d", SIDE))


def test_auto_takes_cuda_in_half_precision(bundle: Bundle) -> None:
    device = Detector.load(bundle, ModelSettings()).device
    assert device.device == "cuda:0"
    assert device.name == torch.cuda.get_device_name(0)
    assert device.precision_max_difference <= 0.02
    assert {"float32", "float16"} <= device.crops_per_s.keys()


@pytest.mark.parametrize("precision", ["float32", "float16", "auto"])
def test_scores_agree_with_the_cpu(bundle: Bundle, precision: str) -> None:
    crops = probe_crops(40, SIDE, seed=4)
    expected = Detector.load(bundle, ModelSettings(device="cpu", precision="float32")).score(crops)
    found = Detector.load(bundle, ModelSettings(device="cuda", precision=precision)).score(crops)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 if precision == "float32" else 0.02)


def test_a_crop_gets_the_same_score_whatever_it_comes_with(bundle: Bundle) -> None:
    detector = Detector.load(bundle, ModelSettings(device="cuda"))
    assert detector.device.batch_invariant
    crops = probe_crops(70, SIDE, seed=3)
    together = detector.score(crops)
    shuffled = np.random.default_rng(0).permutation(len(crops))
    assert np.array_equal(detector.score(crops[shuffled]), together[shuffled])
    assert np.array_equal(detector.score(crops[:3]), together[:3])
    again = Detector.load(bundle, ModelSettings(device="cuda", precision=detector.device.precision))
    if again.device.batch_size == detector.device.batch_size:
        assert np.array_equal(again.score(crops), together)


def test_more_crops_than_two_batches_keep_their_order(bundle: Bundle) -> None:
    detector = Detector.load(bundle, ModelSettings(device="cuda", batch_size=32))
    crops = np.resize(probe_crops(32, SIDE), (200, SIDE, SIDE, 3))
    scores = detector.score(crops)
    assert np.array_equal(scores, np.resize(scores[:32], 200))


def test_memory_that_runs_out_halves_the_batch(bundle: Bundle) -> None:
    detector = Detector.load(bundle, ModelSettings(device="cuda", batch_size=256))
    crops = probe_crops(24, SIDE)
    expected = detector.score(crops)
    free, total = torch.cuda.mem_get_info()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(max(0.001, (total - free + 300 * 1024**2) / total))
    try:
        np.testing.assert_allclose(detector.score(np.resize(crops, (512, SIDE, SIDE, 3)))[:24], expected, atol=0.02)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_device_beyond_the_last_is_refused(bundle: Bundle) -> None:
    with pytest.raises(DeviceError, match="this machine has"):
        Detector.load(bundle, ModelSettings(device=f"cuda:{torch.cuda.device_count()}"))
