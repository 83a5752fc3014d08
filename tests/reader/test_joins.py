"""Recordings strung together with the time stamps that each of them had: taken one after another, none by half."""

from __future__ import annotations

import os
from array import array
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfwatch.decode.demuxing import Source
from dfwatch.decode.holes import PacketLog
from dfwatch.decode.joins import LONGEST_PAUSE_S, find_joins, longest_pause_s
from dfwatch.decode.recordings import may_hold_several
from tests.clips import make_clip, mux_beside_silence, paint
from tests.reader.helpers import READER, read, sample

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FPS = 25
SIZE = (256, 144)
STREAMS: dict[str, dict[str, Any]] = {
    "h264.ts": {"codec": "libx264", "b_frames": 3, "gop": 40},
    "mpeg2.ts": {"codec": "mpeg2video", "b_frames": 2, "gop": 15},
    "mpeg2.mpg": {"codec": "mpeg2video", "b_frames": 2, "gop": 15, "container": "vob"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("joins")


def join(folder: Path, kind: str, parts: list[tuple[int, int]]) -> Path:
    """String recordings together whose frames are numbered on; each has its first time and its length in seconds."""
    number, data = 0, b""
    for first_s, seconds in parts:
        data += part_of(folder, kind, first_s, seconds, number).read_bytes()
        number += seconds * FPS
    path = folder / f"{len(parts)}-{sum(first for first, _ in parts)}-joined-{kind}"
    path.write_bytes(data)
    return path


def part_of(folder: Path, kind: str, first_s: int, seconds: int, number: int) -> Path:
    """One recording, whose first frame has this number."""
    path = folder / f"{number}-{first_s}-{seconds}-{kind}"
    if path.exists():
        return path
    return make_clip(
        path,
        times=[first_s + Fraction(frame, FPS) for frame in range(seconds * FPS)],
        fps=FPS,
        size=SIZE,
        painter=lambda frame, size, _: paint(number + frame, size, faces=()),
        **STREAMS[kind],
    )


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("limit_bytes", [1 << 26, 1000])
@pytest.mark.parametrize("sampling", ["planned", "exact"])
@pytest.mark.parametrize(
    "parts",
    [
        [(0, 6), (0, 9)],
        [(0, 4), (2, 11)],
        [(60, 4), (3, 5), (0, 6)],
        # FFmpeg takes this one for a counter that overflowed.
        [(2000, 8), (0, 7)],
        # The clock went on between them: for two hours, for longer than half of what it can count, and back and forth.
        [(0, 6), (7206, 9)],
        [(20, 5), (60000, 10)],
        [(5000, 4), (9000, 5), (100, 3), (300, 3)],
    ],
)
def test_frames_are_those_of_their_times(
    folder: Path,
    kind: str,
    limit_bytes: int,
    sampling: str,
    parts: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dfwatch.decode.frame_index.DEMUX_LIMIT_BYTES", limit_bytes)
    monkeypatch.setattr("dfwatch.decode.recordings._NARROW_BYTES", 4000)
    path = join(folder, kind, parts)
    taken = sample(path, sampling=sampling)
    assert taken.duration_s == pytest.approx(15, abs=0.5)
    assert [shot.slice_index for shot in taken.shots] == list(range(20))
    # A recording begins a frame late where its first ones cannot be decoded.
    assert [shot.number / FPS for shot in taken.shots] == pytest.approx([shot.time_s for shot in taken.shots], abs=0.3)
    reading = read(path, sampling=sampling)
    assert reading.sampling.failed == 0
    assert [flag.detail for flag in reading.quality if flag.flag == "timestamps_jump"] == [
        f"{len(parts)} recordings with time stamps of their own"
    ]
    assert reading.warnings == (f"it consists of {len(parts)} recordings, which were taken one after another",)


@pytest.mark.parametrize("kind", ["h264.ts", "mpeg2.ts"])
@pytest.mark.parametrize("sampling", ["planned", "exact"])
def test_no_frame_is_made_of_another_recordings_frames(folder: Path, kind: str, sampling: str) -> None:
    # The second one was cut off a longer one, between two key frames.
    data = join(folder, kind, [(30, 8), (0, 12)]).read_bytes()
    first = len(join(folder, kind, [(30, 8)]).read_bytes())
    packets = (len(data) - first) // 188
    path = folder / f"cut-{kind}"
    path.write_bytes(data[:first] + data[first + packets * 29 // 100 * 188 :])
    taken = sample(path, sampling=sampling)
    lost = {round(shot.number / FPS - shot.time_s, 1) for shot in taken.shots}
    assert min(lost) == 0.0
    assert 2.5 < max(lost) < 4.5
    assert len(lost) <= 4


def with_sound(path: Path, video: list[Path], sound_s: list[tuple[int, int]]) -> Path:
    """The pictures of some recordings in one stream, and sound from one second to another."""
    with av.open(str(path), "w") as output:
        sound = output.add_stream("mp2", rate=44100, layout="stereo")
        packets = []
        picture: av.VideoStream | None = None
        for part in video:
            with av.open(str(part)) as source:
                picture = picture or output.add_stream_from_template(source.streams.video[0])
                packets += [packet for packet in source.demux(video=0) if packet.dts is not None]
        tenths = [tenth for start, end in sound_s for tenth in range(10 * start, 10 * end)]
        mux_beside_silence(output, picture, packets, sound, tenths)
    return path


def test_recordings_with_sound_hours_apart(folder: Path) -> None:
    parts = [part_of(folder, "mpeg2.ts", first_s, 8, number) for first_s, number in ((0, 0), (7200, 200))]
    data = [
        with_sound(folder / f"sound-{first_s}.ts", [part], [(first_s, first_s + 8)]).read_bytes()
        for part, first_s in zip(parts, (0, 7200), strict=True)
    ]
    path = folder / "sound-joined.ts"
    path.write_bytes(b"".join(data))
    taken = sample(path)
    assert taken.duration_s == pytest.approx(16, abs=0.5)
    assert len(taken.shots) == 20
    assert [shot.number / FPS for shot in taken.shots] == pytest.approx([shot.time_s for shot in taken.shots], abs=0.3)


@pytest.mark.parametrize("limit_bytes", [1 << 26, 1000])
def test_sound_that_goes_on_for_minutes_without_a_picture_is_of_one_recording(
    folder: Path, limit_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfwatch.decode.frame_index.DEMUX_LIMIT_BYTES", limit_bytes)
    monkeypatch.setattr("dfwatch.decode.recordings._NARROW_BYTES", 4000)
    parts = [part_of(folder, "mpeg2.ts", first_s, 8, number) for first_s, number in ((0, 0), (200, 200))]
    path = with_sound(folder / f"still-{limit_bytes}.ts", parts, [(0, 208)])
    reading = read(path, min_coverage=0.0)
    assert reading.video.duration_s == pytest.approx(208, abs=0.5)
    assert {flag.flag for flag in reading.quality} & {"gaps", "timestamps_jump"} == {"gaps"}


@pytest.mark.parametrize("limit_bytes", [1 << 26, 1000])
@pytest.mark.parametrize("gap_s", [4, 40])
def test_a_signal_that_was_lost_for_seconds_is_a_gap(
    folder: Path, gap_s: int, limit_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfwatch.decode.frame_index.DEMUX_LIMIT_BYTES", limit_bytes)
    monkeypatch.setattr("dfwatch.decode.recordings._NARROW_BYTES", 4000)
    path = join(folder, "h264.ts", [(0, 20), (20 + gap_s, 20)])
    # Where packets are known to be missing, the frames that were due there have failed.
    reading = read(path, min_coverage=0.0)
    assert reading.video.duration_s == pytest.approx(40 + gap_s, abs=0.5)
    assert "timestamps_jump" not in {flag.flag for flag in reading.quality}


def test_a_stream_that_stands_still_for_minutes_need_not_be_read_through(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfwatch.decode.recordings._NARROW_BYTES", 5000)
    random = np.random.default_rng(1)

    def paint_noise_at_last(_number: int, size: tuple[int, int], time_s: float) -> NDArray[np.uint8]:
        shape = (size[1], size[0], 3)
        return random.integers(0, 256, shape, np.uint8) if time_s >= 300 else np.full(shape, 90, np.uint8)

    # The last seconds are nearly all of its bytes, so that a step from place to place takes minutes.
    times = [*(Fraction(5 * number) for number in range(60)), *(300 + Fraction(number, FPS) for number in range(100))]
    path = make_clip(
        folder / "still-then-noise.ts",
        times=times,
        fps=FPS,
        size=(320, 240),
        codec="mpeg2video",
        painter=paint_noise_at_last,
    )
    leap = join(folder, "h264.ts", [(0, 6), (7206, 9)])
    for other, expected in ((path, False), (leap, True)):
        fd = os.open(other, os.O_RDONLY)
        with Source(fd, READER) as source:
            assert may_hold_several(source, 20) is expected
        os.close(fd)


def test_the_border_of_a_pause() -> None:
    assert longest_pause_s(30.0, 20) == LONGEST_PAUSE_S
    assert longest_pause_s(7200.0, 20) == 360.0


def test_one_recording_is_no_several(folder: Path) -> None:
    reading = read(join(folder, "h264.ts", [(5, 12)]))
    assert "timestamps_jump" not in {flag.flag for flag in reading.quality}
    assert reading.warnings == ()


def logged(stamps: list[int]) -> PacketLog:
    log = PacketLog()
    for place, stamp in enumerate(stamps):
        log.add(stamp, 40, 100 * place, 100, is_corrupt=False)
    return log


def test_a_wrong_time_stamp_begins_nothing() -> None:
    stamps = [40 * number for number in range(200)]
    for wrong in (0, -(10**6), 10**12):
        log = logged([*stamps[:100], wrong, *stamps[101:]])
        assert find_joins(log, [0, 50, 100], 0.001, 20, lambda _: False) is None
        assert list(log.stamps) == [*stamps[:100], wrong, *stamps[101:]]


@given(
    lengths=st.lists(st.integers(30, 90), min_size=2, max_size=5),
    firsts=st.lists(st.integers(0, 10**6), min_size=5, max_size=5),
    swaps=st.randoms(use_true_random=False),
)
def test_every_recording_follows_on_the_one_before(lengths: list[int], firsts: list[int], swaps: Any) -> None:
    # Each begins earlier than the one before ended by more than reordering explains, or later than after any pause.
    stamps: list[int] = []
    first = firsts[0]
    for length, other in zip(lengths, firsts, strict=False):
        leaps = bool(stamps) and swaps.random() < 0.3
        first = max(stamps) + 60_050 + other if leaps else min(first, other)
        part = [first + 40 * number for number in range(length)]
        for at in range(1, length - 3, 4):
            if swaps.random() < 0.5:
                part[at], part[at + 2] = part[at + 2], part[at]
        stamps += part
    log = logged(stamps)
    keys = list(range(0, len(stamps), 15))
    joins = find_joins(log, keys, 0.001, 20, lambda _: False)
    assert joins is not None
    assert len(joins.places) == len(lengths)
    assert sorted(log.stamps) == [firsts[0] + 40 * number for number in range(len(stamps))]
    assert list(log.ends) == [stamp + 40 for stamp in log.stamps]
    shifts = [joins.shifts[joins.recording_at(100 * place)] for place in range(len(stamps))]
    assert [stamp + shift for stamp, shift in zip(stamps, shifts, strict=True)] == list(log.stamps)
    for key in keys:
        assert joins.place_before(log.stamps[key]) == 100 * key
        assert joins.place_before(log.stamps[key] + 1) == 100 * key
    assert joins.place_before(-1) == joins.key_places[0]
    assert joins.key_stamps == array("q", sorted(joins.key_stamps))
