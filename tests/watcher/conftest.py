from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from dfwatch.config import WatchSettings
from dfwatch.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dfwatch.watcher import Candidate, ScanResult

QUIET_S = 0.25
DEADLINE_S = 20.0
NOBODY = 65534


class FakeClock:
    """Monotonic and wall time that move only when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.wall_s = 1_700_000_000.0

    def monotonic(self) -> float:
        return self.now_s

    def time(self) -> float:
        return self.wall_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds
        self.wall_s += seconds


def tick() -> None:
    """Wait until files written from now on get another time stamp: its clock ticks every 1 to 10 ms."""
    time.sleep(0.012)


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Give up root's rights for a moment, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


class Bench:
    """An inbox, a watcher on it, and the service's loop: wait, scan, claim."""

    def __init__(self, inbox: Path, **settings: object) -> None:
        self.inbox = inbox
        values: dict[str, object] = {"quiet_s": QUIET_S, "empty_quiet_s": 2 * QUIET_S, "short_quiet_s": 4 * QUIET_S}
        self.settings = WatchSettings(**(values | settings))  # type: ignore[arg-type]
        self.wake = threading.Event()
        self.watcher = Watcher(str(inbox), self.settings, self.wake)
        self.claimed: dict[str, bytes] = {}
        self.evidence: dict[str, tuple[str, ...]] = {}
        self.claimed_at_s: dict[str, float] = {}

    def step(self, within_s: float) -> ScanResult | None:
        """Wait for the next scan that is due, but no longer than ``within_s``."""
        self.wake.wait(min(self.watcher.wait_s(), within_s))
        self.wake.clear()
        return self.watcher.scan() if self.watcher.wait_s() <= 0 else None

    def until(self, wanted: Callable[[ScanResult], bool], within_s: float = DEADLINE_S) -> ScanResult:
        """Scan, claiming nothing, until a result is as wanted."""
        last: ScanResult | None = None
        deadline_s = time.monotonic() + within_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            result = self.step(left_s)
            if result is not None and wanted(result):
                return result
            last = result or last
        pytest.fail(f"not seen within {within_s} s; the last scan: {last}; {self.watcher.health()}")

    def claim(self, candidate: Candidate) -> None:
        path = self.inbox / candidate.name
        self.claimed_at_s[candidate.name] = time.monotonic()
        self.claimed[candidate.name] = path.read_bytes()
        self.evidence[candidate.name] = candidate.evidence
        path.unlink()
        self.watcher.forget(candidate.name)

    def run(self, finished: Callable[[], bool], within_s: float = DEADLINE_S) -> None:
        """Run the service's loop, claiming what is ready, until ``finished``."""
        deadline_s = time.monotonic() + within_s
        while not finished():
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                pytest.fail(f"not finished within {within_s} s; claimed {len(self.claimed)}; {self.watcher.health()}")
            result = self.step(min(left_s, 0.1))
            for candidate in result.ready if result else ():
                self.claim(candidate)


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def make_bench(inbox: Path) -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def make(**settings: object) -> Bench:
        bench = Bench(inbox, **settings)
        benches.append(bench)
        bench.watcher.start()
        return bench

    yield make
    for bench in benches:
        bench.watcher.stop()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
