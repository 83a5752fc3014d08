"""Sampling real files of many codecs and containers: the right frame at the right time, whatever the way to it."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import pytest

from dfwatch.decode import wire
from dfwatch.decode.good_frames import GoodFrames
from tests.clips import loop_clip, make_clip
from tests.reader.helpers import CROP, read, sample

if TYPE_CHECKING:
    from pathlib import Path

FPS = 24
REFRESH = "intra-refresh=1:keyint=60"
KINDS: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    "h264-b.mp4": {"b_frames": 3},
    "h264.mkv": {"b_frames": 2},
    "h264.mov": {},
    "h264.ts": {"b_frames": 2},
    "h264.flv": {},
    "h264.avi": {},
    "h264-10.mp4": {"pixel_format": "yuv420p10le"},
    "h264-422.mp4": {"pixel_format": "yuv422p"},
    "fragmented.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "faststart.mp4": {"container_options": {"movflags": "faststart"}},
    "hevc.mp4": {"codec": "libx265", "b_frames": 2},
    "hevc.ts": {"codec": "libx265"},
    "hevc-10.mkv": {"codec": "libx265", "pixel_format": "yuv420p10le"},
    "av1.mp4": {"codec": "libsvtav1"},
    "av1.webm": {"codec": "libsvtav1"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "vp9.mp4": {"codec": "libvpx-vp9"},
    "vp8.webm": {"codec": "libvpx"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg4-b.avi": {"codec": "mpeg4", "b_frames": 2},
    "mpeg4.mp4": {"codec": "mpeg4", "b_frames": 1},
    "mpeg2.mpg": {"codec": "mpeg2video", "b_frames": 2},
    "mpeg2.ts": {"codec": "mpeg2video"},
    "mpeg1.mpg": {"codec": "mpeg1video", "options": {"qscale": "3"}},
    "mjpeg.avi": {"codec": "mjpeg"},
    "mjpeg.mov": {"codec": "mjpeg"},
    "prores.mov": {"codec": "prores_ks", "pixel_format": "yuv422p10le"},
    "wmv.wmv": {"codec": "wmv2", "options": {"qscale": "3"}},
    "h263.3gp": {"codec": "h263", "size": (352, 288), "options": {"qscale": "3"}},
    "huge-gop.mp4": {"gop": 1000},
    "intra.mp4": {"gop": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


def clip(folder: Path, name: str, **more: Any) -> Path:
    path = folder / name
    return path if path.exists() else make_clip(path, seconds=3, fps=FPS, faces=(), **{**KINDS.get(name, {}), **more})


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("frames", [4, 12])
@pytest.mark.parametrize("mode", ["planned", "exact"])
def test_every_frame_is_the_one_that_its_time_says(folder: Path, name: str, frames: int, mode: str) -> None:
    taken = sample(clip(folder, name), frames=frames, sampling=mode)

    assert [shot.slice_index for shot in taken.shots] == list(range(frames))
    assert taken.duration_s == pytest.approx(3.0, abs=0.09)
    step = taken.duration_s / frames
    for shot in taken.shots:
        assert shot.number == round(shot.time_s * FPS), name
        assert shot.time_s * FPS == pytest.approx(shot.number, abs=0.05)
        assert shot.slice_index * step - 0.002 <= shot.time_s < (shot.slice_index + 1) * step
        if mode == "exact":
            middle = (shot.slice_index + 0.5) * step
            assert middle - 0.002 <= shot.time_s < middle + 1.05 / FPS
    assert taken.strategy == ("exact" if mode == "exact" else taken.planned)


def test_key_frames_are_taken_where_every_slice_has_one(folder: Path) -> None:
    long = loop_clip(clip(folder, "h264.mp4"), folder / "long.mp4", 20)

    taken = sample(long, frames=20)

    assert taken.strategy == "keyframes"
    assert all(shot.is_key and shot.number % 12 == 0 for shot in taken.shots)


def test_a_short_clip_is_read_straight_through(folder: Path) -> None:
    assert sample(clip(folder, "huge-gop.mp4"), frames=12).strategy == "sequential"


def test_slices_without_a_key_frame_are_rolled_to(folder: Path) -> None:
    path = make_clip(folder / "sparse.mp4", seconds=12, fps=FPS, gop=48, faces=())

    taken = sample(path, frames=8)

    assert taken.strategy == "seek"
    assert [shot.number for shot in taken.shots] == [round(shot.time_s * FPS) for shot in taken.shots]
    assert sum(shot.is_key for shot in taken.shots) >= 4


@pytest.mark.parametrize("name", ["h264.mkv", "h264.ts", "vp9.webm", "mpeg2.mpg", "h264.flv", "fragmented.mp4"])
def test_long_files_without_a_list_of_frames_are_sampled_by_seeking(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfwatch.decode.frame_index.DEMUX_LIMIT_BYTES", 1000)
    path = clip(folder, name)

    for mode in ("planned", "exact"):
        taken = sample(path, frames=4, sampling=mode)

        assert [shot.slice_index for shot in taken.shots] == [0, 1, 2, 3], mode
        assert [shot.number for shot in taken.shots] == [round(shot.time_s * FPS) for shot in taken.shots]


@pytest.mark.parametrize("name", ["h264.mkv", "vp9.webm", "h264.flv"])
def test_a_long_list_of_key_frames_gives_the_sample_that_a_short_one_gives(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfwatch.decode.frame_index.DEMUX_LIMIT_BYTES", 1000)
    path = clip(folder, name)
    short = sample(path, frames=4)
    monkeypatch.setattr("dfwatch.decode.frame_index.READ_ENTRIES", 1)
    assert sample(path, frames=4) == short


def test_the_same_file_gives_the_same_sample(folder: Path) -> None:
    path = clip(folder, "h264-b.mp4")
    assert sample(path, frames=7) == sample(path, frames=7)


def test_variable_frame_rate_is_sampled_by_time(folder: Path) -> None:
    # One picture a second at first, then sixty: by frame numbers nearly all would come from the last second.
    times = [Fraction(0), *(i + Fraction(3, 10) for i in range(1, 9)), *(9 + Fraction(i, 60) for i in range(60))]
    path = make_clip(folder / "vfr.mp4", times=times, faces=(), gop=4)

    taken = sample(path, frames=10)

    assert [int(shot.time_s) for shot in taken.shots] == list(range(10))
    assert all(shot.time_s == pytest.approx(float(times[shot.number]), abs=0.001) for shot in taken.shots)


def test_slices_in_which_no_frame_begins_are_not_due(folder: Path) -> None:
    times = [Fraction(0), Fraction(1, 10), Fraction(2, 10), Fraction(9), Fraction(91, 10)]
    path = make_clip(folder / "gaps.mp4", times=times, faces=())

    reading = read(path, frames=10)

    assert reading.sampling.expected_frames == reading.sampling.decoded == 2
    assert reading.sampling.failed == 0


def test_fewer_frames_than_wanted_are_all_taken(folder: Path) -> None:
    path = make_clip(folder / "short.mp4", seconds=0.5, fps=12, faces=())

    reading = read(path)

    assert (reading.sampling.requested, reading.sampling.expected_frames, reading.sampling.decoded) == (20, 6, 6)
    assert "few_frames" in {flag.flag for flag in reading.quality}


@pytest.mark.parametrize("frames", [20, 24, 36])
def test_key_frames_at_the_very_edges_of_slices(folder: Path, frames: int) -> None:
    # 36 frames of 1/24 s are 1.5 s, in units of 1/90000 s; in seconds some of them come out as a trifle less.
    path = folder / "edges.ts"
    if not path.exists():
        make_clip(path, codec="mpeg2video", b_frames=2, seconds=18, fps=FPS, gop=36, size=(160, 96), faces=())

    taken = sample(path, frames=frames)

    assert [shot.slice_index for shot in taken.shots] == list(range(frames))
    assert [shot.number for shot in taken.shots] == [round(shot.time_s * FPS) for shot in taken.shots]


def test_more_frames_may_be_wanted_than_a_long_file_has(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfwatch.decode.frame_index.DEMUX_LIMIT_BYTES", 1000)

    taken = sample(clip(folder, "h264.mkv"), frames=200)

    assert [shot.number for shot in taken.shots] == list(range(3 * FPS))


def test_a_single_frame_is_a_video_too(folder: Path) -> None:
    path = make_clip(folder / "one.mp4", seconds=0.01, faces=())
    assert read(path).sampling.decoded == 1


def test_frames_falsely_called_key_frames_do_not_mislead(folder: Path) -> None:
    path = without_sync_table(clip(folder, "huge-gop.mp4"), folder / "no-stss.mp4")

    taken = sample(path, frames=4)

    assert [shot.number for shot in taken.shots] == [round(shot.time_s * FPS) for shot in taken.shots]
    assert len(taken.shots) == 4


@pytest.mark.parametrize("name", ["refresh.mp4", "refresh.mkv", "refresh.ts"])
def test_pictures_that_recover_only_with_those_that_follow_are_all_there(folder: Path, name: str) -> None:
    path = make_clip(
        folder / name, seconds=16, fps=FPS, gop=60, faces=(), options={"preset": "veryfast", "x264-params": REFRESH}
    )

    taken = sample(path)

    assert [shot.slice_index for shot in taken.shots] == list(range(20))
    assert [shot.number for shot in taken.shots] == [round(shot.time_s * FPS) for shot in taken.shots]
    assert read(path).sampling.failed == 0


def without_sync_table(source: Path, path: Path) -> Path:
    """A copy whose sync sample table is unreadable, so that every frame counts as a key frame."""
    data = source.read_bytes()
    assert data.count(b"stss") == 1
    path.write_bytes(data.replace(b"stss", b"skip"))
    return path


def test_no_duration_in_the_header(folder: Path) -> None:
    path = make_clip(
        folder / "live.webm", codec="libvpx", seconds=3, fps=FPS, faces=(), container_options={"live": "1"}
    )
    reading = read(path, frames=6)

    assert reading.sampling.decoded == 6
    assert reading.video.duration_s == pytest.approx(3.0, abs=0.1)


def stating(source: Path, path: Path, rate: float) -> Path:
    """A copy that states another frame rate: FLV's metadata, or an AVI's stream header."""
    data = bytearray(source.read_bytes())
    if path.suffix == ".flv":
        struct.pack_into(">d", data, data.index(b"framerate\0") + 10, rate)
    else:
        struct.pack_into("<II", data, data.index(b"vids") + 20, 1, int(rate))
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("stated", [-1.0, 0.0, 1000.0, 1e9])
@pytest.mark.parametrize("is_large", [False, True])
def test_a_frame_rate_that_cannot_be(
    folder: Path, tmp_path: Path, stated: float, is_large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_large:
        monkeypatch.setattr("dfwatch.decode.frame_index.DEMUX_LIMIT_BYTES", 1000)
    reading = read(stating(clip(folder, "h264.flv"), tmp_path / "a.flv", stated))

    assert reading.sampling.failed == 0
    assert reading.sampling.decoded == 20
    if is_large and stated:
        assert reading.video.fps is None
    else:
        assert reading.video.fps == pytest.approx(FPS, rel=0.01)


def test_a_frame_rate_that_nothing_can_have_is_none(folder: Path, tmp_path: Path) -> None:
    # The times follow it, so that nothing tells the true one.
    reading = read(stating(clip(folder, "mpeg4.avi"), tmp_path / "a.avi", 2e9))

    assert reading.video.fps is None
    message = wire.encode_reading(reading)
    text, blob = wire.unpack_head(message[:8], len(message))
    answer = wire.parse_json(message[8 : 8 + text])["ok"]
    assert wire.decode_reading(answer, message[len(message) - blob :], CROP, 20, 10).video == reading.video


def test_the_rate_of_a_clock_is_no_frame_rate(folder: Path, tmp_path: Path) -> None:
    # Whoever copies packets need not know the frame rate.
    with av.open(str(clip(folder, "vp9.webm"))) as source, av.open(str(tmp_path / "a.mkv"), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0], opaque=True)
        stream.codec_context.framerate = Fraction(1000)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                output.mux(packet)

    assert read(tmp_path / "a.mkv").video.fps == pytest.approx(FPS, rel=0.01)


def test_cost_does_not_grow_with_duration(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    decode = GoodFrames.decode

    def counted(self: GoodFrames, packet: Any) -> Any:
        nonlocal calls
        calls += 1
        return decode(self, packet)

    monkeypatch.setattr(GoodFrames, "decode", counted)
    counts = []
    for times in (10, 400):
        path = loop_clip(clip(folder, "h264.mp4"), folder / f"{times}.mp4", times)
        calls = 0
        sample(path)
        counts.append(calls)

    # One packet and one flush for each of the 20 frames.
    assert counts == [40, 40]
