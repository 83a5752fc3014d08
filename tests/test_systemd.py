from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from dfwatch import systemd
from dfwatch.systemd import Notifier, watchdog_interval_s

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Manager:
    """The receiving end: what systemd would be."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(5)
        self.notifier = Notifier.from_environment({"NOTIFY_SOCKET": address})

    def received(self) -> list[str]:
        return self.socket.recv(65536).decode().split("\n")


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@dfwatch-test-{os.getpid()}"
    manager = Manager(address)
    yield manager
    manager.socket.close()


def test_every_message(manager: Manager) -> None:
    notifier = manager.notifier
    assert notifier.ready("3 waiting")
    assert manager.received() == ["READY=1", "STATUS=3 waiting"]
    assert notifier.ready()
    assert manager.received() == ["READY=1"]
    assert notifier.status("on cpu")
    assert manager.received() == ["STATUS=on cpu"]
    assert notifier.watchdog()
    assert manager.received() == ["WATCHDOG=1"]
    assert notifier.reloading(123)
    assert manager.received() == ["RELOADING=1", "MONOTONIC_USEC=123"]
    assert notifier.stopping("bye")
    assert manager.received() == ["STOPPING=1", "STATUS=bye"]
    assert notifier.extend_timeout(1.5)
    assert manager.received() == ["EXTEND_TIMEOUT_USEC=1500000"]


def test_reloading_carries_the_monotonic_clock(manager: Manager) -> None:
    before = time.monotonic()
    manager.notifier.reloading()
    _, stamp = manager.received()
    name, microseconds = stamp.split("=")
    assert name == "MONOTONIC_USEC"
    assert before - 1e-5 <= int(microseconds) / 1e6 <= time.monotonic()


def test_status_stays_one_short_line_whatever_a_file_is_called(manager: Manager) -> None:
    manager.notifier.status(os.fsdecode(b"judging a\nSTOPPING=1\n\x1b[2J\xff.mp4") + "x" * 5000)
    (line,) = manager.received()
    assert line.startswith(r"STATUS=judging a\nSTOPPING=1\n\x1b[2J\xff.mp4xxx")
    assert len(line) <= 410


def test_empty_status_is_no_message(manager: Manager) -> None:
    assert not manager.notifier.status("")


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1234", "/nowhere/at/all"])
def test_without_a_socket_messages_are_dropped(address: str) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address} if address else {})
    assert not notifier.ready("x")
    assert not notifier.watchdog()
    assert not notifier.stopping()


def test_a_manager_that_does_not_read_does_not_hang_the_service(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "_SEND_TIMEOUT_S", 0.05)
    sent = 0
    while manager.notifier.watchdog():
        sent += 1
        assert sent < 100_000
    assert sent > 0
    assert manager.received() == ["WATCHDOG=1"]
    assert manager.notifier.watchdog()


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "77"}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "78"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
    ],
)
def test_watchdog_interval(environment: dict[str, str], interval: float | None) -> None:
    assert watchdog_interval_s(environment, pid=77) == interval


def test_watchdog_interval_of_this_process() -> None:
    assert watchdog_interval_s({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}) == 2.0


def test_a_process_finds_its_manager_in_its_environment(tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    code = "from dfwatch.systemd import Notifier, watchdog_interval_s as w; Notifier.from_environment().ready(str(w()))"
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "4000000"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
    assert manager.received() == ["READY=1", "STATUS=4.0"]
    manager.socket.close()
