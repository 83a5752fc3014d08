"""Starts processes by fork, from a process that is fit to be forked: ``python -m tests.reliability.launcher``.

A fork copies one thread and every lock in the state it is in, so that a process with other threads (OpenMP's, torch's)
must never be forked: its children hang or spin. pytest has such threads. The launcher is a fresh interpreter with one
thread, which has imported what the service needs and nothing else; it forks at each order, so that a service starts in
milliseconds and can be killed as often as wanted.

Everything dies with pytest: the kernel kills the launcher when pytest ends, and its children when it does.
"""

from __future__ import annotations

import functools
import gc
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
_DEADLINE_S = 60.0
_LONGEST_ORDER = 1 << 20


class Launcher:
    """The tests' side: the launcher process, and orders to it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(_DEADLINE_S)
        # Numerical libraries start threads when they are imported, unless they are told that one is enough.
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.reliability.launcher", str(theirs.fileno())],
                cwd=REPOSITORY,
                env={**os.environ, **single, "PYTHONPATH": str(REPOSITORY)},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._answer()

    def start(self, run: Callable[[], int], log: Path) -> int:
        """Run a picklable function in a new process that writes to ``log``; returns the process's id."""
        # Pickled by itself: what it needs is imported by the new process, not by the launcher.
        return int(self._ask("start", pickle.dumps(run), str(log)))

    def ended(self, pid: int) -> int | None:
        """Exit status of a process (negative: the signal), once; None while it runs."""
        status = self._ask("ended", pid)
        return None if status is None else int(status)

    def kill(self, pid: int) -> None:
        """Kill a process, and wait until it is gone."""
        # Not reaped before ``ended`` says so, the number is that of no other process.
        os.kill(pid, signal.SIGKILL)
        until_s = time.monotonic() + _DEADLINE_S
        while self.ended(pid) is None:
            if time.monotonic() > until_s:
                raise AssertionError(f"process {pid} does not die of SIGKILL")
            time.sleep(0.001)

    def close(self) -> None:
        """End the launcher, and with it whatever it started."""
        self._socket.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)
        self._process.kill()
        self._process.wait()

    def _ask(self, *order: Any) -> Any:
        self._socket.sendall(pickle.dumps(order))
        return self._answer()

    def _answer(self) -> Any:
        data = self._socket.recv(_LONGEST_ORDER)
        if not data:
            raise AssertionError(f"the launcher ended with status {self._process.wait(timeout=10)}")
        return pickle.loads(data)


@functools.cache
def shared() -> Launcher:
    """The launcher of this test run; ``close_shared`` ends it."""
    return Launcher()


def close_shared() -> None:
    """End the launcher of this test run, if there is one."""
    if shared.cache_info().currsize:
        shared().close()
        shared.cache_clear()


# -- the launcher process ----------------------------------------------------------------------------------------------


def _start(run: bytes, log: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        status = _become(run, log)
    except BaseException:  # noqa: BLE001 - the forked process ends here, whatever happens
        traceback.print_exc()
    finally:
        os._exit(status)


def _become(run: bytes, log: str) -> int:
    import faulthandler

    from dfwatch.decode.confinement import tie_to_parent

    launcher = os.getppid()
    tie_to_parent()
    if os.getppid() != launcher:
        return 1  # it died before it could be tied to
    signal.signal(signal.SIGINT, signal.default_int_handler)
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.closerange(3, 1024)
    sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115 - for the life of the process
    faulthandler.enable()  # a test that waits in vain sends SIGABRT, to see where all threads are
    return int(pickle.loads(run)())


def _ended(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return None if found == 0 else os.waitstatus_to_exitcode(status)


def main() -> int:
    from dfwatch.decode.confinement import tie_to_parent

    tie_to_parent()
    # Ctrl-C is for pytest, whose tests then still end their processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orders = socket.socket(fileno=int(sys.argv[1]))
    import tests.reliability.served  # noqa: F401 - once here instead of in each process

    threads = os.listdir("/proc/self/task")
    assert len(threads) == 1, f"not fit to be forked: {len(threads)} threads"
    assert "torch" not in sys.modules
    gc.collect()
    gc.freeze()
    orders.sendall(pickle.dumps("ready"))
    does: dict[str, Callable[..., Any]] = {"start": _start, "ended": _ended}
    while data := orders.recv(_LONGEST_ORDER):
        what, *arguments = pickle.loads(data)
        orders.sendall(pickle.dumps(does[what](*arguments)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
