"""A picture is judged as one upright frame, whatever its name."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from dfwatch.errors import RefusedError, UndecodableError
from dfwatch.reasons import Reason
from tests.clips import PlacedFace, cut, make_clip, make_still, paint
from tests.reader.helpers import FACES, read

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_orientation_is_applied(tmp_path: Path, name: str, orientation: int) -> None:
    reading = read(make_still(tmp_path / name, size=(480, 360), exif_orientation=orientation))

    assert (reading.video.width, reading.video.height) == (480, 360)
    assert reading.video.still
    assert reading.video.duration_s is None
    assert reading.video.fps is None
    assert (reading.sampling.strategy, reading.sampling.expected_frames, reading.sampling.decoded) == ("still", 1, 1)
    assert [len(track.faces) for track in reading.tracks] == [1]
    assert reading.decoder.startswith("OpenCV")


def boxes(data: bytes) -> dict[bytes, bytes]:
    """Contents of ISO boxes that follow each other; of two of a kind the last one's."""
    found, at = {}, 0
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        found[kind] = data[at + 8 : at + length]
        at += length
    return found


def box(kind: bytes, *contents: bytes, flags: int | None = None) -> bytes:
    body = (b"" if flags is None else struct.pack(">I", flags)) + b"".join(contents)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def make_tiled(path: Path, rows: int, columns: int, thumbnail: Path) -> Path:
    """A HEIF file as phones write it: hidden tiles, the picture that they make, and a thumbnail (ISO/IEC 23008-12)."""
    tile = boxes(thumbnail.read_bytes())
    with Image.open(thumbnail) as picture:
        width, height = picture.size
    settings = boxes(boxes(boxes(tile[b"meta"][4:])[b"iprp"])[b"ipco"])[b"av1C"]
    count = rows * columns
    whole, small = count + 1, count + 2
    kinds = [b"av01"] * count + [b"grid", b"av01"]
    entries = [
        box(b"infe", struct.pack(">HH4sB", number, 0, kind, 0), flags=2 << 24 | (number <= count))
        for number, kind in enumerate(kinds, 1)
    ]
    sizes = (box(b"ispe", struct.pack(">II", w, h), flags=0) for w, h in ((width, height), (8 * width, 8 * height)))
    properties = box(b"ipco", box(b"av1C", settings), *sizes)
    uses = [
        struct.pack(">H2B", n, 1, 3) if n == whole else struct.pack(">H3B", n, 2, 0x81, 2) for n in range(1, small + 1)
    ]
    grid = struct.pack(">4B2H", 0, 0, rows - 1, columns - 1, columns * width, rows * height)
    references = (
        box(b"dimg", struct.pack(f">{count + 2}H", whole, count, *range(1, whole))),
        box(b"thmb", struct.pack(">3H", small, 1, whole)),
    )

    def meta(start: int) -> bytes:
        places = [
            struct.pack(
                ">4H2I", n, n == whole, 0, 1, 0 if n == whole else start, 8 if n == whole else len(tile[b"mdat"])
            )
            for n in range(1, small + 1)
        ]
        return box(
            b"meta",
            box(b"hdlr", bytes(4), b"pict", bytes(13), flags=0),
            box(b"pitm", struct.pack(">H", whole), flags=0),
            box(b"iloc", struct.pack(">BBH", 0x44, 0, small), *places, flags=1 << 24),
            box(b"iinf", struct.pack(">H", small), *entries, flags=0),
            box(b"iref", *references, flags=0),
            box(b"iprp", properties, box(b"ipma", struct.pack(">I", small), *uses, flags=0)),
            box(b"idat", grid),
            flags=0,
        )

    head = box(b"ftyp", b"avif", bytes(4), b"mif1avif")
    start = len(head) + len(meta(0)) + 8
    path.write_bytes(head + meta(start) + box(b"mdat", tile[b"mdat"]))
    return path


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_picture_in_a_container_of_videos(tmp_path: Path, orientation: int) -> None:
    reading = read(make_still(tmp_path / "a.avif", size=(480, 360), exif_orientation=orientation))

    assert (reading.video.width, reading.video.height) == (480, 360)
    assert reading.video.still
    assert reading.video.duration_s is None
    assert reading.video.fps is None
    assert (reading.sampling.strategy, reading.sampling.expected_frames, reading.sampling.decoded) == ("still", 1, 1)
    assert [len(track.faces) for track in reading.tracks] == [1]
    assert not reading.quality
    assert not reading.warnings


def test_a_part_of_a_picture_in_a_container_of_videos(tmp_path: Path) -> None:
    with pytest.raises(UndecodableError) as caught:
        read(cut(make_still(tmp_path / "a.avif"), tmp_path / "part.avif", 0.9))
    assert caught.value.reason is Reason.TRUNCATED


def test_an_animated_avif_is_a_video(tmp_path: Path) -> None:
    first, *others = (Image.fromarray(paint(number, (320, 240))) for number in range(5))
    first.save(tmp_path / "a.avif", save_all=True, append_images=others, duration=100)

    reading = read(tmp_path / "a.avif")

    assert not reading.video.still
    assert (reading.video.fps, reading.video.duration_s, reading.sampling.decoded) == (10.0, 0.5, 5)
    assert not reading.warnings


def test_a_picture_in_tiles_is_not_judged_by_one_of_them(tmp_path: Path) -> None:
    tile = tmp_path / "tile.avif"
    Image.fromarray(paint(1, (256, 256))).save(tile)

    with pytest.raises(RefusedError, match="tiles") as caught:
        read(make_tiled(tmp_path / "a.heic", 2, 3, tile))

    assert caught.value.reason is Reason.UNSUPPORTED_CODEC


