"""Hostile files through the real service and reader process: each ends with a reason, and the next one is judged."""

from __future__ import annotations

import os
import random
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.clips import cut, loop_clip, make_clip
from tests.service.daemon import REPOSITORY, Daemon

LIMITS = {"processes": 1, "time_limit_s": 4.0, "memory_limit_bytes": 1 << 30, "decoder_threads": 1}


class RealDaemon(Daemon):
    module = "tests.reliability.real_daemon"


@pytest.fixture
def daemons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., RealDaemon]]:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))  # where the reader process finds ``mixed_child``
    made: list[RealDaemon] = []

    def make(**reader: Any) -> RealDaemon:
        changes = {"reader": {**LIMITS, **reader}, "jobs": {"max_attempts": 2, "retry_delay_s": 0.05}}
        changes["watch"] = {"extensions": ["mp4", "avi", "mkv"]}
        made.append(RealDaemon(tmp_path, changes))
        return made[-1]

    yield make
    for daemon in made:
        daemon.kill()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


def put(daemon: Daemon, name: str | bytes, source: Path) -> None:
    """As careful senders do it."""
    whole = daemon.folder / "being-sent"
    shutil.copyfile(source, whole)
    os.rename(os.fsencode(whole), os.path.join(os.fsencode(daemon.inbox), os.fsencode(name)))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("segfault", "reader_crashed"),
        ("abort", "reader_crashed"),
        ("exit", "reader_crashed"),
        ("hang", "reader_timeout"),
        ("eat", "reader_out_of_memory"),
        ("sick_disk", "reader_protocol"),
    ],
)
def test_a_decoder_that_fails_is_one_bad_video(
    daemons: Callable[..., RealDaemon], clip: Path, fault: str, reason: str
) -> None:
    # Only what hangs is to meet its limit, however busy the machine is.
    daemon = daemons(time_limit_s=2.0 if fault == "hang" else 30.0)
    (daemon.inbox / "poison.mp4").write_bytes(f"FAULT {fault}\n".encode() + clip.read_bytes())
    put(daemon, "innocent.mp4", clip)
    daemon.start()
    pid = daemon.process.pid if daemon.process else 0
    daemon.settle(2)
    poison, innocent = daemon.sidecar("poison.mp4"), daemon.sidecar("innocent.mp4")
    assert (poison["status"], poison["reason"], poison["attempt"]) == ("quarantined", reason, 2)
    assert (innocent["status"], innocent["attempt"]) == ("done", 1)
    assert len(innocent["tracks"]) == 1
    assert daemon.process is not None
    assert daemon.process.pid == pid


