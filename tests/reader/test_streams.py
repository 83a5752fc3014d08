"""Several streams in one file: the one that a player would show is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import av
import pytest
from av.stream import Disposition

from dfwatch.decode.streams import until_the_end
from tests.clips import make_clip, make_still, paint
from tests.reader.helpers import read, sample

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def with_streams(
    path: Path,
    *sizes: tuple[int, int],
    default: int | None = None,
    cover: bytes = b"",
    lone: int | None = None,
    lone_codec: str = "libx264",
) -> Path:
    """A file with one video stream for each size; frame numbers begin at 100 times the stream's number.

    The stream ``lone`` holds a single frame.
    """
    with av.open(str(path), "w") as output:
        streams = []
        if cover:
            attachment = output.add_stream("mjpeg", rate=1)
            attachment.width, attachment.height, attachment.pix_fmt = 640, 480, "yuvj420p"
            attachment.disposition = Disposition.attached_pic
        for number, (width, height) in enumerate(sizes):
            codec = lone_codec if number == lone else "libx264"
            stream = output.add_stream(codec, rate=24, options={"preset": "ultrafast"} if codec == "libx264" else {})
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height = width, height
            stream.pix_fmt = {"mjpeg": "yuvj420p", "png": "rgb24"}.get(codec, "yuv420p")
            stream.disposition = Disposition.default if number == default else Disposition(0)
            streams.append(stream)
        if cover:
            packet = av.Packet(cover)
            packet.stream, packet.pts, packet.dts = attachment, 0, 0
            output.mux(packet)
        for frame_number in range(12):
            for number, stream in enumerate(streams):
                if number == lone and frame_number > 0:
                    continue
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


@pytest.mark.parametrize("codec", ["mjpeg", "png", "libx264"])
@pytest.mark.parametrize("ending", ["mkv", "mp4", "mov", "avi", "ts"])
@pytest.mark.parametrize("lone", [0, 1])
@pytest.mark.parametrize("default", [None, 0, 1])
def test_a_stream_of_one_frame_is_not_the_film(
    tmp_path: Path, codec: str, ending: str, lone: int, default: int | None
) -> None:
    if (codec == "png" and ending in {"mkv", "ts"}) or (codec == "mjpeg" and ending == "ts"):
        pytest.skip("no such stream in it")
    sizes = [(160, 120), (160, 120)]
    sizes[lone] = (640, 480)
    path = with_streams(tmp_path / f"a.{ending}", *sizes, default=default, lone=lone, lone_codec=codec)

    taken = sample(path, frames=4)

    assert [shot.number // 100 for shot in taken.shots] == [1 - lone] * 4
    reading = read(path, frames=4)
    assert (reading.video.width, reading.sampling.failed) == (160, 0)
    assert len(reading.warnings) == 1
    assert reading.warnings[0].startswith("it holds 2 video streams, of ")


def test_that_a_stream_of_one_frame_was_passed_over_is_told(tmp_path: Path) -> None:
    path = with_streams(tmp_path / "a.mkv", (640, 480), (160, 120), default=0, lone=0)
    said = "it holds 2 video streams, of those with more than one frame, the one that players show first was judged"
    assert read(path, frames=3).warnings == (said,)


def test_of_streams_of_one_frame_the_first_is_judged(tmp_path: Path) -> None:
    path = with_streams(tmp_path / "a.mkv", (320, 240), (160, 120), lone=1)
    single = tmp_path / "single.mkv"
    with av.open(str(path)) as source, av.open(str(single), "w") as output:
        streams = {stream.index: output.add_stream_from_template(stream) for stream in source.streams.video}
        for packet in source.demux():
            if packet.dts is not None and packet.pts == 0:
                packet.stream = streams[packet.stream_index]
                output.mux(packet)
    reading = read(single, frames=3)
    assert (reading.video.width, reading.sampling.decoded) == (320, 1)


def test_a_second_frame_is_not_searched_for_in_the_whole_of_a_large_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfwatch.decode.streams.SEARCHED_BYTES", 1000)
    path = with_streams(tmp_path / "a.mkv", (160, 120), (640, 480), lone=1)
    read_bytes: list[int] = []

    def counted(packets: Iterator[Any]) -> Iterator[Any]:
        for packet in until_the_end(packets):
            read_bytes.append(packet.size)
            yield packet

    monkeypatch.setattr("dfwatch.decode.streams.until_the_end", counted)
    read(path, frames=3)
    assert sum(read_bytes[:-1]) <= 1000


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
