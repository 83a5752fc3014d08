"""Damaged videos: what is lost counts as failed, and what was made of damaged frames is not judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dfwatch.errors import UndecodableError
from dfwatch.reasons import Reason
from tests.clips import copy_with_damaged_packets, make_clip
from tests.reader.helpers import read

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
