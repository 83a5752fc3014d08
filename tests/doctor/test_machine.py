from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from dfwatch.config import Settings
from dfwatch.doctor import machine
from dfwatch.doctor.finding import Health
from dfwatch.inbox.filesystems import Mount
from dfwatch.storage.layout import Layout

if TYPE_CHECKING:
    from pathlib import Path

WATCH = Settings().watch
READER = Settings().reader
PLENTY = {"max_user_watches": 500_000, "max_user_instances": 512, "max_queued_events": 16384}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(str(tmp_path))
    made.create()
    return made


@pytest.mark.parametrize(
    ("limits", "health", "word"),
    [
        (PLENTY, Health.OK, "500000 watches"),
        ({**PLENTY, "max_user_watches": 4096}, Health.WARN, "max_user_watches"),
        ({**PLENTY, "max_user_instances": 64}, Health.WARN, "max_user_instances"),
        ({}, Health.WARN, "gives none"),
    ],
)
def test_inotify(layout: Layout, limits: dict[str, int], health: Health, word: str) -> None:
    finding = machine.inotify(layout, WATCH, limits)
    assert finding.health is health
    assert word in finding.found + finding.advice


def test_inotify_counts_the_folders_of_the_inbox(layout: Layout) -> None:
    for number in range(9):
        os.mkdir(os.path.join(layout.inbox, str(number)))
    few = {**PLENTY, "max_user_watches": 10}
    assert "10 folder(s)" in machine.inotify(layout, WATCH, few).found
    assert "1 folder(s)" in machine.inotify(layout, replace(WATCH, recursive=False), few).found


def test_inotify_where_it_is_not_used(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "switched off" in machine.inotify(layout, replace(WATCH, events="off"), {}).found
    monkeypatch.setattr(machine, "mount_of", lambda path: Mount("/m", "nfs4", "server"))
    finding = machine.inotify(layout, WATCH, {})
    assert finding.health is Health.OK
    assert "network" in finding.found


def test_inotify_of_this_machine(layout: Layout) -> None:
    assert "watches" in machine.inotify(layout, replace(WATCH, events="on")).found


@pytest.mark.parametrize(
    ("total_gib", "available_gib", "health"),
    [(16, 8, Health.OK), (16, 1, Health.WARN), (3, 2, Health.WARN), (1, 0.9, Health.FAIL)],
)
def test_memory(tmp_path: Path, total_gib: float, available_gib: float, health: Health) -> None:
    meminfo = tmp_path / "meminfo"
    kib = 1024**2
    meminfo.write_text(
        f"MemTotal: {int(total_gib * kib)} kB\nMemFree: 1 kB\nMemAvailable: {int(available_gib * kib)} kB\n"
    )
    finding = machine.memory(READER, str(meminfo))
    assert finding.health is health
    assert f"of {total_gib:.1f} GiB" in finding.found


def test_memory_of_this_machine() -> None:
    assert "GiB available of" in machine.memory(READER).found


@pytest.mark.parametrize(
    ("kind", "value", "health", "word"),
    [
        (None, 0, Health.OK, "open files"),
        ("RLIMIT_NOFILE", 100, Health.WARN, "100 open files"),
        ("RLIMIT_FSIZE", 1 << 20, Health.WARN, "file size"),
        ("RLIMIT_CPU", 1000, Health.WARN, "processor time"),
    ],
)
def test_limits_of_a_process(kind: str | None, value: int, health: Health, word: str) -> None:
    # Set by the process itself: code of ours between fork and exec would run in a copy of a process with threads.
    code = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (2000, 4000));"
    if kind:
        hard = 4000 if kind == "RLIMIT_NOFILE" else value
        code += f"resource.setrlimit(resource.{kind}, ({value}, {hard}));"
    code += "from dfwatch.doctor import machine; f = machine.limits(); print(f.health, f.found)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.startswith(health)
    assert word in result.stdout


def test_clock() -> None:
    year_2100 = 4_102_444_800.0
    assert machine.clock(0.0).health is Health.FAIL
    assert machine.clock(year_2100, synchronised=True).health is Health.OK
    assert machine.clock(year_2100, synchronised=False).health is Health.WARN
    assert machine.clock(year_2100, synchronised=True).found.startswith("2100-01-01T00:00:00+00:00")


def test_clock_of_this_machine() -> None:
    assert "synchronised" in machine.clock().found
