"""``dfwatch status --watch`` at a real pseudo-terminal beside a real daemon."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from typing import Self

from dfwatch.console.dashboard import Screen
from dfwatch.storage.stamps import utc_now
from tests.service.daemon import REPOSITORY, Daemon, wait_for

# The first process of a session makes the terminal its own, so that Ctrl-C becomes a signal.
_AT_ITS_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from dfwatch.cli import main
sys.exit(main())
"""
_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A program at a terminal of its own."""

    def __init__(self, daemon: Daemon, *arguments: str, rows: int = 40, columns: int = 100) -> None:
        self._master, slave = pty.openpty()
        self.resize(rows, columns)
        environment = {**os.environ, "TERM": "xterm-256color", "COVERAGE_PROCESS_START": ""}
        environment.pop("NO_COLOR", None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _AT_ITS_TERMINAL, "status", "--config", str(daemon.config), *arguments],
            cwd=REPOSITORY,
            env=environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.output = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self) -> str:
        while select.select([self._master], [], [], 0.05)[0]:
            try:
                part = os.read(self._master, 65536)
            except OSError:
                break
            if not part:
                break
            self.output += part.decode()
        return self.output

    def frame(self) -> str:
        """The last whole frame, without codes."""
        frames = re.findall(r"\x1b\[\?2026h(.*?)\x1b\[\?2026l", self.read(), re.DOTALL)
        return _CODES.sub("", frames[-1]) if frames else ""

    def interrupt(self) -> int:
        os.write(self._master, b"\x03")
        status = self.process.wait(timeout=20)
        self.read()
        return status


def test_it_follows_a_daemon_until_ctrl_c(daemon: Daemon) -> None:
    daemon.start()
    with Terminal(daemon, "--watch", "0.2") as terminal:
        wait_for(lambda: "dfwatch runs" in terminal.frame(), "the first frame")
        daemon.drop("clip.mp4", "fake")
        daemon.drop("later.mp4", "slow 3")
        wait_for(lambda: re.search(r"FAKE +\S+ +clip\.mp4", terminal.frame()), "the verdict is shown")
        wait_for(lambda: re.search(r"reading .* later\.mp4", terminal.frame()), "the file in work is shown")
        frame = terminal.frame()
        assert "test-model 1 on cpu" in frame
        assert "FAKE 1" in frame
        assert terminal.interrupt() == 0
        # The first screen and the cursor are back, and nothing was ever cleared while it ran.
        assert terminal.output.endswith("\x1b[?25h\x1b[?1049l")
        assert terminal.output.count("\x1b[2J") == 1


def test_a_smaller_window_is_drawn_at_once_and_never_overflows(daemon: Daemon) -> None:
    daemon.start()
    with Terminal(daemon, "--watch", "60") as terminal:
        wait_for(lambda: "dfwatch runs" in terminal.frame(), "the first frame")
        terminal.resize(6, 40)
        wait_for(lambda: len(terminal.frame().split("\r\n")) <= 6, "it is drawn anew long before a minute is over")
        frame = terminal.frame()
        assert max(map(len, frame.split("\r\n"))) <= 40, frame
        assert terminal.interrupt() == 0


def test_without_a_daemon_it_says_so(daemon: Daemon) -> None:
    with Terminal(daemon, "--watch") as terminal:
        wait_for(lambda: "not running" in terminal.frame(), "it says that nothing runs")
        assert terminal.interrupt() == 0


def test_for_a_program_it_prints_a_line_each_time(daemon: Daemon) -> None:
    daemon.start()
    command = [sys.executable, "-m", "dfwatch", "status", "--config", str(daemon.config), "--watch", "0.1"]
    with subprocess.Popen([*command, "--json"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        reports = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
    assert all(report["running"] for report in reports)
    piped = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=20)
    assert piped.returncode == 2
    assert "--json" in piped.stderr


def test_every_line_fits_whatever_the_names() -> None:
    report = {
        "root": "/srv/" + "ふ" * 200,
        "running": True,
        "pid": 1,
        "daemon": {
            "version": "1",
            "started_at": utc_now(),
            "updated_at": utc_now(),
            "model": "m",
            "device": "cuda:0",
            "precision": "float16",
            "inbox_ready": 3,
            "oldest_ready_s": 9.0,
            "scan_age_s": 4.0,
            "inbox_waiting": 2,
            "oldest_wait_s": 100.0,
            "running": 2,
            "delayed": 0,
            "queues": {"to_score": 1, "to_publish": 0},
            "paused": "full",
            "late": ["scorer silent"],
            "deaf": "",
            "blocked": ["a\x1b[31mb: no permission"],
            "device_memory_bytes": {"allocated": 2**30, "total": 2**37},
            "disk_free_bytes": 10**12,
            "reader_restarts": 2,
            "stages": {"decode": {"median_ms": 100.0, "slowest_ms": 30_000.0}},
            "sinks": [
                {"sink": "webhook", "pending": 4, "dead": 1, "oldest_s": 50.0},
                {"sink": "switched off", "pending": 7, "dead": 0, "oldest_s": 0.0},
            ],
            "watch": {"problems": [], "last_scan_ms": 3.0, "events": "on"},
        },
        "counts": dict.fromkeys(("done", "failed", "rejected", "quarantined"), 1),
        "verdicts": {"FAKE": 1},
        "in_work": [{"name": "ふ" * 300, "state": "reading", "attempts": 2, "age_s": 3.0}] * 50,
        "recent": [
            {
                "name": "x" * 300,
                "status": "done",
                "verdict": "REAL",
                "p_fake": 0.1,
                "reason": None,
                "updated_at": utc_now(),
            }
        ]
        * 50,
    }
    for height in (5, 24, 60):
        for coloured in (False, True):
            lines = Screen(coloured=coloured).lines(report, [0.0, 1.0, 60.0], 80, height)
            assert len(lines) <= height
            for line in lines:
                bare = _CODES.sub("", line)
                assert "\x1b" not in bare, "a name must not steer the terminal"
                assert sum(2 if "\u3000" < c < "\uff60" else 1 for c in bare) <= 80
    shown = "\n".join(Screen(coloured=False).lines(report, [60.0], 100, 60))
    assert "webhook: 4 pending, oldest for 50 s" in shown
    assert re.search("switched off: 7 pending$", shown, re.MULTILINE)
    assert "looked 4 s ago, scan took 3 ms" in shown
    assert "1 given up" in shown
    assert "1.0 GiB of 128.0 GiB used" in shown
