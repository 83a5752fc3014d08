"""The child's loop over a real socket, in this process: one answer for each request, whatever the reader does."""

from __future__ import annotations

import array
import os
import socket
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dfwatch.decode import child as reader_child
from dfwatch.decode import confinement
from dfwatch.decode import wire as reader_wire
from dfwatch.decode.wire import HEAD, ProtocolError
from dfwatch.errors import RefusedError
from dfwatch.reading import CropSpec, Reading, SampledFrame, Sampling, VideoInfo
from dfwatch.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CROP = CropSpec(size_px=8)


def empty_reading() -> Reading:
    return Reading(
        VideoInfo("c", "d", 32, 32, "p", None, None, 0),
        Sampling(20, 1, 1, 0, "sequential", (SampledFrame(0, 0.0),)),
        (),
        np.empty((0, 8, 8, 3), np.uint8),
        "test",
    )


class Scripted:
    """Does one thing for each file."""

    def __init__(self, *acts: Callable[[int], Reading]) -> None:
        self._acts = list(acts)

    def read(self, fd: int, crop: CropSpec) -> Reading:
        assert crop == CROP
        return self._acts.pop(0)(fd)


def fail(error: BaseException) -> Callable[[int], Reading]:
    def act(fd: int) -> Reading:
        raise error

    return act


@pytest.fixture(autouse=True)
def no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confinement, "limit_cpu_time", lambda seconds: None)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The parent's end and the child's."""
    near, far = socket.socketpair()
    near.settimeout(10)
    with near, far:
        yield near, far


def serve(far: socket.socket, *acts: Callable[[int], Reading]) -> threading.Thread:
    def run() -> None:
        with pytest.raises((EOFError, ConnectionError)):
            reader_child.serve(far, Scripted(*acts), 10.0)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def ask(near: socket.socket) -> dict[str, object]:
    fd = os.open(os.devnull, os.O_RDONLY)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    near.sendmsg([reader_wire.encode_request(CROP)], rights)
    os.close(fd)
    json_bytes, blob_bytes = reader_wire.unpack_head(reader_child.receive_exactly(near, HEAD.size), 1 << 20)
    message = reader_wire.parse_json(reader_child.receive_exactly(near, json_bytes))
    reader_child.receive_exactly(near, blob_bytes)
    return message


def test_every_outcome_has_its_answer(pair: tuple[socket.socket, socket.socket]) -> None:
    readable: list[bool] = []

    def look(fd: int) -> Reading:
        readable.append(os.read(fd, 1) == b"")
        return empty_reading()

    class error(Exception):  # noqa: N801, N818 - as OpenCV's is called
        pass

    thread = serve(
        pair[1],
        look,
        fail(RefusedError("reading", "", "why", reason=Reason.TOO_LONG)),
        fail(MemoryError()),
        fail(error("(-4:Insufficient memory) Failed to allocate")),
        fail(ZeroDivisionError("a defect")),
        look,
    )
    answers = [ask(pair[0]) for _ in range(6)]
    pair[0].shutdown(socket.SHUT_RDWR)
    thread.join(10)

    assert "ok" in answers[0]
    assert "ok" in answers[5]
    assert readable == [True, True]
    kinds = [answer["error"]["kind"] for answer in answers[1:5]]  # type: ignore[index]
    assert kinds == ["refused", "memory", "memory", "internal"]
    assert "ZeroDivisionError: a defect (act, line" in answers[4]["error"]["cause"]  # type: ignore[index]


def test_a_request_without_a_descriptor_is_none(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].sendall(reader_wire.encode_request(CROP))
    with pytest.raises(ProtocolError, match="descriptor"):
        reader_child.receive_request(pair[1])


def test_a_parent_that_hangs_up(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].sendall(b"\0\0\0\5")
    pair[0].close()
    with pytest.raises(EOFError):
        reader_child.receive_exactly(pair[1], 8)
    with pytest.raises(EOFError):
        reader_child.receive_request(pair[1])
