"""Damaged videos: what is lost counts as failed, and what was made of damaged frames is not judged."""

from __future__ import annotations

import re
import struct
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dfwatch.errors import UndecodableError
from dfwatch.reasons import Reason
from tests.clips import copy_with_damaged_packets, cut, make_clip, zeroed
from tests.reader.helpers import read, sample

if TYPE_CHECKING:
    from pathlib import Path

    from tests.reader.helpers import Shot


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damage")


# Short slices: their MP4 lists too few frames for each to be sure that one is due.
def test_each_slice_that_damage_swallowed_has_failed(folder: Path) -> None:
    whole = make_clip(folder / "whole.mp4", seconds=4.8, fps=25, gop=30, faces=())
    assert read(whole).sampling.strategy == "sequential"
    damaged = copy_with_damaged_packets(whole, folder / "damaged.mp4", first=0.3, last=0.75)

    with pytest.raises(UndecodableError, match=r"1[01] of 20 frames could be decoded") as caught:
        read(damaged)

    assert caught.value.reason is Reason.CORRUPT


def test_each_slice_that_damage_swallowed_between_two_seeks_has_failed(folder: Path) -> None:
    whole = make_clip(folder / "hops.mp4", seconds=12.8, fps=25, gop=48, faces=())
    assert read(whole).sampling.strategy == "seek"
    damaged = copy_with_damaged_packets(whole, folder / "damaged-hops.mp4", keys=False)

    sampling = read(damaged, min_coverage=0.0).sampling

    assert sampling.decoded < 10
    assert sampling.expected_frames == 20


@pytest.mark.parametrize("sampling", ["planned", "exact"])
@pytest.mark.parametrize("codec", ["mjpeg", "mpeg4"])
def test_frames_behind_a_hole_in_an_avi_keep_their_times(folder: Path, codec: str, sampling: str) -> None:
    whole = folder / f"{codec}.avi"
    if not whole.exists():
        make_clip(whole, codec=codec, seconds=20, fps=25, gop=1 if codec == "mjpeg" else 25, faces=())
    damaged = zeroed(whole, folder / f"hole-{codec}.avi", 0.3, 0.7)
    with pytest.raises(UndecodableError) as caught:
        read(damaged, sampling=sampling)
    assert caught.value.reason is Reason.CORRUPT

    taken = sample(damaged, sampling=sampling).shots

    assert len(taken) >= 10
    assert [shot.number for shot in taken] == [round(shot.time_s * 25) for shot in taken]
    reading = read(damaged, sampling=sampling, min_coverage=0.0)
    assert (reading.sampling.decoded, reading.sampling.expected_frames) == (len(taken), 20)
    assert "gaps" in {flag.flag for flag in reading.quality}
    assert sample(whole, sampling=sampling).slices == 20


@pytest.mark.parametrize("sampling", ["planned", "exact"])
@pytest.mark.parametrize("b_frames", [0, 2])
def test_an_avi_that_is_damaged_in_its_middle_is_not_called_cut_off(folder: Path, b_frames: int, sampling: str) -> None:
    # No key frame comes after the damage, so that nothing is decoded up to the end.
    whole = folder / f"long-group-{b_frames}.avi"
    if not whole.exists():
        make_clip(whole, codec="mpeg4", seconds=20, fps=25, gop=300, b_frames=b_frames, faces=())
    data = bytearray(whole.read_bytes())
    start, end = len(data) * 4 // 10, len(data) * 6 // 10
    data[start:end] = np.random.default_rng(1).integers(0, 256, end - start, np.uint8).tobytes()
    # Behind the frames there is their list.
    frames_end = data.index(b"idx1") / len(data)
    damaged = folder / "damaged-long-group.avi"
    damaged.write_bytes(bytes(data))

    with pytest.raises(UndecodableError) as caught:
        read(damaged, sampling=sampling)

    assert caught.value.reason is Reason.CORRUPT
    for cut_off in (cut(whole, folder / "cut.avi", 0.5), zeroed(whole, folder / "empty.avi", 0.5, frames_end)):
        with pytest.raises(UndecodableError) as caught:
            read(cut_off, sampling=sampling)
        assert caught.value.reason is Reason.TRUNCATED


@pytest.mark.parametrize("name", ["never-written.mp4", "damaged.mp4"])
def test_what_was_never_written_is_missing_and_what_is_wrong_is_damaged(folder: Path, name: str) -> None:
    whole = folder / "index-first.mp4"
    if not whole.exists():
        options = {"movflags": "faststart"}
        make_clip(whole, seconds=20, fps=25, gop=1000, faces=(), container_options=options)
    if name == "never-written.mp4":
        damaged = zeroed(whole, folder / name, 0.5, 1.0)
    else:
        damaged = copy_with_damaged_packets(whole, folder / name, first=0.5, last=0.6)

    with pytest.raises(UndecodableError) as caught:
        read(damaged)

    assert caught.value.reason is (Reason.TRUNCATED if name == "never-written.mp4" else Reason.CORRUPT)


