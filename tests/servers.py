"""Server processes on the loopback address, each with a temporary folder, started and killed by tests."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import programs

DEADLINE_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server(ABC):
    """One server process. It dies with the test's process, however that ends.

    Args:
        user: Whom to run it as where the tests run as root; the server refuses to be root.
    """

    def __init__(self, user: str | None = None) -> None:
        self.port = free_port()
        self.as_user: dict[str, Any] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="dfwatch-test-"))
        if user is not None and os.geteuid() == 0:
            try:
                entry = pwd.getpwnam(user)
            except KeyError:
                pytest.skip(f"there is no user {user} to run the server as")
            os.chown(self.folder, entry.pw_uid, entry.pw_gid)
            self.as_user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """What to run; it must stay in the foreground."""

    def ready(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1.0):
            return True
        return False

    def start(self) -> None:
        setpriv = programs.find("setpriv")
        before = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*before, *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **self.as_user,
            )
        until_s = time.monotonic() + DEADLINE_S
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > until_s:
                raise AssertionError(f"the server did not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL for the server and its children."""
        if self.process is not None:
            family = [psutil.Process(self.process.pid)]
            family += family[0].children(recursive=True)
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self.process.wait(timeout=DEADLINE_S)
            psutil.wait_procs(family, timeout=DEADLINE_S)
            self.process = None

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
