"""Damaged videos: what is lost counts as failed, and what was made of damaged frames is not judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dfwatch.errors import UndecodableError
from dfwatch.reasons import Reason
from tests.clips import copy_with_damaged_packets, make_clip, zeroed
from tests.reader.helpers import read, sample

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damage")


# Short slices: their MP4 lists too few frames for each to be sure that one is due.
def test_each_slice_that_damage_swallowed_has_failed(folder: Path) -> None:
    whole = make_clip(folder / "whole.mp4", seconds=4.8, fps=25, gop=50, faces=())
    assert read(whole).sampling.strategy == "sequential"
    damaged = copy_with_damaged_packets(whole, folder / "damaged.mp4", first=0.2, last=0.9)

    with pytest.raises(UndecodableError, match=r"[5-8] of 20 frames could be decoded") as caught:
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
@pytest.mark.parametrize("codec", ["mjpeg"])
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


def test_the_end_of_an_avi_that_was_never_written_was_lost(folder: Path) -> None:
    whole = make_clip(folder / "end.avi", codec="mjpeg", seconds=20, fps=25, faces=())
    damaged = zeroed(whole, folder / "no-end.avi", 0.85, 0.985)
    sampling = read(damaged).sampling
    assert 2 <= sampling.failed <= 4
    assert sampling.expected_frames == 20
