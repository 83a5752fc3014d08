"""Several streams in one file: the one that a player would show is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import av
import pytest
from av.stream import Disposition

from tests.clips import make_clip, make_still, paint
from tests.reader.helpers import read, sample

if TYPE_CHECKING:
    from pathlib import Path


def with_streams(path: Path, *sizes: tuple[int, int], default: int | None = None, cover: bytes = b"") -> Path:
    """A Matroska file with one video stream for each size; frame numbers begin at 100 times the stream's number."""
    with av.open(str(path), "w") as output:
        streams = []
        if cover:
            attachment = output.add_stream("mjpeg", rate=1)
            attachment.width, attachment.height, attachment.pix_fmt = 640, 480, "yuvj420p"
            attachment.disposition = Disposition.attached_pic
        for number, (width, height) in enumerate(sizes):
            stream = output.add_stream("libx264", rate=24, options={"preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.disposition = Disposition.default if number == default else Disposition(0)
            streams.append(stream)
        if cover:
            packet = av.Packet(cover)
            packet.stream, packet.pts, packet.dts = attachment, 0, 0
            output.mux(packet)
        for frame_number in range(12):
            for number, stream in enumerate(streams):
                size = (stream.width, stream.height)
                frame = av.VideoFrame.from_ndarray(paint(100 * number + frame_number, size, faces=()), format="rgb24")
                frame.pts = frame_number
                output.mux(stream.encode(frame))
        for stream in streams:
            output.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("sizes", "default", "chosen"),
    [
        ([(160, 120), (320, 240)], None, 1),
        ([(320, 240), (160, 120)], None, 0),
        ([(160, 120), (320, 240)], 0, 0),
        ([(320, 240), (160, 120)], 1, 1),
        ([(160, 120), (160, 120)], None, 0),
    ],
)
def test_the_default_or_else_the_largest_stream(
    tmp_path: Path, sizes: list[tuple[int, int]], default: int | None, chosen: int
) -> None:
    taken = sample(with_streams(tmp_path / "a.mkv", *sizes, default=default), frames=3)
    assert [shot.number // 100 for shot in taken.shots] == [chosen] * 3


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.mov", "a.ts"])
def test_more_streams_than_one_are_told(tmp_path: Path, name: str) -> None:
    reading = read(with_streams(tmp_path / name, (320, 240), (160, 120), (160, 120)), frames=3)
    assert reading.warnings == ("it holds 3 video streams, of which the one that players show first was judged",)
    assert read(with_streams(tmp_path / name, (320, 240)), frames=3).warnings == ()


def test_a_cover_picture_is_passed_over(tmp_path: Path) -> None:
    cover = make_still(tmp_path / "cover.jpg", size=(640, 480)).read_bytes()
    path = with_streams(tmp_path / "a.mp4", (160, 120), cover=cover)
    with av.open(str(path)) as container:
        assert any(stream.disposition & Disposition.attached_pic for stream in container.streams.video)

    reading = read(path, frames=3)

    assert (reading.video.width, reading.video.height, reading.video.codec) == (160, 120, "h264")
    assert reading.sampling.decoded == 3
    assert reading.warnings == ()


def test_sound_beside_the_picture_does_not_matter(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", seconds=1, faces=())
    path = tmp_path / "b.mkv"
    with av.open(str(clip)) as source, av.open(str(path), "w") as output:
        sound = output.add_stream("pcm_s16le", rate=8000, layout="mono")
        picture = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = picture
                output.mux(packet)
        output.mux(sound.encode(None))
    assert read(path, frames=4).sampling.decoded == 4
