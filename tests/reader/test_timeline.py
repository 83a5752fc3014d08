"""Time stamps that step back, and stretches without a frame: what was lost is not passed over in silence."""

from __future__ import annotations

from array import array
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import pytest

from dfwatch.decode.holes import PacketLog
from dfwatch.errors import UndecodableError
from dfwatch.reasons import Reason
from tests.clips import make_clip, mux_beside_silence, zeroed
from tests.reader.helpers import read, sample

if TYPE_CHECKING:
    from pathlib import Path

    from dfwatch.reading import Reading

FPS = 25
TS: dict[str, Any] = {"codec": "mpeg2video", "fps": FPS, "faces": (), "size": (160, 120)}
NEW_FLAGS = {"gaps", "timestamps_jump"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("timeline")


def part(folder: Path, name: str, seconds: int, first_s: int = 0) -> Path:
    path = folder / name
    times = [first_s + Fraction(number, FPS) for number in range(seconds * FPS)]
    return path if path.exists() else make_clip(path, times=times, **TS)


def joined(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(one.read_bytes() for one in parts))
    return path


def flags(reading: Reading) -> set[str]:
    return {flag.flag for flag in reading.quality} & NEW_FLAGS


def test_frames_that_cannot_be_placed_are_not_judged_by_half(folder: Path) -> None:
    path = folder / "muddled.ts"
    with av.open(str(part(folder, "0.ts", 12))) as source, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.dts is None or packet.pts is None:
                continue
            packet.stream = stream
            if number // 3 % 2:
                packet.pts += 5 * 90_000
            output.mux(packet)

    with pytest.raises(UndecodableError, match=r"time stamps step back: [45]") as caught:
        read(path)

    assert caught.value.reason is Reason.CORRUPT
    reading = read(path, min_coverage=0.0)
    assert "timestamps_jump" in flags(reading)
    assert any("step back" in warning for warning in reading.warnings)
    assert reading.sampling.decoded + reading.sampling.failed == reading.sampling.expected_frames
    assert reading.sampling.failed > 0


def test_a_short_overlap_is_told_and_judged(folder: Path) -> None:
    path = joined(folder / "overlap.ts", part(folder, "20s.ts", 20), part(folder, "2s.ts", 3, 17))
    reading = read(path)
    assert "timestamps_jump" in flags(reading)
    assert reading.sampling.decoded == 20


@pytest.mark.parametrize("first_s", [12, 20])
def test_recordings_that_go_on_do_not_step_back(folder: Path, first_s: int) -> None:
    path = joined(folder / "on.ts", part(folder, "0.ts", 12), part(folder, f"{first_s}.ts", 12, first_s))
    reading = read(path, min_coverage=0.0)
    assert flags(reading) == (set() if first_s == 12 else {"gaps"})


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "libx264"), ("b.webm", "libvpx")])
def test_bytes_that_are_nothing_are_frames_that_were_lost(folder: Path, name: str, codec: str) -> None:
    whole = make_clip(folder / name, codec=codec, seconds=40, fps=FPS, gop=FPS, faces=(), size=(160, 120))
    assert read(whole).warnings == ()
    path = zeroed(whole, folder / f"hole-{name}", 0.3, 0.72)

    with pytest.raises(UndecodableError) as caught:
        read(path)

    assert caught.value.reason is Reason.CORRUPT
    reading = read(path, min_coverage=0.4)
    assert reading.sampling.failed >= 5
    assert reading.sampling.expected_frames == 20
    assert flags(reading) == {"gaps"}
    assert any("no frame is shown from" in text and "were lost" in text for text in reading.warnings)


