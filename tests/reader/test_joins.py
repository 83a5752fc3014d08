"""Recordings strung together with the time stamps that each of them had: taken one after another, none by half."""

from __future__ import annotations

from array import array
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfwatch.decode.holes import PacketLog
from dfwatch.decode.joins import find_joins
from tests.clips import make_clip, paint
from tests.reader.helpers import read, sample

if TYPE_CHECKING:
    from pathlib import Path

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
        path = folder / f"{number}-{first_s}-{seconds}-{kind}"
        if not path.exists():
            times = [first_s + Fraction(frame, FPS) for frame in range(seconds * FPS)]
            before = number
            make_clip(
                path,
                times=times,
                fps=FPS,
                size=SIZE,
                painter=lambda frame, size, _, before=before: paint(before + frame, size, faces=()),
                **STREAMS[kind],
            )
        number += seconds * FPS
        data += path.read_bytes()
    path = folder / f"{len(parts)}-{sum(first for first, _ in parts)}-joined-{kind}"
    path.write_bytes(data)
    return path


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
        assert find_joins(log, [0, 50, 100], 0.001) is None
        assert list(log.stamps) == [*stamps[:100], wrong, *stamps[101:]]


@given(
    lengths=st.lists(st.integers(30, 90), min_size=2, max_size=5),
    firsts=st.lists(st.integers(0, 10**6), min_size=5, max_size=5),
    swaps=st.randoms(use_true_random=False),
)
def test_every_recording_follows_on_the_one_before(lengths: list[int], firsts: list[int], swaps: Any) -> None:
    # Each begins earlier than the one before ended by more than reordering explains.
    stamps: list[int] = []
    first = firsts[0]
    for length, other in zip(lengths, firsts, strict=False):
        first = min(first, other)
        part = [first + 40 * number for number in range(length)]
        for at in range(1, length - 3, 4):
            if swaps.random() < 0.5:
                part[at], part[at + 2] = part[at + 2], part[at]
        stamps += part
    log = logged(stamps)
    keys = list(range(0, len(stamps), 15))
    joins = find_joins(log, keys, 0.001)
    assert joins is not None
    assert len(joins.places) == len(lengths)
    assert sorted(log.stamps) == [firsts[0] + 40 * number for number in range(len(stamps))]
    assert list(log.ends) == [stamp + 40 for stamp in log.stamps]
    assert [stamp + joins.shift_at(100 * place) for place, stamp in enumerate(stamps)] == list(log.stamps)
    for key in keys:
        assert joins.place_before(log.stamps[key]) == 100 * key
        assert joins.place_before(log.stamps[key] + 1) == 100 * key
    assert joins.place_before(-1) == joins.key_places[0]
    assert joins.key_stamps == array("q", sorted(joins.key_stamps))
