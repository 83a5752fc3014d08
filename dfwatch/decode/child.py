"""The reader child: ``python -m dfwatch.decode.child FD`` serves one file after another over the socket at FD.

It holds nothing worth stealing, and gives up what it does not need before it sees the first byte of a file: see
``confinement``. It never imports torch. It ends when its socket is closed.
"""

from __future__ import annotations

import array
import contextlib
import faulthandler
import gc
import importlib
import json
import os
import pkgutil
import resource
import select
import signal
import socket
import sys
import threading
import traceback
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from dfwatch.config import FaceSettings, ReaderSettings
from dfwatch.decode import confinement, wire
from dfwatch.decode.wire import HEAD, ProtocolError
from dfwatch.errors import DfwatchError, MediaError, UnreadableBytesError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dfwatch.faces import FaceFinder
    from dfwatch.reading import CropSpec, Reading


class FileReader(Protocol):
    """What the child does with a file; tests put faults in its place."""

    def read(self, fd: int, crop: CropSpec) -> Reading:
        """Read one file; raises MediaError, and UnreadableBytesError where the disk fails."""
        ...


def main(arguments: list[str], make_reader: Callable[[ReaderSettings, FaceSettings], FileReader] | None = None) -> int:
    """Serve until the parent hangs up; returns the exit status.

    Args:
        arguments: The socket's descriptor and the settings as JSON.
        make_reader: Builds what reads the files; tests only.
    """
    faulthandler.enable()
    confinement.tie_to_parent()
    # The parent decides when to stop: a Ctrl-C at the terminal or a stop of the whole group is for the parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection = socket.socket(fileno=int(arguments[0]))
    options = json.loads(arguments[1])
    settings, faces = ReaderSettings(**options["reader"]), FaceSettings(**options["faces"])
    thumbnail_side_px = int(options.get("thumbnail_side_px", 0))
    make = make_reader or partial(_real_reader, thumbnail_side_px=thumbnail_side_px)
    try:
        confinement.limit_resources(settings.memory_limit_bytes)
        reader = make(settings, faces)
        report = confinement.confine()
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent has to hear of it
        sys.stderr.write(f"{_in_one_line(error)}\n")
        return 1
    hello = {"decoder": _decoder(), "confinement": report.held, "skipped": report.skipped}
    connection.sendall(wire.pack({"hello": hello}))
    threading.Thread(target=_end_with_parent, args=(connection,), daemon=True, name="hang-up").start()
    with contextlib.suppress(ConnectionError, EOFError):
        serve(connection, reader, settings.cpu_limit_s)
    return 0


def _in_one_line(error: Exception) -> str:
    text = str(error) if isinstance(error, DfwatchError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split()).removesuffix(":")


def _real_reader(settings: ReaderSettings, faces: FaceSettings, *, thumbnail_side_px: int) -> FileReader:
    import cv2  # noqa: PLC0415 - heavy; a fault-injecting reader does without

    from dfwatch.decode.media import MediaReader  # noqa: PLC0415
    from dfwatch.faces import FaceFinder  # noqa: PLC0415

    # Cores are shared out among processes; and confinement wants a single thread while it is set up.
    cv2.setNumThreads(1)
    finder = FaceFinder(faces)
    _preload(finder, faces)
    return MediaReader(settings, faces, finder, thumbnail_side_px=thumbnail_side_px)


def _preload(finder: FaceFinder, faces: FaceSettings) -> None:
    """Load now what libraries load on first use, because a confined process can open no file any more."""
    import av  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    for module in pkgutil.walk_packages(av.__path__, "av."):
        if not module.name.endswith(("__main__", "datasets")):
            importlib.import_module(module.name)
    finder.find(np.zeros((64, 64, 3), np.uint8), faces.min_score)


def _decoder() -> str:
    module = sys.modules.get("dfwatch.decode.media")
    return str(getattr(module, "DECODER", "none"))


def serve(connection: socket.socket, reader: FileReader, cpu_limit_s: float) -> None:
    """Answer requests until the parent hangs up.

    Raises:
        ConnectionError: The parent is gone.
        EOFError: The parent hung up.
    """
    while True:
        message, fd = receive_request(connection)
        try:
            confinement.limit_cpu_time(cpu_limit_s)
            answer = _answer(reader, fd, wire.decode_request(message))
        finally:
            os.close(fd)
        connection.sendall(answer)
        del answer
        gc.collect()


def _answer(reader: FileReader, fd: int, crop: CropSpec) -> bytes:
    try:
        return wire.encode_reading(reader.read(fd, crop))
    except MediaError as error:
        return wire.encode_error(error)
    except UnreadableBytesError as error:
        return wire.encode_disk_failure(error)
    except MemoryError:
        return wire.encode_out_of_memory()
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent has to hear of it
        if type(error).__name__ == "error" and "Insufficient memory" in str(error):
            return wire.encode_out_of_memory()
        where = traceback.extract_tb(error.__traceback__)[-1]
        return wire.encode_failure(f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})")


def receive_request(connection: socket.socket) -> tuple[dict[str, Any], int]:
    """The next request and its descriptor.

    Raises:
        EOFError: The parent hung up.
        ProtocolError: There is no descriptor, or the request is no request.
    """
    room = socket.CMSG_SPACE(array.array("i").itemsize)
    head, ancillary, _, _ = connection.recvmsg(HEAD.size, room)
    if not head:
        raise EOFError
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if not fds:
        raise ProtocolError("a request without a descriptor")
    head += receive_exactly(connection, HEAD.size - len(head))
    json_bytes, _ = wire.unpack_head(head, 0)
    return wire.parse_json(receive_exactly(connection, json_bytes)), fds[0]


def receive_exactly(connection: socket.socket, count: int) -> bytes:
    """``count`` bytes.

    Raises:
        EOFError: The other side hung up before.
    """
    parts = []
    while count:
        data = connection.recv(min(count, 1 << 20))
        if not data:
            raise EOFError
        parts.append(data)
        count -= len(data)
    return b"".join(parts)


def _end_with_parent(connection: socket.socket) -> None:
    """End at once when the parent hangs up, even in the middle of a file."""
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLHUP | select.POLLRDHUP)
    poller.poll()
    os._exit(0)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(main(sys.argv[1:]))
