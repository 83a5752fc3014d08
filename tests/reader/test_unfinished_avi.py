"""AVI recordings that were never finished, with counts in their headers that mean nothing: what is there is judged."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from dfwatch.errors import UndecodableError
from dfwatch.reasons import Reason
from tests.clips import make_clip
from tests.reader.helpers import read, sample

if TYPE_CHECKING:
    from pathlib import Path

FPS = 25
NOT_FINISHED = (0, 0xFFFFFFFF)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("avi") / "whole.avi"
    return make_clip(path, codec="mpeg4", seconds=4, fps=FPS, faces=(), size=(160, 120)).read_bytes()


def recording(path: Path, whole: bytes, frames: int, riff_bytes: int | None = None, share: float = 1.0) -> Path:
    """An AVI without its list, whose header states so many frames and, unless None, a length of its own."""
    movi, end = whole.index(b"movi"), whole.index(b"idx1")
    data = bytearray(whole[: movi + int((end - movi) * share)])
    struct.pack_into("<I", data, 4, end - 8 if riff_bytes is None else riff_bytes)
    struct.pack_into("<I", data, movi - 4, end - movi if riff_bytes is None else riff_bytes)
    for chunk, offset in ((b"avih", 24), (b"strh", 40)):
        struct.pack_into("<I", data, data.index(chunk) + offset, frames)
    path.write_bytes(data)
    return path


@pytest.fixture(params=[1 << 26, 1000])
def _limit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfwatch.decode.frame_index.DEMUX_LIMIT_BYTES", request.param)


@pytest.mark.usefixtures("_limit")
@pytest.mark.parametrize("frames", [0, 10, 1000, 2_000_000, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("riff_bytes", NOT_FINISHED)
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_the_playing_time_is_that_of_the_packets(
    tmp_path: Path, whole: bytes, frames: int, riff_bytes: int, share: float
) -> None:
    path = recording(tmp_path / "a.avi", whole, frames, riff_bytes, share)
    reading = read(path)
    assert reading.video.duration_s == pytest.approx(4 * share, abs=0.3)
    assert (reading.sampling.decoded, reading.sampling.failed) == (20, 0)
    assert reading.warnings[0] == "its own structure declares more than is in the file"
    assert not any("header states" in warning for warning in reading.warnings)
    shots = sample(path).shots
    assert [shot.number / FPS for shot in shots] == pytest.approx([shot.time_s for shot in shots], abs=0.01)


@pytest.mark.usefixtures("_limit")
@pytest.mark.parametrize("frames", [10, 1000, 0xFFFFFFFF])
def test_a_wrong_count_in_a_header_that_was_finished_is_told(tmp_path: Path, whole: bytes, frames: int) -> None:
    reading = read(recording(tmp_path / "a.avi", whole, frames))
    assert reading.video.duration_s == pytest.approx(4, abs=0.1)
    assert (reading.sampling.decoded, reading.sampling.failed) == (20, 0)
    assert reading.warnings == (f"the header states {frames / FPS:.1f} s, the frames cover 4.0 s",)


@pytest.mark.usefixtures("_limit")
def test_a_part_of_one_that_was_finished_is_a_part(tmp_path: Path, whole: bytes) -> None:
    with pytest.raises(UndecodableError) as caught:
        read(recording(tmp_path / "a.avi", whole, 100, share=0.5))
    assert caught.value.reason is Reason.TRUNCATED
