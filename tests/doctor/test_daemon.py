from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from dfwatch import __version__
from dfwatch.doctor import daemon
from dfwatch.doctor.finding import Health
from dfwatch.operation import health
from dfwatch.storage.layout import Layout
from dfwatch.storage.rootlock import RootLock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(str(tmp_path))
    made.create()
    return made


@pytest.fixture
def lock(layout: Layout) -> Iterator[RootLock]:
    held = RootLock(layout.lock)
    yield held
    held.release()


def report(layout: Layout, **changed: Any) -> None:
    facts: dict[str, Any] = {
        "pid": os.getpid(),
        "version": __version__,
        "started_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z",
        "model": "m 1",
        "device": "cpu",
        "device_reason": "",
        "precision": "float32",
    }
    health.write(layout.health, health.Health(**{**facts, **changed}))


def test_no_daemon(layout: Layout) -> None:
    assert daemon.running(layout).found == "none runs on this root"
    report(layout)
    assert daemon.running(layout).found == "none runs on this root"


@pytest.mark.usefixtures("lock")
def test_daemon_that_starts(layout: Layout) -> None:
    assert f"pid {os.getpid()}" in daemon.running(layout).found
    report(layout, pid=1)
    assert "has not said yet" in daemon.running(layout).found


@pytest.mark.usefixtures("lock")
@pytest.mark.parametrize(
    ("changed", "expected", "word"),
    [
        ({}, Health.OK, "m 1 on cpu"),
        ({"late": ("reader silent for 9 s",)}, Health.FAIL, "no progress: reader silent"),
        ({"version": "0.0.1"}, Health.WARN, "it is version 0.0.1"),
        ({"paused": "disk\n"}, Health.FAIL, r"intake paused: disk\n"),
        ({"deaf": "no watches left"}, Health.WARN, "no file events: no watches left"),
    ],
)
def test_daemon_that_runs(layout: Layout, changed: dict[str, Any], expected: Health, word: str) -> None:
    report(layout, **changed)
    finding = daemon.running(layout)
    assert finding.health is expected
    assert word in finding.found


UNIT = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "SubState": "running",
    "Result": "success",
    "NRestarts": "0",
    "UnitFileState": "enabled",
    "NeedDaemonReload": "no",
}


@pytest.mark.parametrize(
    ("changed", "expected", "word"),
    [
        ({}, Health.OK, "active (running), enabled"),
        ({"LoadState": "not-found"}, Health.OK, "install-units"),
        ({"LoadState": "bad-setting"}, Health.FAIL, "bad-setting"),
        ({"ActiveState": "failed", "Result": "watchdog"}, Health.FAIL, "failed: watchdog"),
        ({"NeedDaemonReload": "yes"}, Health.WARN, "daemon-reload"),
        ({"NRestarts": "3"}, Health.WARN, "3 time(s)"),
        ({"UnitFileState": "disabled"}, Health.WARN, "systemctl enable"),
    ],
)
def test_state_of_the_unit(changed: dict[str, str], expected: Health, word: str) -> None:
    finding = daemon.judge_unit({**UNIT, **changed})
    assert finding.health is expected
    assert word in f"{finding.found} {finding.advice}"


def test_machine_without_systemd(tmp_path: Path) -> None:
    finding = daemon.systemd(str(tmp_path / "not-there"))
    assert finding.health is Health.OK
    assert "does not run systemd" in finding.found


@pytest.mark.parametrize(
    ("script", "expected", "word"),
    [
        ("printf '%s\\n' LoadState=loaded ActiveState=failed Result=exit-code", Health.FAIL, "exit-code"),
        ("echo 'Failed to connect to bus' >&2; exit 1", Health.WARN, "Failed to connect to bus"),
    ],
)
def test_systemctl_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: Health, word: str
) -> None:
    program = tmp_path / "systemctl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    finding = daemon.systemd(str(tmp_path))
    assert finding.health is expected
    assert word in finding.found
