"""The size of the picture changes midway: every frame is searched and cut at its own, and told in that of the first."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

from dfwatch.decode.media import MediaReader
from dfwatch.faces import FaceFinder
from tests.clips import FAST, make_clip, paint
from tests.reader.helpers import CROP, FACES, READER, read, sample

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dfwatch.reading import Reading

FPS = 25
LARGE, SMALL, TALL = (480, 360), (320, 240), (240, 320)
EACH = 25


def resized(
    path: Path, codec: str, sizes: Sequence[tuple[int, int]], aspects: Sequence[Fraction] | None = None
) -> Path:
    """One stream of packets from one encoder after another, as an encoder writes it that adapts to its line."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=FPS)
        assert isinstance(stream, av.VideoStream)
        for part, size in enumerate(sizes):
            encoder = stream.codec_context if part == 0 else av.CodecContext.create(codec, "w")
            assert isinstance(encoder, av.VideoCodecContext)
            encoder.width, encoder.height = size
            encoder.pix_fmt, encoder.time_base, encoder.framerate = "yuv420p", Fraction(1, FPS), Fraction(FPS)
            if aspects:
                encoder.sample_aspect_ratio = aspects[part]
            encoder.gop_size, encoder.max_b_frames, encoder.options = 300, 0, FAST[codec]
            for number in range(part * EACH, (part + 1) * EACH):
                frame = av.VideoFrame.from_ndarray(paint(number, size), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, FPS)
                for packet in encoder.encode(frame):
                    packet.stream = stream
                    output.mux(packet)
            for packet in encoder.encode(None):
                packet.stream = stream
                output.mux(packet)
    return path


def flags(reading: Reading) -> dict[str, str]:
    return {flag.flag: flag.detail for flag in reading.quality}


@pytest.mark.parametrize(
    ("name", "codec"), [("a.webm", "libvpx"), ("b.webm", "libvpx-vp9"), ("c.ts", "libx264"), ("d.ts", "libx265")]
)
@pytest.mark.parametrize("sizes", [(LARGE, SMALL), (SMALL, LARGE, SMALL), (SMALL, TALL)])
@pytest.mark.parametrize("settings", [{}, {"sampling": "exact", "decoder_threads": 4}])
def test_boxes_and_crops_fit_every_frame(
    tmp_path: Path, name: str, codec: str, sizes: Sequence[tuple[int, int]], settings: dict[str, Any]
) -> None:
    if codec == "libvpx-vp9" and TALL in sizes:
        pytest.skip("what a VP9 frame refers to may not be so much larger")
    path = resized(tmp_path / name, codec, sizes)

    reading = read(path, **settings)

    told = ", ".join(f"{width}x{height}" for width, height in dict.fromkeys(sizes))
    shots = sample(path, **settings).shots
    assert [shot.number / FPS for shot in shots] == pytest.approx([shot.time_s for shot in shots], abs=0.002)
    assert (reading.sampling.decoded, reading.sampling.failed) == (20, 0)
    assert flags(reading)["size_changes"] == f"the sampled frames have {told} pixels"
    assert (reading.video.width, reading.video.height) == sizes[0]
    assert [len(track.faces) for track in reading.tracks] == [20]
    for face in reading.tracks[0].faces:
        width, height = sizes[int(face.time_s * FPS + 0.5) // EACH]
        # The portrait is as wide as 0.8 of the frame is high.
        assert face.box.width / reading.video.width == pytest.approx(0.8 * height / width * 0.35, rel=0.25)
        assert (face.box.x + face.box.width / 2) / reading.video.width == pytest.approx(0.52, abs=0.04)
        assert (face.box.y + face.box.height / 2) / reading.video.height == pytest.approx(0.55, abs=0.06)
    crops = reading.crops.astype(float)
    assert np.abs(crops - crops[0]).mean(axis=(1, 2, 3)).max() < 30


def test_what_has_one_size_has_no_flag(tmp_path: Path) -> None:
    assert "size_changes" not in flags(read(make_clip(tmp_path / "a.webm", codec="libvpx", seconds=1)))


@pytest.mark.parametrize("kind", ["libx264", "mpeg2video"])
def test_recordings_of_two_sizes(tmp_path: Path, kind: str) -> None:
    more: dict[str, Any] = {"codec": kind, "seconds": 3, "fps": FPS}
    parts = [make_clip(tmp_path / f"{size[0]}.ts", size=size, **more) for size in (LARGE, SMALL)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    reading = read(path)
    assert {"size_changes", "timestamps_jump"} <= flags(reading).keys()
    assert [len(track.faces) for track in reading.tracks] == [20]
    centres = [(face.box.x + face.box.width / 2) / reading.video.width for face in reading.tracks[0].faces]
    assert centres == pytest.approx([0.52] * 20, abs=0.04)


def test_low_resolution_is_that_of_half_of_the_frames(tmp_path: Path) -> None:
    mostly_small = resized(tmp_path / "a.webm", "libvpx", [LARGE, (160, 120), (160, 120)])
    mostly_large = resized(tmp_path / "b.webm", "libvpx", [(160, 120), LARGE, LARGE])
    assert flags(read(mostly_small))["low_resolution"] == "the picture has 160x120 pixels"
    assert "low_resolution" not in flags(read(mostly_large))


def test_thumbnails_are_of_one_size(tmp_path: Path) -> None:
    path = resized(tmp_path / "a.ts", "libx264", [SMALL, TALL])
    with path.open("rb") as file:
        finder = FaceFinder(FACES)
        reading = MediaReader(replace(READER, frames=8), FACES, finder, thumbnail_side_px=160).read(file.fileno(), CROP)
    assert reading.thumbnails is not None
    assert reading.thumbnails.shape == (8, 120, 160, 3)


@pytest.mark.parametrize("threads", [1, 4])
def test_pixels_need_not_be_square_in_both(tmp_path: Path, threads: int) -> None:
    narrow = Fraction(12, 11)
    path = resized(tmp_path / "a.ts", "mpeg2video", [(352, 288), LARGE, (352, 288)], [narrow, Fraction(1), narrow])
    reading = read(path, decoder_threads=threads)
    assert (reading.video.width, reading.video.height) == (384, 288)
    assert flags(reading)["size_changes"] == "the sampled frames have 384x288, 480x360 pixels"