def test_a_jpeg_under_a_video_name(tmp_path: Path) -> None:
    reading = read(make_still(tmp_path / "clip.mp4", kind="JPEG"))
    assert reading.video.still
    assert reading.video.codec == "mjpeg"
    assert len(reading.crops) == 1


@pytest.mark.parametrize("progressive", [False, True])
def test_what_follows_a_jpeg_does_not_matter(tmp_path: Path, progressive: bool) -> None:
    plain = make_still(tmp_path / "plain.jpg").read_bytes()
    with Image.open(tmp_path / "plain.jpg") as picture:
        # The thumbnail within is a whole picture too.
        picture.save(tmp_path / "a.jpg", progressive=progressive, exif=b"Exif\0\0" + plain[:30_000] + b"\xff\xd9")
    data = (tmp_path / "a.jpg").read_bytes()
    motion = make_clip(tmp_path / "a.mp4", codec="mjpeg", seconds=0.5).read_bytes()
    for trailer in (motion, motion[:-1000], data[: len(data) // 2], bytes(1000)):
        (tmp_path / "motion.jpg").write_bytes(data + trailer)
        assert len(read(tmp_path / "motion.jpg").crops) == 1

    (tmp_path / "half.jpg").write_bytes(data[: (len(plain) + len(data)) // 2])
    with pytest.raises(UndecodableError, match="end is missing") as caught:
        read(tmp_path / "half.jpg")
    assert caught.value.reason is Reason.TRUNCATED


def test_the_crop_is_red_where_the_astronaut_is(tmp_path: Path) -> None:
    crop = read(make_still(tmp_path / "a.png")).crops[0]
    red, green, blue = crop[30:70, 30:70].reshape(-1, 3).mean(axis=0)
    assert red > green > blue


def test_of_an_animation_the_first_picture_is_taken(tmp_path: Path) -> None:
    first, second = (Image.fromarray(paint(number, (320, 240))) for number in (1, 2))
    path = tmp_path / "a.webp"
    first.save(path, save_all=True, append_images=[second], duration=100)
    reading = read(path)
    assert (reading.video.width, reading.video.height, len(reading.crops)) == (320, 240, 1)
    assert [flag.flag for flag in reading.quality] == ["animation"]
    assert reading.warnings == ("an animation: only its first picture was judged",)
    with pytest.raises(RefusedError) as caught:
        read(path, max_pixels=1000)
    assert caught.value.reason is Reason.TOO_MANY_PIXELS


def test_faces_that_are_not_judged_are_counted(tmp_path: Path) -> None:
    places = [PlacedFace(x=0.17 + 0.22 * number, height=0.5 - 0.04 * number) for number in range(4)]
    path = make_still(tmp_path / "a.png", size=(1280, 640), faces=places)
    assert read(path).quality == ()
    sides = sorted(max(face.box.width, face.box.height) for track in read(path).tracks for face in track.faces)
    assert len(sides) == 4

    reading = read(path, faces=replace(FACES, max_per_frame=2, min_side_px=math.ceil(sides[0])))

    assert [max(track.faces[0].box.width, track.faces[0].box.height) for track in reading.tracks] == sides[:1:-1]
    assert {flag.flag: flag.detail for flag in reading.quality} == {
        "faces_left_out": "not judged, as their frames have more faces than allowed: 1 in all frames",
        "faces_too_small": "not judged, as they are smaller than allowed: 1 in all frames",
    }


@pytest.mark.parametrize("more", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_damaged_jpeg_is_not_judged(tmp_path: Path, mode: str, more: dict[str, Any]) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(paint(1, (320, 240))).convert(mode).save(path, quality=92, **more)
    whole = path.read_bytes()
    assert read(path).quality == ()
    path.write_bytes(whole + bytes(range(256)))
    assert len(read(path).crops) == 1

    data = np.frombuffer(whole, np.uint8).copy()
    random = np.random.default_rng(1)
    data[random.integers(int(0.72 * len(data)), len(data) - 2, 60)] = random.integers(0, 255, 60)
    path.write_bytes(data.tobytes())

    with pytest.raises(UndecodableError) as caught:
        read(path)
    assert caught.value.reason is Reason.CORRUPT


def test_an_extended_webp_of_one_picture_is_no_animation(tmp_path: Path) -> None:
    path = tmp_path / "a.webp"
    Image.fromarray(paint(1, (320, 240))).convert("RGBA").save(path, exif=Image.Exif().tobytes() or b"Exif\0\0")
    assert path.read_bytes()[12:16] == b"VP8X"
    reading = read(path)
    assert (reading.quality, reading.warnings) == ((), ())


@pytest.mark.parametrize(("mode", "name"), [("L", "a.png"), ("P", "a.png"), ("RGBA", "a.webp"), ("CMYK", "a.jpg")])
def test_other_colour_models(tmp_path: Path, mode: str, name: str) -> None:
    Image.fromarray(paint(1, (320, 240))).convert(mode).save(tmp_path / name)
    assert len(read(tmp_path / name).crops) == 1


@pytest.mark.parametrize("size", [(8000, 16), (16, 8000)])
def test_a_picture_that_is_nearly_a_line_is_read(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "line.png")
    reading = read(tmp_path / "line.png")
    assert (reading.video.width, reading.video.height) == size
    assert reading.tracks == ()
