"""What is not a video that may be judged is refused with its reason, and never opens another file."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

from dfwatch.errors import MediaError, RefusedError, UndecodableError
from dfwatch.reasons import Reason
from tests.clips import cut, make_clip, make_still
from tests.reader.helpers import read

if TYPE_CHECKING:
    from pathlib import Path


def reason_of(path: Path, **settings: Any) -> Reason:
    with pytest.raises(MediaError) as caught:
        read(path, **settings)
    return caught.value.reason


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_empty(tmp_path: Path) -> None:
    assert reason_of(write(tmp_path / "a.mp4", b"")) is Reason.EMPTY


@pytest.mark.parametrize("data", [b"hello " * 500, bytes(range(256)) * 99, b"\0" * 5000, b"x"])
def test_unknown_format(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(RefusedError) as caught:
        read(write(tmp_path / "a.mp4", data))
    assert caught.value.reason in {Reason.UNKNOWN_FORMAT, Reason.FORMAT_NOT_ALLOWED}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("concat.mp4", "ffconcat version 1.0\nfile '{victim}'\n"),
        ("hls.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\n{victim}\n#EXT-X-ENDLIST\n"),
        ("hls.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\nfile://{victim}\n#EXT-X-ENDLIST\n"),
        ("a.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"),
        ("a.mpd", '<?xml version="1.0"?><MPD><Period><BaseURL>{victim}</BaseURL></Period></MPD>'),
        ("a.txt", ";FFMETADATA1\ntitle={victim}\n"),
        ("img%d.png", "{victim}"),
        ("a.svg", '<svg xmlns="http://www.w3.org/2000/svg"><image href="{victim}"/></svg>'),
        ("a.asx", "[Reference]\nRef1={victim}\n"),
    ],
)
def test_playlists_never_open_what_they_point_at(tmp_path: Path, name: str, text: str) -> None:
    victim = make_clip(tmp_path / "victim.mp4", seconds=0.2, faces=())
    # Read now, so that any later access would show: atime is set back to zero.
    os.utime(victim, (0, victim.stat().st_mtime))
    path = write(tmp_path / name, text.format(victim=victim).encode())

    assert reason_of(path) in {Reason.FORMAT_NOT_ALLOWED, Reason.UNKNOWN_FORMAT}
    assert victim.stat().st_atime == 0


def test_a_mov_that_refers_to_another_file_does_not_open_it(tmp_path: Path) -> None:
    victim = make_clip(tmp_path / "victim.mp4", seconds=0.5, faces=())
    data = victim.read_bytes()
    # The data reference says "in this file"; make it an alias to a name instead.
    at = data.index(b"url \0\0\0\1")
    path = write(tmp_path / "a.mp4", data[:at] + b"alis\0\0\0\0" + data[at + 8 :])
    assert read(path).sampling.decoded > 0


def test_formats_that_are_not_configured(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.avi", codec="mpeg4", seconds=0.2, faces=())
    assert reason_of(clip, formats=["mov"]) is Reason.FORMAT_NOT_ALLOWED
    gif = make_clip(tmp_path / "a.gif", codec="gif", pixel_format="rgb8", seconds=0.2, fps=10, faces=())
    assert reason_of(gif) is Reason.FORMAT_NOT_ALLOWED


def add_sound(output: av.container.OutputContainer) -> None:
    stream = output.add_stream("pcm_s16le", rate=8000, layout="mono")
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.int16), format="s16", layout="mono")
    frame.sample_rate, frame.pts = 8000, 0
    for packet in [*stream.encode(frame), *stream.encode(None)]:
        output.mux(packet)


def test_no_video_stream(tmp_path: Path) -> None:
    path = tmp_path / "sound.mov"
    with av.open(str(path), "w") as output:
        add_sound(output)
    assert reason_of(path) is Reason.NO_VIDEO_STREAM


def test_cover_art_is_not_video(tmp_path: Path) -> None:
    path, cover = tmp_path / "song.mkv", make_still(tmp_path / "cover.jpg", size=(320, 320))
    with av.open(str(path), "w") as output:
        output.add_attachment("cover.jpg", "image/jpeg", cover.read_bytes())
        add_sound(output)
    assert reason_of(path) is Reason.NO_VIDEO_STREAM


@pytest.mark.parametrize("name", ["clip.ts", "clip.m2ts"])
def test_a_scrambled_transport_stream(tmp_path: Path, name: str) -> None:
    data = bytearray(make_clip(tmp_path / name, faces=()).read_bytes())
    extra = 4 if name.endswith("m2ts") else 0
    for start in range(extra, len(data), 188 + extra):
        number = (data[start + 1] & 0x1F) << 8 | data[start + 2]
        if number in {0x100, 0x1011}:
            adaptation = 1 + data[start + 4] if data[start + 3] & 0x20 else 0
            data[start + 3] |= 0x80
            payload = range(start + 4 + adaptation, start + 188)
            data[payload.start : payload.stop] = bytes((37 * place) % 251 for place in payload)
    (tmp_path / name).write_bytes(data)

    with pytest.raises(RefusedError) as caught:
        read(tmp_path / name)

    assert caught.value.reason is Reason.ENCRYPTED


@pytest.mark.parametrize("entry", [b"encv", b"drmi"])
def test_encrypted(tmp_path: Path, entry: bytes) -> None:
    clip = make_clip(tmp_path / "a.mp4", seconds=0.5, faces=())
    data = clip.read_bytes()
    assert data.count(b"avc1") >= 1
    at = data.index(b"avc1", data.index(b"stsd"))
    path = write(tmp_path / "b.mp4", data[:at] + entry + data[at + 4 :])
    assert reason_of(path) is Reason.ENCRYPTED


@pytest.mark.parametrize("guid", ["fbb3112223bdd211b4b700a0c955fc6e", "14e68a292226174cb935dae07ee9289c"])
def test_a_protected_windows_media_file(tmp_path: Path, guid: str) -> None:
    clip = make_clip(tmp_path / "a.wmv", codec="wmv2", seconds=0.5, faces=(), options={"qscale": "3"})
    data = clip.read_bytes()
    length, count = struct.unpack_from("<QI", data, 16)
    protection = bytes.fromhex(guid) + struct.pack("<Q", 24 + 40) + bytes(40)
    head = data[:16] + struct.pack("<QI", length + len(protection), count + 1) + data[28:30]

    assert reason_of(write(tmp_path / "b.wmv", head + protection + data[30:])) is Reason.ENCRYPTED
    # The same bytes among the pictures tell nothing.
    assert len(read(write(tmp_path / "c.wmv", data + protection)).sampling.frames) > 0


def test_limits(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", seconds=2, faces=())
    assert reason_of(clip, max_pixels=320 * 240 - 1) is Reason.TOO_MANY_PIXELS
    assert reason_of(clip, min_side_px=241) is Reason.TOO_SMALL
    assert reason_of(clip, max_duration_s=1.5) is Reason.TOO_LONG


def test_a_header_that_lies_about_its_pixels(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.avi", codec="mpeg4", size=(640, 480), seconds=0.5, faces=())
    data = bytearray(clip.read_bytes())
    for at in (data.index(b"avih") + 8 + 32, data.index(b"strf") + 8 + 4):
        assert struct.unpack_from("<II", data, at) == (640, 480)
        struct.pack_into("<II", data, at, 64, 48)
    path = write(tmp_path / "b.avi", bytes(data))
    assert reason_of(path, max_pixels=100 * 100) is Reason.TOO_MANY_PIXELS


def test_stills_are_limited_too(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "a.webp"):
        still = make_still(tmp_path / name, size=(640, 480))
        assert reason_of(still, max_pixels=640 * 480 - 1) is Reason.TOO_MANY_PIXELS


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_half_a_still(tmp_path: Path, name: str, share: float) -> None:
    still = make_still(tmp_path / name, size=(640, 480))
    assert reason_of(cut(still, tmp_path / f"part-{name}", share)) is Reason.TRUNCATED


def test_damaged_still(tmp_path: Path) -> None:
    data = bytearray(make_still(tmp_path / "a.png", size=(640, 480)).read_bytes())
    data[60:2000] = bytes(1940)
    with pytest.raises(UndecodableError):
        read(write(tmp_path / "b.png", bytes(data)))


def test_structure_that_is_damaged_beyond_opening(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", seconds=0.5, faces=())
    data = bytearray(clip.read_bytes())
    at = data.index(b"moov")
    data[at + 4 : at + 200] = b"\xff" * 196
    assert reason_of(write(tmp_path / "b.mp4", bytes(data))) in {Reason.CORRUPT, Reason.NO_VIDEO_STREAM}
