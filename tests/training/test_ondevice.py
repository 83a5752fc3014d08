"""Batches that are made on the device, here on the CPU: the code is the same."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from dfwatch.training import codecs
from dfwatch.training.augment import AugmentSpec
from dfwatch.training.batches import open_pools
from dfwatch.training.deck import FAKE, REAL, UNLABELLED
from dfwatch.training.ondevice import augment, blending, resample
from dfwatch.training.ondevice.batches import DeviceBatchMaker
from dfwatch.training.ondevice.compression import Compressor
from dfwatch.training.ondevice.resident import Stack
from dfwatch.training.recipe import BatchSpec, DataSpec, Stage
from tests.training.made import FACE_LANDMARKS, PLAIN, face_like
from tests.training.test_blending import _auc, _features
from tests.training.test_loop import recipe

SIDE_PX = 64


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def stack(count: int, side_px: int = SIDE_PX, seed: int = 0, grain: float = 5.0) -> Stack:
    rng = np.random.default_rng(seed)
    pictures = np.stack([face_like(rng, side_px) for _ in range(count)])
    pictures = np.clip(pictures + rng.normal(0, grain, pictures.shape), 0, 255).astype(np.uint8)
    landmarks = np.array(FACE_LANDMARKS, np.float32).reshape(5, 2) * side_px
    return Stack(
        torch.from_numpy(pictures).permute(0, 3, 1, 2).float(),
        np.full((count, 2), side_px, np.float32),
        np.tile(np.array([[0, 0, side_px]], np.float32), (count, 1)),
        np.tile(landmarks, (count, 1, 1)),
    )


def wear(spec: AugmentSpec, faces: Stack, size_px: int, seed: int = 0, work_px: int = SIDE_PX) -> np.ndarray:
    table = augment.draw(spec, np.random.default_rng(seed), len(faces.pictures))
    generator = torch.Generator()
    generator.manual_seed(seed)
    return augment.Augmenter("cpu")(table, faces, work_px, size_px, generator).numpy()


def as_uint8(faces: Stack) -> np.ndarray:
    return faces.pictures.permute(0, 2, 3, 1).numpy().astype(np.uint8)


def test_nothing_asked_for_changes_nothing() -> None:
    faces = stack(3)
    assert np.array_equal(wear(PLAIN, faces, SIDE_PX), as_uint8(faces))


@pytest.mark.parametrize("out_px", [24, 100])
def test_scaling_is_that_of_torch(out_px: int) -> None:
    faces = stack(2)
    whole = torch.full((2,), float(SIDE_PX))
    matrix = resample.cut(0 * whole, whole, whole, out_px, SIDE_PX)
    mine = resample.apply(matrix, faces.pictures, matrix)
    theirs = torch.nn.functional.interpolate(faces.pictures, (out_px, out_px), mode="bilinear", antialias=True)
    assert (mine - theirs).abs().max() < 0.1


@pytest.mark.parametrize(("mirror", "mode"), [(True, "reflect"), (False, "edge")])
@pytest.mark.parametrize("flip", [True, False])
def test_what_lies_beyond_the_edge_is_made_up(mirror: bool, mode: str, flip: bool) -> None:
    line = np.random.default_rng(0).normal(0, 1, 20).astype(np.float32)
    told = {"flip": torch.tensor([flip]), "mirror": torch.tensor([mirror])}
    # A picture of 20 pixels lies at the beginning of a line of 32; what follows it must not be seen.
    matrix = resample.cut(torch.tensor([-6.0]), torch.tensor([35.0]), torch.tensor([20.0]), 35, 32, **told)[0]
    seen = matrix.numpy() @ np.concatenate([line, np.full(12, 1e6, np.float32)])
    expected = np.pad(line, (6, 9), mode=mode)  # type: ignore[call-overload]
    assert np.allclose(seen, expected[::-1] if flip else expected, atol=1e-4)


def test_blur_and_lost_detail_are_those_of_cv2() -> None:
    faces = stack(1, grain=20)
    picture = as_uint8(faces)[0].astype(np.float32)
    inner = np.s_[12:-12, 12:-12]

    def through(matrix: torch.Tensor) -> np.ndarray:
        return resample.apply(matrix, faces.pictures, matrix)[0].permute(1, 2, 0).numpy()

    blurred = cv2.GaussianBlur(picture, (0, 0), 1.5)
    assert np.abs(through(resample.blur(torch.tensor([1.5]), SIDE_PX)) - blurred)[inner].max() < 1
    half = cv2.resize(cv2.resize(picture, (32, 32), interpolation=cv2.INTER_AREA), (64, 64))
    difference = np.abs(through(resample.lose_detail(torch.tensor([0.5]), SIDE_PX)) - half)[inner]
    assert difference.mean() < 0.3 * np.abs(picture - half)[inner].mean()
    assert np.allclose(through(resample.lose_detail(torch.tensor([1.0]), SIDE_PX)), picture, atol=1e-3)


@pytest.mark.parametrize("quality", [20, 60, 95])
def test_jpeg_loses_what_jpeg_loses(quality: int) -> None:
    faces = stack(4)
    worn = Compressor("cpu").jpeg(faces.pictures, torch.full((4,), float(quality)))
    mine = worn.permute(0, 2, 3, 1).numpy()
    theirs = np.stack([codecs.jpeg(picture, quality) for picture in as_uint8(faces)]).astype(np.float32)
    loss = np.abs(theirs - as_uint8(faces)).mean()
    assert np.abs(mine - theirs).mean() < 0.5 * loss
    assert np.abs(mine - as_uint8(faces)).mean() == pytest.approx(loss, rel=0.15)


def test_a_key_frame_loses_more_at_a_higher_rate_factor() -> None:
    faces = stack(4)
    compressor = Compressor("cpu")
    losses = [
        float((compressor.key_frame(faces.pictures, torch.full((4,), crf)) - faces.pictures).abs().mean())
        for crf in (15.0, 25.0, 35.0, 45.0)
    ]
    assert losses == sorted(losses)
    assert losses[0] < 0.5 * losses[-1]


def test_a_picture_that_is_no_square_shows_nothing_of_what_surrounds_it() -> None:
    faces = stack(16)
    pictures = torch.full_like(faces.pictures, 255.0)
    pictures[:, :, :64, :40] = 20.0
    sizes = np.tile(np.array([[64, 40]], np.float32), (16, 1))
    windows = np.tile(np.array([[0, 10, 40]], np.float32), (16, 1))
    faces = dataclasses.replace(faces, pictures=pictures, sizes=sizes, windows=windows)
    wild = dataclasses.replace(PLAIN, zoom=(0.7, 1.5), shift=0.2, flip_share=0.5, rotate_share=1, pad_share=0.5)
    assert wear(wild, faces, 32).max() <= 22


@pytest.mark.parametrize("donating", [False, True])
def test_a_pair_differs_only_inside_the_mask(donating: bool) -> None:
    faces, donors = stack(24, 96), stack(24, 96, seed=9)
    real, fake, mask = blending.blend(faces, np.random.default_rng(3), donors, np.full(24, donating))
    assert torch.equal(real, real.round())
    assert torch.equal(fake, fake.round())
    assert 0 <= float(mask.min()) <= float(mask.max()) <= 1
    outside = (mask == 0).expand_as(real)
    assert torch.equal(real[outside], fake[outside])
    assert 0.1 < float(outside.float().mean()) < 0.95
    inside = (mask > 0.2).expand_as(real)
    assert float((real - fake).abs()[inside].mean()) > 2


def test_a_classifier_on_the_pixels_outside_the_mask_stays_at_chance() -> None:
    """As for the pairs of the CPU, whose test shows that this classifier can walk into the trap."""
    side_px, count = 64, 240
    faces, donors = stack(count, side_px), stack(count, side_px, seed=1)
    rng = np.random.default_rng(2)
    real, fake, mask = blending.blend(faces, rng, donors, np.arange(count) % 3 == 0)
    spec = AugmentSpec(zoom=(1, 1), shift=0, flip_share=0, rotate_share=0, h264_share=0.2)
    table = augment.draw(spec, rng, count).rows(np.r_[:count, :count])
    both = torch.cat([real, fake])
    twice = Stack(both, *(np.concatenate([a, a]) for a in (faces.sizes, faces.windows, faces.landmarks)))
    generator = torch.Generator()
    generator.manual_seed(0)
    seen = augment.Augmenter("cpu")(table, twice, side_px, side_px, generator).numpy()
    features, labels, groups = [], [], []
    for number in range(count):
        outside = cv2.dilate((mask[number, 0].numpy() > 0).astype(np.uint8), np.ones((29, 29), np.uint8)) == 0
        if outside.mean() < 0.03:
            continue
        for label in (0, 1):
            features.append(_features(seen[number + label * count], outside))
            labels.append(label)
            groups.append(number)
    assert len(labels) > 150
    assert 0.42 <= _auc(features, labels, groups) <= 0.58


def test_batches_are_balanced_and_a_pure_function_of_the_step(data_root: str) -> None:
    made = recipe(
        stages=(Stage(size_px=32, steps=40, batch=BatchSpec(labelled=8, blended=4, unlabelled=2, donor_share=0.5)),),
        data=DataSpec(packs=("made",), blend_packs=("made",), unlabelled_packs=("made",), margin=0.0, shift_y=0.0),
        augment=AugmentSpec(h264_share=0.3, pad_share=0.3),
        batches="device",
        resident_px=64,
    )
    pools = open_pools(data_root, made, frozenset())
    maker = DeviceBatchMaker(made, pools, "cpu")
    batch = maker[3]
    assert batch.crops.shape == (14, 32, 32, 3)
    assert batch.crops.dtype == torch.uint8
    assert [int((batch.labels == label).sum()) for label in (REAL, FAKE, UNLABELLED)] == [6, 6, 2]
    assert not torch.equal(batch.crops, maker[4].crops)
    assert torch.equal(batch.crops, DeviceBatchMaker(made, pools, "cpu")[3].crops)
