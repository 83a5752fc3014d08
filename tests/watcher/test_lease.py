"""Asking the kernel for writers must tell the truth, disturb nobody and survive a writer that comes meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from dfwatch.inbox.completeness import Writer
from dfwatch.inbox.lease import LeaseProbe
from tests.watcher.conftest import unprivileged


def ask(path: Path, probe: LeaseProbe | None = None) -> Writer:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return (probe or LeaseProbe()).writer(descriptor)
    finally:
        os.close(descriptor)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"x")
    if ask(path) is Writer.UNKNOWN:
        pytest.skip("this file system has no leases")
    return path


@pytest.mark.parametrize("mode", ["ab", "r+b"])
def test_a_writer_is_seen_while_it_has_the_file_open(clip: Path, mode: str) -> None:
    with clip.open(mode):
        assert ask(clip) is Writer.PRESENT
    assert ask(clip) is Writer.NONE


def test_a_reader_is_no_writer(clip: Path) -> None:
    with clip.open("rb"):
        assert ask(clip) is Writer.NONE


def test_the_lease_is_given_back_at_once(clip: Path) -> None:
    reading = os.open(clip, os.O_RDONLY)
    try:
        assert LeaseProbe().writer(reading) is Writer.NONE
        # With a lease still there this would be refused, and would wait without O_NONBLOCK.
        os.close(os.open(clip, os.O_WRONLY | os.O_NONBLOCK))
    finally:
        os.close(reading)


def test_where_it_may_not_ask_it_says_so() -> None:
    probe = LeaseProbe()
    with unprivileged():
        answer = ask(Path("/etc/passwd"), probe)
    assert answer is Writer.UNKNOWN
    assert probe.impossible
    assert not probe.worked


def test_writers_that_come_during_the_question_neither_wait_nor_end_the_process(clip: Path) -> None:
    """The asking process runs on its own with SIGIO and SIGURG as they are by default: either would be seen."""
    asking = """
        import os, sys, time
        from dfwatch.inbox.lease import LeaseProbe
        probe, answers = LeaseProbe(), 0
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            descriptor = os.open(sys.argv[1], os.O_RDONLY)
            for _ in range(100):
                probe.writer(descriptor)
                answers += 1
            os.close(descriptor)
        print(answers)
    """
    root = Path(__file__).parents[2]
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(asking), clip], stdout=subprocess.PIPE, cwd=root, text=True
    )
    slowest_s = 0.0
    with child:
        while child.poll() is None:
            began_s = time.monotonic()
            descriptor = os.open(clip, os.O_WRONLY)
            slowest_s = max(slowest_s, time.monotonic() - began_s)
            os.close(descriptor)
        output = child.stdout.read() if child.stdout else ""
    assert child.returncode == 0
    assert int(output) > 100
    # The kernel would break a lease that is kept after 45 seconds; here nobody waits for more than a moment.
    assert slowest_s < 5.0


def test_threads_may_ask_at_the_same_time(clip: Path) -> None:
    answers: list[Writer] = []

    def work() -> None:
        answers.extend(ask(clip) for _ in range(200))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(answers) == {Writer.NONE}
