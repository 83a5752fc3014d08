"""The running service, as its lock, its health file and systemd know it."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from dfwatch import __version__
from dfwatch.doctor.finding import Finding, fail, ok, warn
from dfwatch.operation import health
from dfwatch.printable import printable
from dfwatch.storage.rootlock import holder_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dfwatch.storage.layout import Layout

UNIT = "dfwatch.service"
_PROPERTIES = ("LoadState", "ActiveState", "SubState", "Result", "NRestarts", "UnitFileState", "NeedDaemonReload")
_TIMEOUT_S = 10


def running(layout: Layout) -> Finding:
    """Whether a daemon runs on this root, and how it says it is."""
    name = "daemon"
    pid = holder_of(layout.lock)
    if pid is None:
        return ok(name, "none runs on this root")
    told = health.read(layout.health, of=pid) if pid else None
    if told is None:
        return ok(name, f"running (pid {pid}), has not said yet how it is")
    found = f"running (pid {pid}) since {told.get('started_at')}, {told.get('model')} on {told.get('device')}"
    if told.get("late"):
        return fail(
            name,
            f"{found}; no progress: {', '.join(map(str, told['late']))}",
            "systemctl restart dfwatch, then look into its log",
        )
    if told.get("version") != __version__:
        return warn(
            name,
            f"{found}; it is version {told.get('version')}, installed is {__version__}",
            "systemctl restart dfwatch",
        )
    if told.get("paused"):
        return fail(
            name, f"{found}; intake paused: {printable(str(told['paused']))}", "remove the reason; it goes on by itself"
        )
    if told.get("deaf"):
        return warn(name, f"{found}; no file events: {printable(str(told['deaf']))}", "files are found by scanning")
    return ok(name, found)


def systemd(booted: str = "/run/systemd/system") -> Finding:
    """What systemd says of the unit."""
    if not _runs_systemd(booted):
        return ok("systemd", "this machine does not run systemd; nothing starts the service by itself")
    result = _show(*_PROPERTIES)
    if result.returncode != 0:
        return warn("systemd", f"systemctl: {printable(result.stderr.strip())}", "ask as root")
    return judge_unit(_properties(result.stdout))


def unit_lacks_network(booted: str = "/run/systemd/system") -> bool:
    """Whether the unit is installed and keeps the service from every network."""
    if not _runs_systemd(booted):
        return False
    state = _properties(_show("LoadState", "PrivateNetwork").stdout)
    return state.get("LoadState") == "loaded" and state.get("PrivateNetwork") == "yes"


def _runs_systemd(booted: str) -> bool:
    return os.path.isdir(booted) and shutil.which("systemctl") is not None


def _show(*properties: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemctl", "show", UNIT, f"--property={','.join(properties)}"],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )


def _properties(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def judge_unit(state: Mapping[str, str]) -> Finding:
    """A finding from the properties that ``systemctl show`` prints."""
    name = "systemd"
    if state.get("LoadState") == "not-found":
        return ok(name, "the unit is not installed (`dfwatch install-units` does that)")
    if state.get("LoadState") != "loaded":
        return fail(
            name, f"the unit is {state.get('LoadState')}", f"systemctl status {UNIT}; systemd-analyze verify {UNIT}"
        )
    active = f"{state.get('ActiveState')} ({state.get('SubState')})"
    if state.get("ActiveState") == "failed":
        return fail(
            name, f"failed: {state.get('Result')}", f"journalctl -u {UNIT} -n 50, then systemctl restart {UNIT}"
        )
    if state.get("NeedDaemonReload") == "yes":
        return warn(name, f"{active}; the unit's file changed", f"systemctl daemon-reload && systemctl restart {UNIT}")
    restarts = int(state.get("NRestarts") or 0)
    if restarts:
        return warn(name, f"{active}; started again {restarts} time(s) by itself", f"journalctl -u {UNIT} -p warning")
    if state.get("UnitFileState") != "enabled":
        return warn(name, f"{active}; not enabled, so it does not start with the machine", f"systemctl enable {UNIT}")
    return ok(name, f"{active}, enabled")
