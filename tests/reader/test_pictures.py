"""Upright, square pixels, right colours: for every orientation, layout and colour space."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfwatch.decode.colours import HLG, PQ, to_bt709
from dfwatch.decode.pictures import Converter, Orientation, VideoPicture, pixel_aspect_of
from dfwatch.reading import Box
from tests.clips import PlacedFace, display_matrix, make_clip, paint, read_frame_number, stored
from tests.reader.helpers import read, sample

if TYPE_CHECKING:
    from pathlib import Path

EIGHT = list(itertools.product([0, 90, 180, 270], [False, True]))


def picture_of(rgb: np.ndarray, pixel_format: str, orientation: Orientation = Orientation()) -> VideoPicture:  # noqa: B008
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24").reformat(format=pixel_format)
    return VideoPicture(frame, orientation, 1.0, Converter())


@pytest.mark.parametrize(("rotation", "mirrored"), EIGHT)
def test_all_eight_orientations(tmp_path: Path, rotation: int, mirrored: bool) -> None:
    path = make_clip(
        tmp_path / "a.mp4",
        size=(400, 240),
        seconds=0.5,
        rotation=rotation,
        mirrored=mirrored,
        faces=(PlacedFace(x=0.3, height=0.9),),
    )
    reading = read(path, frames=3)

    assert (reading.video.width, reading.video.height) == (400, 240)
    assert reading.video.rotation == rotation
    assert any("mirrored" in warning for warning in reading.warnings) == mirrored
    assert [len(track.faces) for track in reading.tracks] == [3]
    box = reading.tracks[0].faces[0].box
    assert box.x + box.width / 2 < 200
    assert all(shot.number == round(shot.time_s * 24) for shot in sample(path, frames=3).shots)


@pytest.mark.parametrize(("rotation", "mirrored"), EIGHT)
def test_orientation_undoes_what_was_stored(rotation: int, mirrored: bool) -> None:
    upright = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    orientation = Orientation.from_display_matrix(display_matrix(rotation, mirrored=mirrored))

    assert (orientation.degrees, orientation.mirrored) == (rotation, mirrored)
    assert (orientation.apply(stored(upright, rotation, mirrored=mirrored)) == upright).all()


@pytest.mark.parametrize(("rotation", "mirrored"), EIGHT)
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "rgb24", "nv12", "gray"])
@pytest.mark.parametrize("region", [Box(101, 51, 64, 64), Box(-20, -10, 64, 64), Box(250, 130, 64, 64)])
def test_a_crop_is_the_part_of_the_whole(rotation: int, mirrored: bool, pixel_format: str, region: Box) -> None:
    upright = cv2.GaussianBlur(paint(5, (300, 180)), (0, 0), 2)
    orientation = Orientation(rotation // 90, mirrored)
    picture = picture_of(stored(upright, rotation, mirrored=mirrored), pixel_format, orientation)

    whole = picture.search_bgr(1000)[..., ::-1]
    padded = np.pad(whole, ((200, 200), (200, 200), (0, 0)), mode="edge")
    top, left = round(region.y) + 200, round(region.x) + 200
    expected = padded[top : top + 64, left : left + 64]
    crop = picture.crop(region, 64)

    assert (picture.width, picture.height) == (300, 180)
    assert np.abs(crop.astype(int) - expected).mean() < 3


def test_a_matrix_without_meaning_is_ignored() -> None:
    assert Orientation.from_display_matrix([0] * 9) == Orientation()


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    wide = make_clip(tmp_path / "a.mp4", size=(320, 240), seconds=0.5)
    narrow = tmp_path / "b.mp4"
    with av.open(str(wide)) as source, av.open(str(narrow), "w") as output:
        stream = output.add_stream("libx264", rate=24, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 160, 240, "yuv420p"
        stream.sample_aspect_ratio = 2
        for frame in source.decode(video=0):
            small = frame.reformat(width=160, height=240)
            small.pts, small.time_base = frame.pts, frame.time_base
            for packet in stream.encode(small):
                output.mux(packet)
        for packet in stream.encode(None):
            output.mux(packet)

    square, squeezed = read(wide, frames=1), read(narrow, frames=1)

    assert (squeezed.video.width, squeezed.video.height) == (320, 240)
    first, second = square.tracks[0].faces[0].box, squeezed.tracks[0].faces[0].box
    assert second.x == pytest.approx(first.x, abs=8)
    assert second.width == pytest.approx(first.width, abs=8)
    assert np.abs(square.crops[0].astype(int) - squeezed.crops[0]).mean() < 12


@given(st.one_of(st.none(), st.floats()))
def test_pixel_aspect_is_always_sane(declared: float | None) -> None:
    assert 0.25 <= pixel_aspect_of(declared) <= 4.0


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("bt601", {"color": (6, 6, 6, 1)}),
        ("bt709", {"color": (1, 1, 1, 1)}),
        ("full", {"color": (1, 1, 1, 2), "pixel_format": "yuvj420p"}),
        ("untagged", {}),
        ("10", {"pixel_format": "yuv420p10le", "color": (1, 1, 1, 1)}),
    ],
)
def test_colours_come_through(tmp_path: Path, kind: str, more: dict[str, Any]) -> None:
    def painter(number: int, size: tuple[int, int], time_s: float) -> np.ndarray:
        picture = np.zeros((size[1], size[0], 3), np.uint8)
        picture[:] = (180, 120, 70)
        return picture

    matrix = {"bt601": 5, "untagged": 5}.get(kind, 1)
    path = tmp_path / f"{kind}.mp4"
    times = [0]
    make_clip(path, painter=painter, times=times, **more)
    fd_picture = first_picture(path)
    if matrix == 1:
        # The helper converts with BT.601; what a BT.709 reader makes of it differs in a known way, mostly in green.
        assert np.abs(fd_picture.mean(axis=(0, 1)) - (180, 120, 70)).max() < 25
    else:
        assert np.abs(fd_picture.mean(axis=(0, 1)) - (180, 120, 70)).max() < 4


def first_picture(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        return VideoPicture(frame, Orientation(), 1.0, Converter()).crop(Box(50, 50, 64, 64), 64)


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_wide_colours_keep_order_hue_and_range(transfer: int) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)
    grey = to_bt709(np.repeat(ramp[:, None], 3, axis=1), transfer)
    assert grey[0].tolist() == [0, 0, 0]
    assert (np.diff(grey.astype(int), axis=0) >= 0).all()
    assert np.abs(grey.astype(int) - grey.astype(int).mean(axis=1, keepdims=True)).max() <= 2
    assert grey[-1].min() >= 250
    skin = to_bt709(np.array([[32000, 27000, 24000]], np.uint16), transfer)[0]
    assert skin[0] > skin[1] > skin[2]


def test_diffuse_white_of_pq_is_bright_and_not_clipped() -> None:
    # 203 cd/m2 is a signal of 0.58 (ITU-R BT.2408).
    white = to_bt709(np.full((1, 3), round(0.58 * 65535), np.uint16), PQ)[0]
    assert 220 < white[0] < 250


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_high_dynamic_range_is_flagged_and_read(tmp_path: Path, transfer: int) -> None:
    path = make_clip(
        tmp_path / "a.mp4", codec="libx265", pixel_format="yuv420p10le", color=(9, transfer, 9, 1), seconds=0.5
    )
    reading = read(path, frames=4)
    assert "high_dynamic_range" in {flag.flag for flag in reading.quality}
    assert len(reading.crops) == 4
    for crop in reading.crops:
        red, green, blue = crop.reshape(-1, 3).mean(axis=0)
        assert red > green > blue


@pytest.mark.parametrize("size", [(96, 64), (97, 65), (35, 33)])
@pytest.mark.parametrize("place", [0, 7, 31])
def test_wide_colours_of_any_size(size: tuple[int, int], place: int) -> None:
    frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), (180, 120, 70), np.uint8), format="rgb24")
    frame = frame.reformat(format="yuv420p10le", dst_colorspace="BT2020")
    frame.colorspace, frame.color_trc, frame.color_primaries = 9, HLG, 9
    crop = VideoPicture(frame, Orientation(), 1.0, Converter()).crop(Box(place, place, 33, 31), 16)
    assert np.ptp(crop.astype(int), axis=(0, 1)).max() <= 6
    assert crop[8, 8, 0] > crop[8, 8, 1] > crop[8, 8, 2]


def test_interlaced(tmp_path: Path) -> None:
    path = make_clip(
        tmp_path / "a.mpg",
        codec="mpeg2video",
        seconds=1,
        size=(320, 256),
        options={"flags": "+ilme+ildct", "qscale": "2", "field_order": "tt", "top": "1"},
    )
    reading = read(path, frames=4)
    assert len(reading.tracks[0].faces) == 4


def test_a_plain_number_survives_every_size() -> None:
    for size in ((64, 48), (320, 240), (1280, 720)):
        assert read_frame_number(paint(12345, size, faces=())) == 12345