def playlists(folder: Path) -> dict[str, tuple[bytes, set[str]]]:
    secret = folder / "secret.mp4"
    return {
        "concat.mp4": (f"ffconcat version 1.0\nfile {secret}\n".encode(), {"format_not_allowed", "unknown_format"}),
        "hls.mp4": (f"#EXTM3U\n#EXTINF:1,\n{secret}\n".encode(), {"format_not_allowed", "unknown_format"}),
        "url.avi": (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n", {"format_not_allowed", "unknown_format"}),
        "sdp.mp4": (b"v=0\nm=video 9 RTP/AVP 96\nc=IN IP4 127.0.0.1\n", {"format_not_allowed", "unknown_format"}),
    }


def test_everything_hostile_at_once_and_a_good_video_among_it(
    daemons: Callable[..., RealDaemon], clip: Path, tmp_path: Path
) -> None:
    daemon = daemons()
    expected: dict[str, set[str]] = {}
    shutil.copyfile(clip, tmp_path / "secret.mp4")
    for name, (data, reasons) in playlists(tmp_path).items():
        (daemon.inbox / name).write_bytes(data)
        expected[name] = reasons

    os.mkfifo(daemon.inbox / "pipe.mp4")
    (daemon.inbox / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    expected |= {"pipe.mp4": {"not_a_regular_file"}, "link.mp4": {"symlink"}}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(daemon.inbox / "socket.mp4"))
    expected["socket.mp4"] = {"not_a_regular_file"}
    if os.geteuid() == 0:
        try:
            os.mknod(daemon.inbox / "zero.mp4", 0o20666, os.makedev(1, 5))
        except PermissionError:
            pass
        else:
            expected["zero.mp4"] = {"not_a_regular_file"}

    draw = random.Random(4)
    (daemon.inbox / "noise.mp4").write_bytes(draw.randbytes(300_000))
    expected["noise.mp4"] = {"unknown_format", "corrupt", "no_frames", "no_video_stream", "format_not_allowed"}
    (daemon.inbox / "header-only.mp4").write_bytes(clip.read_bytes()[:32])
    expected["header-only.mp4"] = {"unknown_format", "corrupt", "truncated", "no_video_stream", "no_frames"}
    tiny = make_clip(tmp_path / "tiny.avi", codec="mpeg4", size=(2, 2), faces=(), painter=None)
    put(daemon, "two-by-two.avi", tiny)
    expected["two-by-two.avi"] = {"too_small"}
    put(daemon, "bomb.avi", bomb(tmp_path / "bomb.avi"))
    expected["bomb.avi"] = {"too_many_pixels"}
    for ending in ("mp4", "avi", "mkv"):
        put(daemon, f"no-frames.{ending}", without_frames(tmp_path / f"no-frames.{ending}"))
        expected[f"no-frames.{ending}"] = {"no_frames", "no_video_stream", "corrupt", "truncated"}
    put(daemon, "for-ever.mp4", with_duration(clip, tmp_path / "long.mp4", 0x7FFFFFFF))
    expected["for-ever.mp4"] = {"too_long"}
    (daemon.inbox / "folder.mp4").mkdir()

    put(daemon, b"-good\n\xff.mp4", clip)
    daemon.start()
    documents = daemon.settle(len(expected) + 1)
    by_name = {document["subject"]["name"]: document for document in documents.values()}
    wrong = {
        name: by_name[name]["reason"] for name, reasons in expected.items() if by_name[name]["reason"] not in reasons
    }
    assert wrong == {}
    [good] = [document for name, document in by_name.items() if name not in expected]
    assert (good["status"], len(good["tracks"])) == ("done", 1)
    assert (tmp_path / "secret.mp4").read_bytes() == clip.read_bytes()
    assert daemon.stop() == 0


def test_a_million_frames_cost_no_more_than_a_few(daemons: Callable[..., RealDaemon], tmp_path: Path) -> None:
    """Stream-copied: a file of some megabytes that holds a million frames."""
    short = make_clip(tmp_path / "short.mkv", seconds=40.0, fps=25, size=(32, 32), faces=(), gop=250)
    long = loop_clip(short, tmp_path / "long.mkv", 1000)
    # Decoding them all would take many minutes.
    daemon = daemons(time_limit_s=50.0)
    put(daemon, "million.mkv", long)
    daemon.start()
    [document] = daemon.settle(1).values()
    assert (document["status"], document["verdict"]) == ("done", "NO_FACE")
    assert document["video"]["duration_s"] == pytest.approx(40_000, rel=0.05)


@pytest.mark.parametrize("ending", ["avi", "mkv", "mp4"])
def test_half_a_file_gets_no_verdict(daemons: Callable[..., RealDaemon], tmp_path: Path, ending: str) -> None:
    """A copy that was broken off and whose sender is gone: it stands still, it opens, and it would decode."""
    whole = make_clip(tmp_path / f"whole.{ending}", codec="mpeg4" if ending == "avi" else "libx264", seconds=4.0)
    daemon = daemons()
    for share in (0.3, 0.5, 0.7):
        put(daemon, f"{share}.{ending}", cut(whole, tmp_path / "part", share))
    put(daemon, f"whole.{ending}", whole)
    daemon.start()
    documents = daemon.settle(4)
    outcomes = {document["subject"]["name"]: document["verdict"] for document in documents.values()}
    assert {name for name, verdict in outcomes.items() if verdict is not None} == {f"whole.{ending}"}
    assert all(
        document["reason"] in {"truncated", "corrupt", "unknown_format", "no_frames", "no_video_stream"}
        for document in documents.values()
        if document["verdict"] is None
    )


def bomb(path: Path) -> Path:
    """One frame of more than 8K, which packs into next to nothing."""
    frame = np.zeros((4352, 8192, 3), np.uint8)
    return make_clip(path, codec="mjpeg", seconds=0.04, fps=25, size=(8192, 4352), painter=lambda *_: frame)


def without_frames(path: Path) -> Path:
    """A whole, well-formed file with a video stream in which there is nothing."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        container.start_encoding()
    return path


def with_duration(clip: Path, path: Path, units: int) -> Path:
    """A copy that claims, in every header, to play for ``units`` of its time scale, and whose last frame does."""
    data = bytearray(clip.read_bytes())
    for box, offset in ((b"mvhd", 20), (b"mdhd", 20), (b"tkhd", 24)):
        where = data.index(box) + offset
        data[where : where + 4] = struct.pack(">I", units)
    where = data.index(b"stts") + 8
    count = struct.unpack(">I", data[where : where + 4])[0]
    last = where + 4 + 8 * (count - 1) + 4
    data[last : last + 4] = struct.pack(">I", units)
    path.write_bytes(bytes(data))
    return path
