"""Recordings of several encoders in one transport stream: all of them are judged, as players show them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfwatch.decode.turns import turns_in
from tests.clips import make_clip, paint
from tests.reader.helpers import read, sample

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FPS = 24
# The number of a stream's packets, its first frame's number, and its length in seconds.
FILM, ADVERTISEMENT, REST = (256, 0, 6), (500, 144, 3), (256, 216, 3)


def recording(folder: Path, number: int, first: int, seconds: int, **more: Any) -> bytes:
    def painter(frame: int, size: tuple[int, int], time_s: float) -> NDArray[np.uint8]:
        del time_s
        return paint(first + frame, size, faces=())

    path = folder / f"{number}-{first}.ts"
    options = {"mpegts_start_pid": str(number), **more}
    return make_clip(path, seconds=seconds, fps=FPS, painter=painter, container_options=options).read_bytes()


def joined(folder: Path, parts: list[tuple[int, int, int]], **more: Any) -> Path:
    path = folder / "joined.ts"
    path.write_bytes(b"".join(recording(folder, *part, **more) for part in parts))
    return path


@pytest.fixture(params=["small", "large"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How files are looked at that may, or may not, be read through."""
    if request.param == "large":
        monkeypatch.setattr("dfwatch.decode.turns._READ_THROUGH_BYTES", 1000)
        monkeypatch.setattr("dfwatch.decode.turns._PACKETS_AT_ONCE", 64)
        monkeypatch.setattr("dfwatch.decode.frame_index.DEMUX_LIMIT_BYTES", 1000)
    return str(request.param)


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("parts", [[FILM, ADVERTISEMENT], [ADVERTISEMENT, REST], [FILM, ADVERTISEMENT, REST]])
@pytest.mark.parametrize("disc", ["0", "1"])
def test_all_parts_are_sampled(tmp_path: Path, parts: list[tuple[int, int, int]], disc: str) -> None:
    seconds = sum(part[2] for part in parts)

    taken = sample(joined(tmp_path, parts, mpegts_m2ts_mode=disc), frames=12)

    assert taken.duration_s == pytest.approx(seconds, abs=0.05)
    assert [shot.slice_index for shot in taken.shots] == list(range(12))
    assert [shot.number for shot in taken.shots] == [parts[0][1] + round(shot.time_s * FPS) for shot in taken.shots]


@pytest.mark.usefixtures("size")
def test_streams_beside_each_other_stay_apart(tmp_path: Path) -> None:
    parts = [make_clip(tmp_path / f"{n}.ts", seconds=4, painter=lambda n, s, t: paint(n, s, t, ())) for n in range(2)]
    path = tmp_path / "beside.ts"
    with av.open(str(path), "w") as output:
        packets = []
        for number, part in enumerate(parts):
            with av.open(str(part)) as source:
                stream = output.add_stream_from_template(source.streams.video[0], opaque=True)
                found = [packet for packet in source.demux(video=0) if packet.dts is not None]
                packets += [(packet.dts, number, packet, stream) for packet in found]
        for _, _, packet, stream in sorted(packets, key=lambda entry: entry[:2]):
            packet.stream = stream
            output.mux(packet)

    reading = read(path)

    assert reading.video.duration_s == pytest.approx(4, abs=0.05)
    assert reading.sampling.failed == 0
    assert any("2 video streams" in warning for warning in reading.warnings)


@given(st.integers(0, 2**32), st.integers(0, 30), st.sampled_from([(0, 188), (4, 192)]), st.integers(0, 300))
def test_no_bytes_make_it_fail(seed: int, packets: int, layout: tuple[int, int], cut_off: int) -> None:
    lead, step = layout
    data = np.random.default_rng(seed).integers(0, 256, packets * step, np.uint8)
    data[lead::step] = 0x47
    content = data.tobytes()[: max(0, len(data) - cut_off)]

    turns = turns_in(lambda offset, count: content[offset : offset + count], len(content))

    assert turns is None or len(turns.numbers) > 1


def test_only_the_numbers_are_changed(tmp_path: Path) -> None:
    content = joined(tmp_path, [FILM, ADVERTISEMENT]).read_bytes()

    def read_at(offset: int, count: int) -> bytes:
        return content[offset : offset + count]

    turns = turns_in(read_at, len(content))
    assert turns is not None
    assert turns.numbers == (256, 500)
    whole = turns.read(read_at, 0, len(content) + 1000)
    assert len(whole) == len(content)
    before, after = (np.frombuffer(data, np.uint8).reshape(-1, 188).astype(int) for data in (content, whole))
    changed = np.flatnonzero((before != after).any(axis=1))
    assert len(changed)
    assert ((before[changed, 1] & 0x1F) * 256 + before[changed, 2] == 500).all()
    assert ((after[changed, 1] & 0x1F) * 256 + after[changed, 2] == 256).all()
    assert (before[:, 3:] == after[:, 3:]).all()
    for place, count in ((0, 1), (187, 3), (190, 1), (len(content) - 5, 100), (len(content), 10), (1000, 70_000)):
        assert turns.read(read_at, place, count) == whole[place : place + count]
