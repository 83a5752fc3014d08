"""One reader child as its parent holds it: the process, the socket to it, its standard error, and why it died."""

from __future__ import annotations

import array
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dfwatch.decode import wire
from dfwatch.decode.wire import HEAD, ProtocolError
from dfwatch.errors import ReaderStartError
from dfwatch.reasons import Reason

if TYPE_CHECKING:
    from dfwatch.config import ReaderSettings

START_LIMIT_S = 60.0
STDERR_TAIL_BYTES = 4096
_LONGEST_WORDS = 500
# With these words Python's faulthandler begins: a stack and a list of modules, which say less than the signal does.
_FAULT = "Fatal Python error: "
# The child's libraries would otherwise start one thread for each core, which their memory limit does not allow for.
_CHILD_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENCV_LOG_LEVEL": "SILENT"}
# All that the child sees of this process's environment; the rest may hold secrets.
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME")


def _child_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | _CHILD_ENVIRONMENT


class HungUpError(Exception):
    """The child closed its end: it is dead or dying."""


class TimedOutError(Exception):
    """The wall-clock limit has passed."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What a child says of itself once it is ready.

    Attributes:
        decoder: Name and version of its decoder.
        confinement: Measures in force.
        skipped: Measures that this machine does not have, each with its reason.
    """

    decoder: str
    confinement: tuple[str, ...]
    skipped: tuple[str, ...]


class ReaderProcess:
    """A running child and the parent's end of its socket; it is up and has said hello once this object exists.

    Args:
        module: Module that runs as the child.
        options: The child's settings, as JSON.

    Attributes:
        process: The process.
        hello: What it said of itself.
        dirty: A message was sent that has no answer yet, so that the next answer would belong to this one.

    Raises:
        ReaderStartError: It did not come up.
    """

    def __init__(self, module: str, options: str) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._socket = ours
        self._stderr = read_end
        self.dirty = False
        try:
            with theirs:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-m", module, str(theirs.fileno()), options],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=write_end,
                    pass_fds=(theirs.fileno(),),
                    env=_child_environment(),
                    process_group=0,
                )
        except BaseException:
            ours.close()
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        ours.setblocking(False)  # noqa: FBT003 - the standard library's own signature
        self.hello = self._wait_for_hello()

    def _wait_for_hello(self) -> Hello:
        try:
            message, _ = self.receive(time.monotonic() + START_LIMIT_S, 0)
            return Hello(*wire.decode_hello(message))
        except (HungUpError, TimedOutError, ProtocolError, OSError) as error:
            self.process.kill()
            self.process.wait()
            last_words = self.last_words()
            self.kill()
            raise ReaderStartError(
                "starting",
                "the reader process",
                last_words or f"it did not come up ({type(error).__name__.strip('_')})",
                reason=Reason.READER_CRASHED,
                hint="dfwatch doctor shows what is missing",
            ) from error

    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self.process.poll() is None

    def send(self, message: bytes, fd: int, deadline: float) -> None:
        """Send a message with a descriptor.

        Raises:
            TimedOutError: ``deadline`` (on the monotonic clock) has passed.
            OSError: The child is gone.
        """
        self.dirty = True
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        self._wait(select.POLLOUT, deadline)
        sent = self._socket.sendmsg([message], rights)
        while sent < len(message):
            self._wait(select.POLLOUT, deadline)
            sent += self._socket.send(message[sent:])

    def receive(self, deadline: float, max_blob_bytes: int) -> tuple[dict[str, Any], bytes]:
        """The next message: its JSON object and its bytes.

        Raises:
            TimedOutError: ``deadline`` (on the monotonic clock) has passed.
            HungUpError: The child is gone.
            ProtocolError: What came is no message, or has more than ``max_blob_bytes``.
        """
        json_bytes, blob_bytes = wire.unpack_head(self._exactly(HEAD.size, deadline), max_blob_bytes)
        message = wire.parse_json(self._exactly(json_bytes, deadline))
        blob = self._exactly(blob_bytes, deadline)
        self.dirty = False
        return message, blob

    def _exactly(self, count: int, deadline: float) -> bytes:
        data = bytearray(count)
        view, got = memoryview(data), 0
        while got < count:
            self._wait(select.POLLIN, deadline)
            try:
                more = self._socket.recv_into(view[got:])
            except BlockingIOError:
                continue
            if more == 0:
                raise HungUpError
            got += more
        view.release()
        return bytes(data)

    def _wait(self, event: int, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimedOutError
        poller = select.poll()
        poller.register(self._socket, event)
        if not poller.poll(left * 1000.0):
            raise TimedOutError

    def cause_of_death(self, settings: ReaderSettings) -> tuple[str, Reason]:
        """Why the process hung up, in words and as a code."""
        try:
            status = self.process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            return "it hung up but did not end", Reason.READER_CRASHED
        words = self.last_words()
        if status >= 0:
            return words or f"it ended with status {status}", Reason.READER_CRASHED
        name = _signal_name(-status)
        if -status == signal.SIGXCPU:
            return f"it used more than {settings.cpu_limit_s:g} s of processor time", Reason.READER_TIMEOUT
        if -status == signal.SIGKILL:
            return "it was killed, most likely for want of memory", Reason.READER_OUT_OF_MEMORY
        return f"it died by {name}" + (f": {words}" if words else ""), Reason.READER_CRASHED

    def last_words(self) -> str:
        """The last line that the process wrote to its standard error, what ``faulthandler`` added aside."""
        data = b""
        with contextlib.suppress(OSError):
            while part := os.read(self._stderr, 65536):
                data = (data + part)[-STDERR_TAIL_BYTES:]
        said, _, _ = data.decode("utf-8", "replace").partition(_FAULT)
        lines = [" ".join(line.split()) for line in said.splitlines()]
        return next((line for line in reversed(lines) if line), "")[:_LONGEST_WORDS]

    def kill(self) -> None:
        """End the process, wait for it, and close what belongs to it. May be called more than once."""
        self.process.kill()
        self.process.wait()
        if self._stderr >= 0:
            os.close(self._stderr)
            self._stderr = -1
        # A read in progress in another thread sees the hang-up and raises.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
