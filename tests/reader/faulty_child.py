"""A reader child whose reader does what the first line of the file says: crash, hang, eat memory, lie.

Started as a module in place of ``dfwatch.decode.child``; nothing in the package can switch it on.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import signal
import socket
import struct
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from dfwatch.decode import child as reader_child
from dfwatch.decode import wire as reader_wire
from dfwatch.errors import UndecodableError, UnreadableBytesError
from dfwatch.reading import Box, Face, Reading, SampledFrame, Sampling, Track, VideoInfo
from dfwatch.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from dfwatch.config import FaceSettings, ReaderSettings
    from dfwatch.reading import CropSpec


def good_reading(settings: ReaderSettings, crop: CropSpec, note: str = "") -> Reading:
    frames = (SampledFrame(0, 0.0),)
    face = Face(0, 0.0, Box(1.0, 2.0, 30.0, 40.0), 0.9, 0)
    return Reading(
        video=VideoInfo("test", "test", 64, 64, "rgb24", 25.0, 1.0, 0),
        sampling=Sampling(settings.frames, 1, 1, 0, "sequential", frames),
        tracks=(Track(0, (face,)),),
        crops=np.full((1, crop.size_px, crop.size_px, 3), 7, np.uint8),
        decoder="faulty",
        warnings=(note,) if note else (),
        timings_ms={"probe": 1.0},
    )


class FaultyReader:
    def __init__(self, settings: ReaderSettings, faces: FaceSettings) -> None:
        del faces
        self._settings = settings
        self._jobs = 0

    def read(self, fd: int, crop: CropSpec) -> Reading:
        self._jobs += 1
        words = os.pread(fd, 200, 0).split(b"\n")[0].decode().split()
        action: Callable[..., str] = getattr(self, f"do_{words[0]}")
        return good_reading(self._settings, crop, str(action(*words[1:])))

    def do_count(self) -> str:
        return f"job {self._jobs} in {os.getpid()}"

    def do_segfault(self) -> str:
        return ctypes.string_at(0).decode()

    def do_abort(self) -> str:
        os.abort()

    def do_mourn(self) -> str:
        os.write(2, b"a line\n the  last line\n")
        os.abort()

    def do_exit(self) -> str:
        os._exit(3)

    def do_hang(self) -> str:
        while True:
            time.sleep(60)

    def do_spin(self) -> str:
        while True:
            pass

    def do_eat(self) -> str:
        hoard = []
        while True:
            hoard.append(np.ones(1 << 24, np.uint8))

    def do_killed(self) -> str:
        # As the kernel does when memory runs out; the filter forbids it to the child itself.
        time.sleep(60)
        return ""

    def do_defect(self) -> str:
        raise KeyError("a defect")

    def do_sick_disk(self) -> str:
        raise UnreadableBytesError("reading", "", os.strerror(errno.EIO), offset=5, count=100)

    def do_undecodable(self) -> str:
        raise UndecodableError("decoding", "", "no good", reason=Reason.CORRUPT, hint="try another")

    def do_try(self, power: str) -> str:
        """Use a power that a confined process must not have; says how that went."""
        try:
            outcome = POWERS[power]()
        except OSError as error:
            return f"{power}: {error.strerror}"
        return f"{power}: worked ({outcome})"

    def do_threads(self) -> str:
        done: list[int] = []
        threads = [threading.Thread(target=done.append, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return f"{len(done)} threads"

    def do_limits(self) -> str:
        names = ("RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_FSIZE", "RLIMIT_NOFILE")
        return " ".join(str(resource.getrlimit(getattr(resource, name))[0]) for name in names)

    def do_environment(self) -> str:
        return " ".join(sorted(os.environ))


F_SETSIG, FIOSETOWN = 10, 0x8901


def fork() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return pid


def write_to_memory_file() -> int:
    fd = os.memfd_create("x")
    return os.write(fd, b"x")


POWERS: dict[str, Callable[[], Any]] = {
    "read": lambda: os.open("/etc/hostname", os.O_RDONLY),
    "write": lambda: os.open("/tmp/dfwatch-test", os.O_WRONLY | os.O_CREAT, 0o600),
    "list": lambda: os.listdir("/"),
    "remove": lambda: os.unlink("/tmp/dfwatch-test"),
    "tcp": lambda: socket.create_connection(("127.0.0.1", 9), timeout=1),
    "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "unix": lambda: socket.socket(socket.AF_UNIX),
    "netlink": lambda: socket.socket(socket.AF_NETLINK),
    "fork": fork,
    "execute": lambda: os.execv("/bin/true", ["true"]),
    "signal": lambda: os.kill(os.getppid(), 0),
    "memory-file": write_to_memory_file,
    "affinity": lambda: os.sched_setaffinity(os.getppid(), {0}),
    "scheduler": lambda: os.sched_setscheduler(os.getppid(), os.SCHED_BATCH, os.sched_param(0)),
    "priority": lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), os.getpriority(os.PRIO_PROCESS, os.getppid())),
    "owner": lambda: fcntl.fcntl(int(sys.argv[1]), fcntl.F_SETOWN, os.getppid()),
    "owner-by-ioctl": lambda: fcntl.ioctl(int(sys.argv[1]), FIOSETOWN, struct.pack("i", os.getppid())),
    "lease": lambda: fcntl.fcntl(int(sys.argv[1]), fcntl.F_SETLEASE, fcntl.F_UNLCK),
    "flags": lambda: fcntl.fcntl(int(sys.argv[1]), fcntl.F_SETFL, os.O_DIRECT),
    "signal-number": lambda: fcntl.fcntl(int(sys.argv[1]), F_SETSIG, signal.SIGUSR1),
}


LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "nan": lambda ok: ok["timings_ms"].update(probe=float("nan")),
    "huge-box": lambda ok: ok["tracks"][0]["faces"][0]["box"].update(x=1e300),
    "negative-width": lambda ok: ok["tracks"][0]["faces"][0]["box"].update(width=-1.0),
    "wrong-crop": lambda ok: ok["tracks"][0]["faces"][0].update(crop_index=5),
    "wrong-frame": lambda ok: ok["tracks"][0]["faces"][0].update(frame_index=1),
    "bool-index": lambda ok: ok["tracks"][0]["faces"][0].update(frame_index=False),
    "wrong-time": lambda ok: ok["tracks"][0]["faces"][0].update(time_s=0.5),
    "more-crops": lambda ok: ok.update(crops=2),
    "no-tracks": lambda ok: ok.update(tracks=[]),
    "twice": lambda ok: ok["tracks"].append({**ok["tracks"][0], "id": 1}),
    "strategy": lambda ok: ok["sampling"].update(strategy="magic"),
    "rotation": lambda ok: ok["video"].update(rotation=45),
    "long-text": lambda ok: ok.update(decoder="x" * 100_000),
    "no-video": lambda ok: ok.pop("video"),
}


UNREADABLE: dict[str, dict[str, Any]] = {
    "unreadable-nowhere": {},
    "unreadable-before-the-start": {"offset": -1, "count": 1},
    "unreadable-nothing": {"offset": 0, "count": 0},
    "unreadable-far-away": {"offset": 1 << 64, "count": 1},
    "unreadable-behind-the-end": {"offset": (1 << 63) - 1, "count": (1 << 63) - 1},
}


def lie(name: str, settings: ReaderSettings, crop: CropSpec) -> bytes:
    """An answer that no honest child gives."""
    honest = reader_wire.encode_reading(good_reading(settings, crop))
    json_bytes, _ = reader_wire.HEAD.unpack(honest[: reader_wire.HEAD.size])
    text = honest[reader_wire.HEAD.size :][:json_bytes]
    blob = honest[reader_wire.HEAD.size + json_bytes :]
    if name == "garbage":
        return b"\xff" * 4000
    if name == "endless":
        return reader_wire.HEAD.pack(1 << 31, 1 << 31)
    if name == "not-json":
        return reader_wire.HEAD.pack(8, 0) + b"not json"
    if name == "deep":
        return reader_wire.HEAD.pack(200_000, 0) + b"[" * 200_000
    if name == "short-blob":
        return reader_wire.pack(reader_wire.parse_json(text), blob[:-1])
    if name in UNREADABLE:
        disk = {"kind": "disk", "reason": Reason.INTERNAL_ERROR.value, "cause": "", "hint": ""}
        return reader_wire.pack({"error": {**disk, **UNREADABLE[name]}})
    if name == "unknown-error":
        return reader_wire.pack({"error": {"kind": "refused", "reason": "because", "cause": "", "hint": ""}})
    message = reader_wire.parse_json(text)
    LIES[name](message["ok"])
    import json

    changed = json.dumps(message).encode()
    return reader_wire.HEAD.pack(len(changed), len(blob)) + changed + blob


def answer(reader: FaultyReader, fd: int, crop: CropSpec) -> bytes:
    words = os.pread(fd, 200, 0).split()
    if words[:1] == [b"lie"]:
        return lie(words[1].decode(), reader._settings, crop)
    return honest_answer(reader, fd, crop)


honest_answer = reader_child._answer
if __name__ == "__main__":
    reader_child._answer = answer  # type: ignore[assignment]
    with contextlib.suppress(KeyboardInterrupt):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.exit(reader_child.main(sys.argv[1:], FaultyReader))
