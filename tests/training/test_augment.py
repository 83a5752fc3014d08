from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfwatch.training import augment
from dfwatch.training.augment import AugmentPlan, AugmentSpec
from dfwatch.training.windows import BORDERS, Border, Window, fit_window, reference_window, surround
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
    pad_share=0.5,
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


def test_what_is_not_asked_for_is_not_drawn() -> None:
    """Recipes from before surroundings were made up draw what they always drew."""
    padded = AugmentSpec(pad_share=1.0, pad=(1.5, 1.5))
    plain, wide = (augment.draw(spec, np.random.default_rng(3)) for spec in (AugmentSpec(), padded))
    assert plain.border is None
    assert wide.border is not None
    assert (wide.zoom, wide.flip, wide.noise_seed, wide.gain) == (1.5, plain.flip, plain.noise_seed, plain.gain)


@pytest.mark.parametrize("border", BORDERS)
def test_surroundings_are_made_up_and_the_picture_is_kept(border: Border) -> None:
    picture = face_like(np.random.default_rng(2))
    plan = AugmentPlan(zoom=1.5, border=border)
    seen = augment.apply(plan, picture, Window(0, 0, 64), 96)
    assert np.abs(seen[16:80, 16:80].astype(int) - picture).max() <= 1
    # What lies around resembles the picture's edge, and is no black bar.
    edge = seen[14, 20:76].astype(int) - picture[0, 4:60]
    assert np.abs(edge).mean() < 25


@given(st.floats(-30, 60), st.floats(-30, 60), st.floats(8, 150), st.sampled_from(BORDERS))
@settings(max_examples=40, deadline=None)
def test_made_up_surroundings_hold_the_window_they_were_made_for(
    x: float, y: float, side: float, border: Border
) -> None:
    made, window = surround(face_like(np.random.default_rng(2), 48), Window(x, y, side), border)
    assert min(window.left, window.top) > -1e-6
    assert window.left + window.side <= made.shape[1] + 1e-6
    assert window.top + window.side <= made.shape[0] + 1e-6
    assert max(made.shape) <= 3 * 48


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
