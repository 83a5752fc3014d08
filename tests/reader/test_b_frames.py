"""Long runs of frames to which no other frame refers: to leave them out must not leave out whole slices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.clips import make_clip
from tests.reader.helpers import read, sample

if TYPE_CHECKING:
    from pathlib import Path

FPS = 25
FLAT = {"x264-params": "b-adapt=0:b-pyramid=none"}
KINDS: dict[str, dict[str, Any]] = {
    "h264": {"b_frames": 16, "options": FLAT},
    "hevc": {
        "codec": "libx265",
        "b_frames": 16,
        "options": {"x265-params": "log-level=none:b-adapt=0:b-pyramid=0:rc-lookahead=20"},
    },
    "vp9": {"codec": "libvpx-vp9", "options": {"auto-alt-ref": "1", "lag-in-frames": "20"}},
    "mpeg4": {"codec": "mpeg4", "b_frames": 16},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("b-frames")


def clip(folder: Path, kind: str, container: str, gop: int, seconds: float) -> Path:
    path = folder / f"{kind}-{gop}-{seconds}.{container}"
    more = {"fps": FPS, "size": (160, 120), "faces": (), **KINDS[kind]}
    return path if path.exists() else make_clip(path, seconds=seconds, gop=gop, **more)


@pytest.mark.parametrize(
    ("kind", "container"),
    [
        ("h264", "mkv"),
        ("h264", "ts"),
        ("h264", "mp4"),
        ("h264", "flv"),
        ("hevc", "mkv"),
        ("vp9", "webm"),
        ("mpeg4", "avi"),
    ],
)
# Slices of 8 and of 12 frames; key frames so far apart that it is read through, or so near that it is not.
@pytest.mark.parametrize("seconds", [6.7, 10])
@pytest.mark.parametrize("gop", [25, 250])
@pytest.mark.parametrize("threads", [1, 4])
def test_every_slice_is_sampled(
    folder: Path, kind: str, container: str, seconds: float, gop: int, threads: int
) -> None:
    path = clip(folder, kind, container, gop, seconds)
    taken = sample(path, decoder_threads=threads)
    assert [shot.slice_index for shot in taken.shots] == list(range(20))
    assert [shot.number / FPS for shot in taken.shots] == pytest.approx([shot.time_s for shot in taken.shots], abs=0.02)


@pytest.mark.parametrize("container", ["mkv", "mp4"])
def test_none_of_them_counts_as_lost(folder: Path, container: str) -> None:
    reading = read(clip(folder, "h264", container, 250, 10))
    assert (reading.sampling.expected_frames, reading.sampling.failed, reading.warnings) == (20, 0, ())


def test_short_runs_are_still_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reopened: list[str] = []
    monkeypatch.setattr("dfwatch.decode.decoding.Sampler._seek_start", lambda _: reopened.append("anew"))
    path = make_clip(folder / "short.mp4", seconds=10, fps=FPS, gop=250, b_frames=3, size=(160, 120), options=FLAT)
    taken = sample(path)
    assert len(taken.shots) == 20
    assert all(shot.number % 4 == 0 or shot.number == 249 for shot in taken.shots)
    assert reopened == []