def test_the_end_of_an_avi_that_was_never_written_was_lost(folder: Path) -> None:
    whole = make_clip(folder / "end.avi", codec="mjpeg", seconds=20, fps=25, faces=())
    damaged = zeroed(whole, folder / "no-end.avi", 0.85, 0.985)
    sampling = read(damaged).sampling
    assert 2 <= sampling.failed <= 4
    assert sampling.expected_frames == 20


@pytest.mark.parametrize("arrived", [0.5, 0.8])
def test_an_avi_that_was_preallocated_and_did_not_arrive_whole(folder: Path, arrived: float) -> None:
    """It is as long as its header says, and has zeros where frames and their list belong."""
    whole = folder / "preallocated.avi"
    if not whole.exists():
        make_clip(whole, codec="mjpeg", seconds=20, fps=25, faces=())
    path = zeroed(whole, folder / f"preallocated-{arrived}.avi", arrived, 1.0)
    if arrived == 0.5:
        with pytest.raises(UndecodableError) as caught:
            read(path)
        assert caught.value.reason is Reason.TRUNCATED
    else:
        assert read(path).warnings == ("its own structure declares more than is in the file",)


FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}


def fragments(folder: Path) -> tuple[bytes, list[int]]:
    """A fragmented MP4 of 20 fragments, one a second, and where they begin."""
    path = folder / "fragments.mp4"
    if not path.exists():
        make_clip(path, seconds=20, fps=25, gop=25, faces=(), container_options=FRAGMENTS)
    data = path.read_bytes()
    return data, [found.start() - 4 for found in re.finditer(b"moof", data)]


def test_what_lies_behind_a_hole_among_fragments_was_lost(folder: Path) -> None:
    data, places = fragments(folder)
    path = folder / "fragments-hole.mp4"
    path.write_bytes(data[: places[7]] + bytes(places[9] - places[7]) + data[places[9] :])
    with pytest.raises(UndecodableError) as caught:
        read(path)
    assert caught.value.reason is Reason.TRUNCATED

    path.write_bytes(data[: places[15]] + bytes(places[16] - places[15]) + data[places[16] :])
    reading = read(path, min_coverage=0.7)

    assert reading.sampling.decoded + reading.sampling.failed == reading.sampling.expected_frames == 20
    assert 3 <= reading.sampling.failed <= 5
    assert "gaps" in {flag.flag for flag in reading.quality}


def test_nothing_is_lost_where_only_padding_or_other_boxes_follow(folder: Path) -> None:
    data, _ = fragments(folder)
    for number, more in enumerate((bytes(len(data)), struct.pack(">I4s", 8 + len(data), b"free") + data)):
        path = folder / f"padded-{number}.mp4"
        path.write_bytes(data + more)
        sampling = read(path).sampling
        assert (sampling.decoded, sampling.expected_frames) == (20, 20)