def test_a_part_cut_out_of_a_transport_stream_was_lost(folder: Path) -> None:
    data = part(folder, "40s.ts", 40).read_bytes()
    packets = len(data) // 188
    path = folder / "cut.ts"
    path.write_bytes(data[: packets * 3 // 10 * 188] + data[packets * 7 // 10 * 188 :])
    with pytest.raises(UndecodableError):
        read(path)
    assert read(path, min_coverage=0.4).sampling.failed >= 5


def screen_recording(path: Path, **more: Any) -> Path:
    """Moves for three seconds, stands still for twenty, and moves again."""
    times = [*(Fraction(n, FPS) for n in range(3 * FPS)), *(23 + Fraction(n, FPS) for n in range(3 * FPS))]
    return make_clip(path, times=times, faces=(), **more)


@pytest.mark.parametrize("name", ["still.mkv", "still.webm"])
def test_a_screen_that_stood_still_lost_nothing(folder: Path, name: str) -> None:
    more = {"codec": "libvpx"} if name.endswith("webm") else {}
    reading = read(screen_recording(folder / name, **more))
    assert reading.sampling.failed == 0
    assert reading.sampling.expected_frames == reading.sampling.decoded < 10
    assert flags(reading) == {"gaps"}
    assert [text for text in reading.warnings if "no frame is shown" in text] != []
    assert "were lost" not in " ".join(reading.warnings)


@pytest.mark.parametrize("name", ["sound.mkv", "sound.ts", "sound.flv"])
def test_sound_that_goes_on_while_the_screen_stands_still_is_nothing_lost(folder: Path, name: str) -> None:
    silent = screen_recording(folder / "silent.mkv", size=(64, 48))
    path = folder / name
    with av.open(str(silent)) as source, av.open(str(path), "w") as output:
        picture = output.add_stream_from_template(source.streams.video[0])
        sound = output.add_stream("mp2" if name.endswith("ts") else "pcm_s16le", rate=44100, layout="stereo")
        packets = [packet for packet in source.demux(video=0) if packet.dts is not None]
        mux_beside_silence(output, picture, packets, sound, range(26 * 10))
    reading = read(path)
    assert (reading.sampling.failed, flags(reading)) == (0, {"gaps"})


@pytest.mark.parametrize("movflags", ["", "faststart", "frag_keyframe+empty_moov"])
def test_a_frame_that_the_file_shows_for_long_is_no_gap(folder: Path, movflags: str) -> None:
    options = {"movflags": movflags} if movflags else {}
    reading = read(screen_recording(folder / "still.mp4", container_options=options))
    assert (reading.sampling.failed, reading.warnings) == (0, ())
    assert flags(reading) == set()


@pytest.mark.parametrize("name", ["slow.mkv", "slow.ts", "uneven.mkv", "late.mkv", "late.ts"])
def test_few_frames_uneven_frames_and_a_late_start_are_no_gaps(folder: Path, name: str) -> None:
    kind, _, ending = name.partition(".")
    times = {
        "slow": [Fraction(number) for number in range(12)],
        "uneven": [Fraction(number * number, 10) for number in range(40)],
        "late": [30 + Fraction(number, FPS) for number in range(6 * FPS)],
    }[kind]
    more: dict[str, Any] = {"codec": "mpeg2video", "fps": FPS} if ending == "ts" else {}
    reading = read(make_clip(folder / name, times=times, faces=(), **more))
    assert (reading.sampling.failed, reading.warnings) == (0, ())
    assert flags(reading) == set()


@pytest.mark.parametrize("name", ["pauses.mkv", "pauses.ts", "pauses.flv"])
@pytest.mark.parametrize(("every", "pause_s"), [(8, Fraction(3, 2)), (100, 20), (100, 100)])
def test_pauses_are_no_steps_back(folder: Path, name: str, every: int, pause_s: Fraction) -> None:
    times = [Fraction(number, FPS) + number // every * pause_s for number in range(200)]
    path = make_clip(
        folder / f"{every}-{name}",
        times=times,
        fps=FPS,
        faces=(),
        b_frames=3,
        gop=250,
        options={"x264-params": "b-adapt=0"},
    )
    with av.open(str(path)) as container:
        order = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
        assert order != sorted(order)

    reading = read(path)

    assert "timestamps_jump" not in flags(reading)
    assert reading.sampling.failed == 0
    taken = sample(path)
    assert [float(times[shot.number]) for shot in taken.shots] == pytest.approx(
        [shot.time_s for shot in taken.shots], abs=0.002
    )


def test_a_long_file_that_is_not_read_through_tells_of_empty_slices(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = screen_recording(folder / "long.mkv")
    whole = make_clip(folder / "whole.mkv", seconds=20, fps=FPS, gop=FPS, faces=())
    stream = make_clip(folder / "whole.ts", seconds=20, fps=FPS, gop=FPS, b_frames=3, faces=())
    monkeypatch.setattr("dfwatch.decode.frame_index.DEMUX_LIMIT_BYTES", 1000)
    assert flags(read(path)) == {"gaps"}
    assert flags(read(whole)) == flags(read(stream)) == set()


def test_reordering_is_no_step_back() -> None:
    log = PacketLog()
    for group in range(40):
        for shown in (0, 4, 2, 1, 3):
            log.add((5 * group + shown) * 40, 40, 0, 1, is_corrupt=False)
    assert log.misplaced_share(0.001) == 0.0
    assert log.holes(0.001, 8.0, 20, 1000) == ()
    assert PacketLog(array("q", [5])).misplaced_share(1.0) == 0.0
