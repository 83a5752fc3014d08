from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dfwatch.training import augment, blending
from dfwatch.training.augment import AugmentPlan, AugmentSpec
from dfwatch.training.metrics import auc
from dfwatch.training.windows import Window
from tests.training.made import FACE_LANDMARKS, face_like

SIDE_PX = 96
LANDMARKS = np.array(FACE_LANDMARKS, np.float32).reshape(5, 2) * SIDE_PX


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_pair_differs_only_inside_the_mask(seed: int, with_donor: bool) -> None:
    rng = np.random.default_rng(seed)
    image = face_like(rng, SIDE_PX)
    donor = None
    if with_donor:
        donor = blending.align_donor(face_like(rng, SIDE_PX), LANDMARKS + 3, LANDMARKS, (SIDE_PX, SIDE_PX))
    real, fake, mask = blending.blend(image, LANDMARKS, rng, donor)
    assert real.dtype == fake.dtype == np.uint8
    assert 0 <= mask.min() <= mask.max() <= 1
    assert np.array_equal(real[mask == 0], fake[mask == 0])


def test_a_pair_does_differ_inside_the_mask_and_leaves_a_surrounding() -> None:
    changed, outside = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        real, fake, mask = blending.blend(face_like(rng, SIDE_PX), LANDMARKS, rng)
        changed.append(np.abs(real.astype(int) - fake)[mask > 0.2].mean() if (mask > 0.2).any() else 0.0)
        outside.append(np.mean(mask == 0))
    assert np.mean(np.array(changed) > 1) > 0.8
    assert np.mean(outside) > 0.1


def test_donors_face_lands_on_the_landmarks() -> None:
    picture = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)
    for x, y in LANDMARKS:
        cv2.circle(picture, (round(float(x)), round(float(y))), 3, (255, 255, 255), -1)
    goal = LANDMARKS * 0.8 + 10
    moved = blending.align_donor(picture, LANDMARKS, goal, (SIDE_PX, SIDE_PX))
    for x, y in goal:
        assert moved[round(float(y)), round(float(x))].min() > 200


@pytest.mark.parametrize(("trap", "low", "high"), [(False, 0.44, 0.56), (True, 0.7, 1.0)])
def test_a_classifier_on_the_pixels_outside_the_mask_stays_at_chance(trap: bool, low: float, high: float) -> None:
    """The trap of self-blended images: a difference in compression or resampling would give the fakes away outside.

    Pairs go through the whole augmentation. Features are those by which compression and resampling show: mean, spread
    and fine detail of the outside. The outside keeps its distance from the mask, because JPEG works in blocks of 16
    pixels and resampling looks at neighbours. The control walks into the trap: fakes are scaled down and up once more,
    and the same classifier must notice, or this test could not fail.
    """
    spec = AugmentSpec(zoom=(1, 1), shift=0, flip_share=0, rotate_share=0)
    window = Window(0, 0, SIDE_PX)
    features, labels, groups = [], [], []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        grain = rng.normal(0, 5, (SIDE_PX, SIDE_PX, 3))
        image = np.clip(face_like(rng, SIDE_PX) + grain, 0, 255).astype(np.uint8)
        real, fake, mask = blending.blend(image, LANDMARKS, rng)
        plan = augment.draw(spec, rng)
        outside = cv2.dilate((mask > 0).astype(np.uint8), np.ones((37, 37), np.uint8)) == 0
        if outside.mean() < 0.03:
            continue
        for label, picture in enumerate((real, fake)):
            seen = augment.apply(plan, picture, window, SIDE_PX)
            if trap and label:
                seen = augment.degrade(AugmentPlan(downscale=0.4), seen)
            features.append(_features(seen, outside))
            labels.append(label)
            groups.append(seed)
    assert len(labels) > 300
    assert low <= _auc(features, labels, groups) <= high


def _features(picture: np.ndarray, where: np.ndarray) -> list[float]:
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    fine = grey - cv2.GaussianBlur(grey, (3, 3), 0)
    steps = np.abs(np.diff(grey, axis=1, prepend=grey[:, :1]))
    values = [picture[..., channel][where] for channel in range(3)]
    return [
        *(float(v.mean()) for v in values),
        *(float(v.std()) for v in values),
        float(np.log1p(fine[where].std())),
        float(np.log1p(steps[where].mean())),
    ]


def _auc(features: list[list[float]], labels: list[int], groups: list[int]) -> float:
    # A pair stays on one side of the fold; differences within pairs would otherwise be learnt by heart.
    model = make_pipeline(StandardScaler(), LogisticRegression())
    scores = cross_val_predict(model, features, labels, groups=groups, cv=GroupKFold(5), method="decision_function")
    return auc(np.array(labels), scores)