@pytest.mark.parametrize("limit_bytes", [1 << 26, 1000])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_fragments_that_were_preallocated_and_never_arrived_are_missing(
    folder: Path, share: float, limit_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfwatch.decode.frame_index.DEMUX_LIMIT_BYTES", limit_bytes)
    data, _ = fragments(folder)
    filled = int(len(data) * share)
    path = folder / "preallocated.mp4"
    path.write_bytes(data[:filled] + bytes(len(data) - filled))

    with pytest.raises(UndecodableError) as caught:
        read(path)

    assert caught.value.reason is Reason.TRUNCATED


PREALLOCATED: dict[str, dict[str, Any]] = {
    "h264.ts": {},
    "h264.m2ts": {"container": "mpegts", "container_options": {"mpegts_m2ts_mode": "1"}},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "vp8.ogv": {"codec": "libvpx", "container": "ogg"},
    "h264.mkv": {},
    "live.mkv": {"container_options": {"live": "1"}},
    "live.webm": {"codec": "libvpx-vp9", "container_options": {"live": "1"}},
}


@pytest.mark.parametrize("name", PREALLOCATED)
def test_what_was_preallocated_and_never_arrived_is_missing(folder: Path, name: str) -> None:
    whole = make_clip(folder / f"preallocated-{name}", seconds=8, gop=24, faces=(), **PREALLOCATED[name])
    assert not read(whole).warnings

    with pytest.raises(UndecodableError) as caught:
        read(zeroed(whole, folder / f"half-{name}", 0.5, 1.0))
    assert caught.value.reason is Reason.TRUNCATED

    most = read(zeroed(whole, folder / f"most-{name}", 0.85, 1.0))
    assert most.sampling.failed in {2, 3, 4}
    assert most.video.duration_s == pytest.approx(8, abs=0.6)
    assert "gaps" in {flag.flag for flag in most.quality}
    # Some zeros more are only padding.
    (folder / f"padded-{name}").write_bytes(whole.read_bytes() + bytes(1000))
    assert not read(folder / f"padded-{name}").warnings


@pytest.mark.parametrize("limit_bytes", [1 << 26, 1000])
def test_a_preallocated_file_of_fragments_that_lacks_only_its_end_is_judged_with_a_warning(
    folder: Path, limit_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfwatch.decode.frame_index.DEMUX_LIMIT_BYTES", limit_bytes)
    data, places = fragments(folder)
    path = folder / "nearly.mp4"
    path.write_bytes(data[: places[19]] + bytes(len(data) - places[19]))
    reading = read(path)
    assert reading.sampling.decoded >= 18
    assert any("its own structure declares more" in warning for warning in reading.warnings)


@pytest.mark.parametrize("keys_only", [False, True])
def test_damage_is_noticed_in_hevc(folder: Path, keys_only: bool) -> None:
    whole = folder / "hevc.mp4"
    if not whole.exists():
        make_clip(whole, codec="libx265", seconds=4.8, fps=25, gop=50)
    assert "decode_errors" not in {flag.flag for flag in read(whole).quality}
    first, last, share = (0.4, 0.425, 0.3) if keys_only else (0.02, 0.9, 0.02)
    damaged = copy_with_damaged_packets(whole, folder / f"hevc-{keys_only}.mp4", first=first, last=last, share=share)

    reading = read(damaged, min_coverage=0.0)

    assert "decode_errors" in {flag.flag for flag in reading.quality}


def misplaced(path: Path, **settings: Any) -> list[Shot]:
    """Sampled frames that show another picture than the one of their time."""
    return [shot for shot in sample(path, **settings).shots if shot.number != round(shot.time_s * 25)]


@pytest.mark.parametrize("sampling", ["planned", "exact"])
@pytest.mark.parametrize("threads", [1, 4])
def test_what_is_predicted_from_frames_that_are_gone_is_not_judged(folder: Path, threads: int, sampling: str) -> None:
    whole = folder / "one-group.mp4"
    if not whole.exists():
        make_clip(whole, seconds=10, fps=25, gop=1000, faces=())
    damaged = zeroed(whole, folder / "one-group-hole.mp4", 0.4, 0.55)
    assert misplaced(whole, sampling=sampling, decoder_threads=threads) == []

    taken = sample(damaged, sampling=sampling, decoder_threads=threads).shots

    assert 5 <= len(taken) <= 9
    assert misplaced(damaged, sampling=sampling, decoder_threads=threads) == []
    with pytest.raises(UndecodableError):
        read(damaged, sampling=sampling, decoder_threads=threads)


@pytest.mark.parametrize("sampling", ["planned", "exact"])
@pytest.mark.parametrize("name", ["lossy.ts", "lossy.mkv"])
def test_damage_costs_frames_up_to_the_next_key_frame(folder: Path, name: str, sampling: str) -> None:
    whole = folder / f"whole-{name}"
    if not whole.exists():
        make_clip(whole, seconds=20, fps=25, gop=25, b_frames=2, faces=())
    damaged = folder / name
    if name.endswith("ts"):
        data, random = whole.read_bytes(), np.random.default_rng(3)
        packets = [data[at : at + 188] for at in range(0, len(data), 188)]
        damaged.write_bytes(b"".join(packet for n, packet in enumerate(packets) if n < 20 or random.random() > 0.01))
    else:
        copy_with_damaged_packets(whole, damaged, first=0.31, last=0.315, keep_bytes=0, share=1.0, keys=False)

    reading = read(damaged, sampling=sampling, min_coverage=0.0)

    assert reading.sampling.decoded >= 10
    assert reading.sampling.expected_frames == 20
    assert misplaced(damaged, sampling=sampling) == []


def test_a_picture_that_is_renewed_part_by_part_heals(folder: Path) -> None:
    refresh = {"x264-params": "intra-refresh=1:keyint=50"}
    whole = make_clip(folder / "refresh.mp4", seconds=20, fps=25, faces=(), options=refresh)
    damaged = copy_with_damaged_packets(whole, folder / "refresh-hole.mp4", first=0.2, last=0.21, share=0.5)

    taken = sample(damaged, sampling="exact").shots

    assert [shot for shot in taken if shot.time_s > 10] != []
    assert misplaced(damaged, sampling="exact") == []


def test_of_pictures_that_refer_to_no_other_only_the_damaged_ones_are_lost(folder: Path) -> None:
    whole = make_clip(folder / "each.avi", codec="mjpeg", seconds=20, fps=25, faces=())
    damaged = copy_with_damaged_packets(whole, folder / "each-damaged.avi", packet_share=0.3, keep_bytes=0)
    sampling = read(damaged).sampling
    assert (sampling.decoded, sampling.failed) == (20, 0)


@pytest.mark.parametrize("sampling", ["planned", "exact"])
def test_segments_that_were_put_together_are_not_damaged(folder: Path, sampling: str) -> None:
    # As a player's downloader leaves them: times go on, each segment's packets are counted anew.
    path = folder / "segments.ts"
    if not path.exists():
        for first in range(0, 500, 100):
            times = [Fraction(number, 25) for number in range(first, first + 100)]
            part = make_clip(folder / "segment.ts", times=times, fps=25, gop=50, b_frames=2, faces=())
            with path.open("ab") as whole:
                whole.write(part.read_bytes())

    reading = read(path, sampling=sampling)

    assert (reading.sampling.decoded, reading.sampling.expected_frames) == (20, 20)
    assert (reading.quality, reading.warnings) == ((), ())
