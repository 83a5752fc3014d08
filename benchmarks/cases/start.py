"""From the start of the process to READY, and what a light command takes."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.child import REPOSITORY, environment
from benchmarks.daemon import Daemon
from benchmarks.results import Result, Table, Target

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.context import Context
    from benchmarks.results import Cell

_READY_WITHIN_S = 4.0
_LIGHT_WITHIN_S = 0.3
_LIGHT = (["--version"], ["--help"], ["check-config"], ["schema"], ["sinks", "kinds"], ["model", "show"])


def run(context: Context) -> Result:
    """Measure."""
    rows: list[list[Cell]] = []
    targets = []
    for name, model in context.models.items():
        first, later = _starts(context, name, model)
        rows += [
            [f"{name}: to READY, nothing measured before", median(first), max(first)],
            [f"{name}: to READY, engine chosen by an earlier start", median(later), max(later)],
        ]
        targets.append(
            Target(
                f"{name}: from start to READY",
                f"< {_READY_WITHIN_S:g} s",
                f"{median(later):.2f} s (first start ever: {median(first):.2f} s)",
                median(later) < _READY_WITHIN_S,
            )
        )
    slowest = 0.0
    for arguments in _LIGHT:
        context.say(f"dfwatch {' '.join(arguments)}")
        found = [_command(arguments) for _ in range(1 + 2 * context.rounds)][1:]
        slowest = max(slowest, median(found))
        rows.append([f"dfwatch {' '.join(arguments)}", median(found), max(found)])
    targets.append(
        Target("the slowest light command", f"< {_LIGHT_WITHIN_S:g} s", f"{slowest:.2f} s", slowest < _LIGHT_WITHIN_S)
    )
    return Result([Table("Seconds to start", ("what", "median", "most"), rows)], targets)


def _starts(context: Context, name: str, model: Path) -> tuple[list[float], list[float]]:
    first: list[float] = []
    later: list[float] = []
    for turn in range(context.rounds):
        context.say(f"starting with {name}")
        folder = context.folder / f"start-{name}-{turn}"
        for found in (first, later):
            with Daemon(folder, {"model": {"path": str(model)}}) as daemon:
                found.append(daemon.ready_s)
    return first, later


def _command(arguments: list[str]) -> float:
    began_s = time.monotonic()
    command = [sys.executable, "-m", "dfwatch", *arguments]
    subprocess.run(command, cwd=REPOSITORY, env=environment(), stdout=subprocess.DEVNULL, check=True, timeout=60)
    return time.monotonic() - began_s
