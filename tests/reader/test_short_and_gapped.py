"""Whole files of few frames, of frames that are shown for long, and of sound without pictures: no part is missing."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

from dfwatch.errors import UndecodableError
from dfwatch.reasons import Reason
from tests.clips import cut, make_clip, paint
from tests.reader.helpers import read, sample

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FPS = 25
SIZE = (160, 120)
CODECS: dict[str, str] = {"wmv": "wmv2", "webm": "libvpx", "avi": "mpeg4", "mpg": "mpeg2video"}
SOUND: dict[str, str] = {"flv": "libmp3lame", "mp4": "aac"}
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("short")


def clip(folder: Path, name: str, times: Sequence[Fraction], **more: Any) -> Path:
    path = folder / name
    codec = CODECS.get(path.suffix[1:], "libx264")
    return path if path.exists() else make_clip(path, codec=codec, times=times, faces=(), size=SIZE, **more)


def evenly(frames: int, fps: int = FPS, first_s: int = 0) -> list[Fraction]:
    return [first_s + Fraction(number, fps) for number in range(frames)]


def with_sound(path: Path, frames: int, sound_s: float, first_s: int = 0) -> Path:
    """A film of so many frames, which begins later than its sound where ``first_s`` is not 0."""
    kind = path.suffix[1:]
    with av.open(str(path), "w") as output:
        picture = output.add_stream(CODECS.get(kind, "libx264"), rate=FPS)
        picture.width, picture.height, picture.pix_fmt = *SIZE, "yuv420p"
        picture.codec_context.time_base = Fraction(1, FPS)
        sound = output.add_stream(SOUND.get(kind, "mp2"), rate=44100, layout="stereo")
        due = list(enumerate(evenly(frames, first_s=first_s)))
        for block in range(round(sound_s * 10)):
            while due and due[0][1] < Fraction(block + 1, 10):
                number, time_s = due.pop(0)
                frame = av.VideoFrame.from_ndarray(paint(number, SIZE, faces=()), format="rgb24")
                frame.pts, frame.time_base = round(time_s * FPS), Fraction(1, FPS)
                output.mux(picture.encode(frame))
            heard = av.AudioFrame.from_ndarray(np.zeros((1, 8820), np.int16), format="s16", layout="stereo")
            heard.sample_rate, heard.pts = 44100, 4410 * block
            output.mux(sound.encode(heard))
        output.mux(picture.encode(None))
        output.mux(sound.encode(None))
    return path


@pytest.mark.parametrize("name", ["a.wmv", "a.flv", "a.ts", "a.mkv", "a.webm", "a.mp4", "a.avi", "a.mpg"])
@pytest.mark.parametrize("fps", [1, 25])
@pytest.mark.parametrize("frames", [1, 2, 3])
def test_few_frames_are_all_judged(folder: Path, name: str, frames: int, fps: int) -> None:
    if name == "a.mpg" and fps == 1:
        pytest.skip("no frame rate of MPEG-2")
    path = clip(folder, f"{frames}-{fps}-{name}", evenly(frames, fps), fps=fps)
    reading = read(path)
    assert (reading.sampling.expected_frames, reading.sampling.decoded) == (frames, frames)
    assert [shot.number for shot in sample(path).shots] == list(range(frames))


@pytest.mark.parametrize("name", ["a.flv", "a.wmv", "a.mkv", "a.mp4", "a.mov", "a.ts", "a.avi", "fragmented.mp4"])
@pytest.mark.parametrize("frames", [5, 50])
@pytest.mark.parametrize("b_frames", [0, 3])
def test_a_first_frame_that_is_shown_for_a_minute(folder: Path, name: str, frames: int, b_frames: int) -> None:
    times = [Fraction(0), *evenly(frames, first_s=60)]
    more = {"container_options": FRAGMENTED} if name.startswith("fragmented") else {}
    path = clip(
        folder,
        f"gap-{frames}-{b_frames}-{name}",
        times,
        fps=FPS,
        # Windows Media has none, and AVI no time stamps for them.
        b_frames=0 if name.endswith(("avi", "wmv")) else b_frames,
        options={} if name.endswith(("avi", "wmv")) else {"x264-params": "b-adapt=0"},
        **more,
    )

    reading = read(path)

    assert reading.sampling.failed == 0
    assert reading.video.duration_s == pytest.approx(60 + frames / FPS, abs=0.1)
    shots = sample(path).shots
    assert shots[0].number == 0
    assert len(shots) >= 2
    assert [float(times[shot.number]) for shot in shots] == pytest.approx([shot.time_s for shot in shots], abs=0.02)


@pytest.mark.parametrize("movflags", ["", "faststart"])
def test_a_first_frame_that_is_shown_for_long_hides_no_missing_end(folder: Path, movflags: str) -> None:
    path = clip(
        folder,
        f"gap-cut-{movflags}.mp4",
        [Fraction(0), *evenly(500, first_s=10)],
        fps=FPS,
        b_frames=3,
        options={"x264-params": "b-adapt=0"},
        container_options={"movflags": movflags} if movflags else {},
    )
    assert read(path).sampling.failed == 0
    with pytest.raises(UndecodableError) as caught:
        read(cut(path, folder / f"cut-{path.name}", 0.5))
    assert caught.value.reason is Reason.TRUNCATED


@pytest.mark.parametrize("name", ["a.flv", "a.wmv", "a.mkv", "a.mp4", "a.ts"])
@pytest.mark.parametrize(("frames", "sound_s", "first_s"), [(1, 3.0, 0), (3, 0.3, 0), (50, 5.0, 0), (50, 5.0, 3)])
def test_sound_without_pictures_is_no_missing_part(
    folder: Path, name: str, frames: int, sound_s: float, first_s: int
) -> None:
    path = with_sound(folder / f"sound-{frames}-{first_s}-{name}", frames, sound_s, first_s)
    reading = read(path)
    assert (reading.sampling.failed, reading.sampling.decoded) == (0, min(frames, 20))


@pytest.mark.parametrize("name", ["a.flv", "a.wmv", "a.mkv"])
@pytest.mark.parametrize(("frames", "share"), [(400, 0.5), (400, 0.05), (50, 0.5)])
def test_sound_and_pictures_that_break_off_are_a_missing_part(
    folder: Path, name: str, frames: int, share: float
) -> None:
    path = with_sound(folder / f"{frames}-{name}", frames, 16.0)
    part = cut(path, folder / f"part-{share}-{path.name}", share)
    with pytest.raises(UndecodableError) as caught:
        read(part)
    assert caught.value.reason is Reason.TRUNCATED


@pytest.mark.parametrize("name", ["a.flv", "a.wmv"])
def test_the_first_frame_of_a_film_is_not_the_film(folder: Path, name: str) -> None:
    path = clip(folder, f"film-{name}", evenly(100), fps=FPS, gop=200)
    with av.open(str(path)) as container:
        second = [packet.pos for packet in container.demux(video=0) if packet.pos][1]
    part = folder / f"one-{name}"
    part.write_bytes(path.read_bytes()[: second + 4])
    with pytest.raises(UndecodableError) as caught:
        read(part)
    assert caught.value.reason is Reason.TRUNCATED
