from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfwatch.training import augment
from dfwatch.training.augment import AugmentPlan, AugmentSpec
from dfwatch.training.windows import Window, fit_window, reference_window
from tests.training.made import face_like, record

ALWAYS = AugmentSpec(
    rotate_share=1,
    shear=0.1,
    downscale_share=1,
    blur_share=1,
    noise_share=1,
    colour_share=1,
    jpeg_share=1,
    webp_share=1,
    h264_share=1,
)


@given(st.integers(0, 2**32 - 1), st.sampled_from([32, 48, 80]))
@settings(max_examples=30, deadline=None)
def test_every_plan_gives_a_picture_and_the_same_plan_the_same_picture(seed: int, size_px: int) -> None:
    rng = np.random.default_rng(seed)
    picture = face_like(rng)
    plan = augment.draw(ALWAYS, rng)
    first = augment.apply(plan, picture, Window(4, 4, 56), size_px)
    assert first.shape == (size_px, size_px, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, augment.apply(plan, picture, Window(4, 4, 56), size_px))


def test_an_empty_plan_changes_nothing() -> None:
    picture = face_like(np.random.default_rng(0))
    assert np.array_equal(augment.apply(AugmentPlan(), picture, Window(0, 0, 64), 64), picture)


def test_a_source_of_equal_draws_gives_equal_plans() -> None:
    assert augment.draw(ALWAYS, np.random.default_rng(7)) == augment.draw(ALWAYS, np.random.default_rng(7))


@pytest.mark.parametrize(
    "plan", [AugmentPlan(downscale=0.4), AugmentPlan(blur_sigma_px=1.5), AugmentPlan(jpeg_quality=20)]
)
def test_degrading_takes_detail_away(plan: AugmentPlan) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8)

    def detail(image: np.ndarray) -> float:
        return float(np.abs(np.diff(image.astype(int), axis=1)).mean())

    assert detail(augment.degrade(plan, picture)) < 0.8 * detail(picture)


@given(
    st.floats(-50, 150), st.floats(-50, 150), st.floats(1, 300), st.tuples(st.integers(16, 120), st.integers(16, 120))
)
def test_windows_lie_inside_the_picture(x: float, y: float, side: float, shape: tuple[int, int]) -> None:
    window = fit_window(x, y, side, shape)
    assert window.left >= 0
    assert window.top >= 0
    assert window.left + window.side <= shape[1] + 1e-6
    assert window.top + window.side <= shape[0] + 1e-6


def test_the_reference_window_is_the_services_crop() -> None:
    box = record("a", "REAL", "g", box=(0.3, 0.2, 0.3, 0.4))
    window = reference_window(box, (200, 200), margin=0.1, shift_y=0.05)
    # Longer side 80 px, 10 % margin on each side, centre (90, 80) moved down by 4 px.
    assert window == Window(pytest.approx(42), pytest.approx(36), pytest.approx(96))
