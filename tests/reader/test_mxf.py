"""MXF files with and without an index table: a seek is trusted only where there is a whole one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dfwatch.decode.mxf import is_indexed
from dfwatch.errors import UndecodableError
from dfwatch.reasons import Reason
from tests.clips import cut, make_clip
from tests.reader.helpers import read, sample

if TYPE_CHECKING:
    from pathlib import Path

FPS, SECONDS = 25, 10
SEGMENT = bytes.fromhex("060e2b34025301010d01020101100100")
FILL = bytes.fromhex("060e2b34010101020301021001000000")
RANDOM_INDEX = bytes.fromhex("060e2b34020501010d01020101110100")
CODECS: dict[str, dict[str, Any]] = {
    "mpeg2": {"codec": "mpeg2video", "gop": 12},
    "mpeg2-b": {"codec": "mpeg2video", "gop": 12, "b_frames": 2},
    "dnxhr": {"codec": "dnxhd", "pixel_format": "yuv422p", "options": {"profile": "dnxhr_lb"}},
    # Without an index FFmpeg gives these no time stamps at all.
    "h264": {"codec": "libx264", "gop": 12},
    "h264-b": {"codec": "libx264", "gop": 12, "b_frames": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mxf")


def whole(folder: Path, name: str) -> Path:
    path = folder / f"{name}.mxf"
    return path if path.exists() else make_clip(path, seconds=SECONDS, fps=FPS, faces=(), **CODECS[name])


def without_index(folder: Path, name: str) -> Path:
    data = whole(folder, name).read_bytes()
    assert data.count(SEGMENT) == 1
    path = folder / f"no-index-{name}.mxf"
    path.write_bytes(data.replace(SEGMENT, FILL))
    return path


@pytest.mark.parametrize("limit_bytes", [1 << 26, 1000])
@pytest.mark.parametrize("sampling", ["planned", "exact"])
@pytest.mark.parametrize("name", CODECS)
def test_without_an_index_frames_and_their_times_are_right(
    folder: Path, name: str, sampling: str, limit_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfwatch.decode.frame_index.DEMUX_LIMIT_BYTES", limit_bytes)
    path = without_index(folder, name)
    taken = sample(path, sampling=sampling)
    assert taken.strategy == ("exact" if sampling == "exact" else "sequential")
    assert taken.duration_s == pytest.approx(SECONDS, abs=0.1)
    assert [shot.slice_index for shot in taken.shots] == list(range(20))
    assert [shot.number for shot in taken.shots] == [round(shot.time_s * FPS) for shot in taken.shots]
    reading = read(path, sampling=sampling)
    assert (reading.sampling.failed, reading.warnings) == (0, ())


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_few_frames_are_reached_from_the_first_one_on(folder: Path, frames: int) -> None:
    taken = sample(without_index(folder, "mpeg2-b"), frames=frames)
    assert [shot.number for shot in taken.shots] == [round(shot.time_s * FPS) for shot in taken.shots]
    assert len(taken.shots) == frames


@pytest.mark.parametrize("limit_bytes", [1 << 26, 1000])
def test_with_an_index_it_is_sought(folder: Path, limit_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfwatch.decode.frame_index.DEMUX_LIMIT_BYTES", limit_bytes)
    taken = sample(whole(folder, "mpeg2-b"))
    assert taken.strategy in {"seek", "keyframes"}
    assert [shot.number for shot in taken.shots] == [round(shot.time_s * FPS) for shot in taken.shots]


@pytest.mark.parametrize("limit_bytes", [1 << 26, 1000])
@pytest.mark.parametrize("name", ["mpeg2-b", "h264"])
def test_half_a_file_lacks_the_index_at_its_end_too(
    folder: Path, name: str, limit_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfwatch.decode.frame_index.DEMUX_LIMIT_BYTES", limit_bytes)
    with pytest.raises(UndecodableError) as caught:
        read(cut(whole(folder, name), folder / "half.mxf", 0.5))
    assert caught.value.reason is Reason.TRUNCATED


def ask(data: bytes, edit_units: int = FPS * SECONDS) -> bool:
    return is_indexed(lambda offset, count: data[offset : offset + count], len(data), edit_units)


@pytest.mark.parametrize("name", CODECS)
def test_what_is_indexed(folder: Path, name: str) -> None:
    data = whole(folder, name).read_bytes()
    assert ask(data)
    assert ask(data, 0)
    # Frames that are all of one size need one entry, which may come first.
    assert ask(data[: len(data) // 2]) == (name == "dnxhr")
    assert not ask(without_index(folder, name).read_bytes())
    # Without the list of partitions at the end, the header says where the last one is.
    assert ask(data.replace(RANDOM_INDEX, FILL))
    # Some run-in may come first.
    at = data.index(RANDOM_INDEX)
    assert ask(bytes(100) + data[:at])


def test_an_index_of_a_part_is_none(folder: Path) -> None:
    data = whole(folder, "mpeg2").read_bytes()
    assert not ask(data, FPS * SECONDS + 1)
    at = data.index(bytes.fromhex("3f0c0008"), data.index(SEGMENT))
    later = data[: at + 4] + (1).to_bytes(8, "big") + data[at + 12 :]
    assert not ask(later)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 1 << 30), st.binary(min_size=1, max_size=9)), max_size=8))
@example(changes=[(12579067, b"\x88")])
def test_no_bytes_make_it_fail_or_read_much(folder: Path, changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(whole(folder, "mpeg2").read_bytes())
    index, end = data.index(SEGMENT), len(data) - 64
    for place, more in changes:
        # At the header, at the index, and at the end.
        at = (place % 600, index + place % 600, end + place % 60)[place % 3]
        data[at : at + len(more)] = more
    reads = 0

    def read_at(offset: int, count: int) -> bytes:
        nonlocal reads
        reads += 1
        assert 0 <= offset < 1 << 63
        assert 0 <= count <= 1 << 18
        return bytes(data[offset : offset + count])

    is_indexed(read_at, len(data), 250)
    assert reads < 5000
