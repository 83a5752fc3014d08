"""Half-copied and damaged files are refused, odd headers are not."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest

from dfwatch.errors import MediaError, UndecodableError
from dfwatch.reasons import Reason
from tests.clips import copy_with_flipped_bits, cut, make_clip
from tests.reader.helpers import read

if TYPE_CHECKING:
    from pathlib import Path

PARTIAL: dict[str, dict[str, Any]] = {
    "a.avi": {"codec": "mpeg4"},
    "b.avi": {"codec": "mjpeg"},
    "c.mkv": {},
    "d.webm": {"codec": "libvpx"},
    "e.mp4": {},
    "faststart.mp4": {"container_options": {"movflags": "faststart"}},
    "f.mov": {"container_options": {"movflags": "faststart"}},
    "g.flv": {},
    "h.wmv": {"codec": "wmv2", "options": {"qscale": "3"}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("partial")


def whole(folder: Path, name: str) -> Path:
    path = folder / name
    return path if path.exists() else make_clip(path, seconds=4, faces=(), **PARTIAL[name])


@pytest.mark.parametrize("name", PARTIAL)
@pytest.mark.parametrize("share", [0.3, 0.6])
@pytest.mark.parametrize("limit_bytes", [1 << 26, 1000])
def test_a_half_copied_file_is_never_judged_as_if_whole(
    folder: Path, name: str, share: float, limit_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfwatch.decode.frame_index.DEMUX_LIMIT_BYTES", limit_bytes)
    part = cut(whole(folder, name), folder / f"part-{name}", share)

    with pytest.raises(UndecodableError) as caught:
        read(part)

    assert caught.value.reason is Reason.TRUNCATED


@pytest.mark.parametrize("name", PARTIAL)
def test_the_whole_file_is_judged(folder: Path, name: str) -> None:
    reading = read(whole(folder, name))
    assert reading.sampling.failed == 0
    assert reading.warnings == ()


@pytest.mark.parametrize("name", ["c.mkv", "faststart.mp4"])
def test_a_file_that_lacks_only_its_end_is_judged_with_a_warning(folder: Path, name: str) -> None:
    part = cut(whole(folder, name), folder / f"nearly-{name}", 0.93)

    reading = read(part)

    assert reading.sampling.decoded >= 17
    assert any("its own structure declares more" in warning for warning in reading.warnings)


def test_coverage_is_a_setting(folder: Path) -> None:
    part = cut(whole(folder, "faststart.mp4"), folder / "third.mp4", 0.4)
    reading = read(part, min_coverage=0.2)
    assert 0 < reading.sampling.decoded < 12
    assert reading.sampling.failed == 20 - reading.sampling.decoded


def test_a_wrong_duration_in_the_header_of_a_whole_file_is_no_reason_to_refuse_it(folder: Path) -> None:
    data = bytearray(whole(folder, "c.mkv").read_bytes())
    # Duration element (0x4489), an 8-byte float in milliseconds; the statistics tag would overrule it.
    at = data.index(b"\x44\x89\x88") + 3
    assert struct.unpack_from(">d", data, at)[0] == pytest.approx(4000, abs=1)
    struct.pack_into(">d", data, at, 40000.0)
    path = folder / "odd.mkv"
    path.write_bytes(bytes(data).replace(b"DURATION", b"DURATIOX"))

    reading = read(path)

    assert reading.sampling.decoded == 20
    assert reading.video.duration_s == pytest.approx(4, abs=0.1)
    assert any("header states 40.0 s" in warning for warning in reading.warnings)


@pytest.mark.parametrize("name", ["c.mkv", "d.webm", "g.flv", "h.wmv"])
@pytest.mark.parametrize("start_h", [1, 25])
@pytest.mark.parametrize("limit_bytes", [1 << 26, 1000])
def test_time_that_passed_before_the_first_frame_is_no_playing_time(
    folder: Path, name: str, start_h: int, limit_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a recording of a running broadcast.
    monkeypatch.setattr("dfwatch.decode.frame_index.DEMUX_LIMIT_BYTES", limit_bytes)
    path = folder / f"after-{start_h}-{name}"
    if not path.exists():
        times = [start_h * 3600 + Fraction(number, 25) for number in range(100)]
        make_clip(path, times=times, fps=25, faces=(), **PARTIAL[name])

    reading = read(path)

    assert reading.sampling.decoded == 20
    assert reading.video.duration_s == pytest.approx(4, abs=0.1)
    assert reading.warnings == ()
    # Windows Media has an index at its end that is the longer the later the first frame is.
    half = whole(folder, name).stat().st_size / path.stat().st_size / 2
    with pytest.raises(UndecodableError) as caught:
        read(cut(path, folder / f"part-{path.name}", half))
    assert caught.value.reason is Reason.TRUNCATED


def test_decode_errors_are_counted_and_not_fatal(folder: Path) -> None:
    damaged = copy_with_flipped_bits(
        whole(folder, "faststart.mp4"), folder / "flipped.mp4", flips=40, seed=3, first_byte=20_000
    )
    reading = read(damaged, min_coverage=0.0)
    assert reading.sampling.decoded + reading.sampling.failed == reading.sampling.expected_frames == 20
    assert "decode_errors" in {flag.flag for flag in reading.quality}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", ["a.avi", "c.mkv", "d.webm", "e.mp4", "g.flv"])
def test_any_damage_ends_in_a_reading_or_a_reason(folder: Path, name: str, seed: int) -> None:
    damaged = copy_with_flipped_bits(whole(folder, name), folder / f"{seed}-{name}", flips=4**seed % 997 + 1, seed=seed)
    try:
        decoded = read(damaged).sampling.decoded
    except MediaError:
        return
    assert 1 <= decoded <= 20
