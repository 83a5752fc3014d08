"""Events are a hint: whatever happens to them, the scans go on, and the health says how it stands."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from watchdog.observers.inotify import InotifyObserver

from dfwatch.config import WatchSettings
from dfwatch.inbox.filesystems import Mount
from dfwatch.watcher import Watcher
from tests.watcher.conftest import Bench, FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    MakeBench = Callable[..., Bench]

LONG_S = 60.0
"""An interval so long that only an event can make a scan come in time."""


def hears(bench: Bench, name: str) -> bool:
    """Whether a new file makes the next scan come soon."""
    bench.watcher.scan()
    (bench.inbox / name).write_bytes(b"x")
    deadline_s = time.monotonic() + 5
    while time.monotonic() < deadline_s:
        if bench.watcher.wait_s() < 1.0:
            return True
        bench.wake.wait(0.05)
        bench.wake.clear()
    return False


def watchdog_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if type(thread).__module__.startswith("watchdog.")]


@pytest.fixture
def broken_observer(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[OSError]]:
    """While the list holds an error, watchdog's observer fails to start with it."""
    errors: list[OSError] = []
    start = InotifyObserver.start

    def fail(self: InotifyObserver) -> None:
        if errors:
            raise errors[0]
        start(self)

    monkeypatch.setattr(InotifyObserver, "start", fail)
    yield errors
    assert watchdog_threads() == []


def test_an_event_makes_the_scan_come_sooner(make_bench: MakeBench) -> None:
    bench = make_bench(scan_interval_s=LONG_S)
    assert bench.watcher.health().events == "on"
    assert hears(bench, "clip.mp4")


def test_an_event_in_a_new_subfolder_is_heard(make_bench: MakeBench, inbox: Path) -> None:
    bench = make_bench(scan_interval_s=LONG_S, quiet_s=LONG_S, empty_quiet_s=LONG_S)
    (inbox / "new").mkdir()
    bench.until(lambda result: result.folders == 2)
    time.sleep(0.2)
    assert hears(bench, "new/clip.mp4")


def test_a_storm_of_events_wakes_the_service_once_for_each_scan(make_bench: MakeBench, inbox: Path) -> None:
    bench = make_bench(scan_interval_s=LONG_S)
    bench.watcher.scan()
    (inbox / "first.mp4").touch()
    assert bench.wake.wait(5)
    bench.wake.clear()
    for number in range(200):
        (inbox / f"{number}.mp4").touch()
    assert not bench.wake.wait(0.3)
    assert bench.watcher.scan().waiting == 201


def test_the_inbox_is_replaced_by_another_folder(make_bench: MakeBench, inbox: Path) -> None:
    bench = make_bench(scan_interval_s=LONG_S)
    inbox.rename(inbox.with_name("old"))
    inbox.mkdir()
    (inbox / "early.mp4").write_bytes(b"x")
    assert bench.watcher.scan().waiting == 1
    health = bench.watcher.health()
    assert (health.events, health.deaf, health.restarts) == ("on", False, 1)
    assert hears(bench, "late.mp4")


def test_the_inbox_is_deleted_and_made_again_perhaps_with_the_same_inode(make_bench: MakeBench, inbox: Path) -> None:
    bench = make_bench(scan_interval_s=LONG_S)
    inbox.rmdir()
    inbox.mkdir()
    deadline_s = time.monotonic() + 5
    while bench.watcher.health().restarts == 0:
        assert time.monotonic() < deadline_s
        bench.watcher.scan()
        time.sleep(0.01)
    assert hears(bench, "clip.mp4")


def test_a_missing_inbox_is_reported_and_its_return_is_noticed(inbox: Path, clock: FakeClock) -> None:
    watcher = Watcher(str(inbox), WatchSettings(), threading.Event(), clock=clock)
    inbox.rmdir()
    watcher.start()
    try:
        assert "No such file" in watcher.scan().problem
        health = watcher.health()
        assert (health.events, health.deaf, health.deaf_reason) == ("failed", True, "the inbox cannot be opened")
        assert health.problems
        inbox.mkdir()
        assert watcher.scan().problem == ""
        health = watcher.health()
        assert (health.events, health.deaf, health.problems) == ("on", False, ())
    finally:
        watcher.stop()


def test_what_was_unseen_while_the_inbox_was_away_waits_anew(inbox: Path, clock: FakeClock) -> None:
    watcher = Watcher(str(inbox), WatchSettings(quiet_s=3.0, events="off"), threading.Event(), clock=clock)
    (inbox / "clip.mp4").write_bytes(b"x")
    watcher.scan()
    clock.advance(2.0)
    inbox.rename(inbox.with_name("away"))
    watcher.scan()
    inbox.with_name("away").rename(inbox)
    clock.advance(2.0)
    assert watcher.scan().ready == ()
    clock.advance(3.0)
    assert [candidate.name for candidate in watcher.scan().ready] == ["clip.mp4"]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "inotify watch limit reached"), OSError(errno.EMFILE, "inotify instance limit reached")],
    ids=["watches", "instances"],
)
def test_inotify_limits_leave_the_scans(
    broken_observer: list[OSError], inbox: Path, clock: FakeClock, error: OSError
) -> None:
    broken_observer.append(error)
    watcher = Watcher(str(inbox), WatchSettings(quiet_s=3.0), threading.Event(), clock=clock)
    watcher.start()
    try:
        health = watcher.health()
        assert (health.events, health.events_reason, health.deaf) == ("failed", error.strerror, True)
        (inbox / "clip.mp4").write_bytes(b"x")
        watcher.scan()
        clock.advance(3.0)
        assert len(watcher.scan().ready) == 1
        broken_observer.clear()
        clock.advance(600.0)
        watcher.scan()
        health = watcher.health()
        assert (health.events, health.events_reason, health.deaf) == ("on", "", False)
    finally:
        watcher.stop()


def test_failing_events_are_tried_again_at_ever_longer_intervals(
    broken_observer: list[OSError], inbox: Path, clock: FakeClock
) -> None:
    tries: list[float] = []

    class Counting(InotifyObserver):
        def start(self) -> None:
            tries.append(clock.now_s)
            super().start()

    broken_observer.append(OSError(errno.ENOSPC, "inotify watch limit reached"))
    watcher = Watcher(str(inbox), WatchSettings(), threading.Event(), clock=clock, observer_factory=Counting)
    watcher.start()
    for _ in range(3600):
        clock.advance(1.0)
        watcher.scan()
    watcher.stop()
    gaps = [later - earlier for earlier, later in pairwise(tries)]
    assert len(tries) < 25
    assert gaps[1:11] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]


def test_subfolders_beyond_the_watch_limit_are_reported(inbox: Path) -> None:
    class RootOnly(InotifyObserver):
        """What watchdog does, in silence, when the limit is reached below the root."""

        def schedule(self, *args: object, recursive: bool = False, **options: object) -> object:
            return super().schedule(*args, recursive=False, **options)  # type: ignore[arg-type]

    for name in ("a", "b"):
        (inbox / name).mkdir()
    watcher = Watcher(str(inbox), WatchSettings(), threading.Event(), observer_factory=RootOnly)
    watcher.start()
    try:
        watcher.scan()
        health = watcher.health()
        assert health.events == "on"
        assert health.events_reason.startswith("only 1 of 3 folders are watched")
    finally:
        watcher.stop()


def test_an_observer_whose_thread_dies_is_replaced(inbox: Path) -> None:
    observers: list[InotifyObserver] = []

    def make() -> InotifyObserver:
        observers.append(InotifyObserver())
        return observers[-1]

    watcher = Watcher(str(inbox), WatchSettings(), threading.Event(), observer_factory=make)
    watcher.start()
    try:
        (emitter,) = observers[0].emitters
        emitter.stop()
        emitter.join()
        watcher.scan()
        assert len(observers) == 2
        assert watcher.health().restarts == 1
    finally:
        watcher.stop()
    assert watchdog_threads() == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_of_watchdog_that_dies_of_an_exception_is_noticed(
    inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its watches stay, and the observer says that it is alive."""
    observers: list[InotifyObserver] = []

    def make() -> InotifyObserver:
        observers.append(InotifyObserver())
        return observers[-1]

    watcher = Watcher(str(inbox), WatchSettings(), threading.Event(), observer_factory=make)
    watcher.start()
    try:
        (emitter,) = observers[0].emitters

        def die(_: object) -> None:
            raise RuntimeError("as a fault of watchdog would")

        monkeypatch.setattr(emitter, "queue_event", die)
        (inbox / "clip.mp4").touch()
        emitter.join(10)
        assert observers[0].is_alive()
        watcher.scan()
        assert len(observers) == 2
    finally:
        watcher.stop()


def test_an_observer_that_will_not_stop_does_not_hold_the_service(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfwatch.inbox.hints._STOP_TIMEOUT_S", 0.05)
    release = threading.Event()

    class Stubborn(InotifyObserver):
        def on_thread_stop(self) -> None:
            release.wait(20)
            super().on_thread_stop()

    watcher = Watcher(str(inbox), WatchSettings(), threading.Event(), observer_factory=Stubborn)
    watcher.start()
    began_s = time.monotonic()
    watcher.stop()
    assert time.monotonic() - began_s < 10
    release.set()
    for thread in watchdog_threads():
        thread.join(10)


def test_network_file_systems_are_only_scanned(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfwatch.watcher.mount_of", lambda _: Mount("/", "nfs4", "server:/export"))
    watcher = Watcher(str(inbox), WatchSettings(quiet_s=0.0), threading.Event())
    watcher.start()
    (inbox / "clip.mp4").write_bytes(b"x")
    (candidate,) = watcher.scan().ready
    # A lease says nothing about a writer on another machine, so it is no evidence.
    assert candidate.evidence == ("quiet 0.0 s",)
    health = watcher.health()
    assert (health.events, health.deaf, health.shared, health.file_system, health.lease) == (
        "off", False, True, "nfs4", "off",
    )  # fmt: skip
    assert "nfs4" in health.events_reason
    assert watchdog_threads() == []


@pytest.fixture
def mounted(inbox: Path) -> Iterator[Callable[[], None]]:
    """Mounts an empty file system over the inbox; undone at the end."""
    mounts = 0

    def mount() -> None:
        nonlocal mounts
        done = subprocess.run(["mount", "-t", "tmpfs", "none", inbox], capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot mount here: {done.stderr.decode().strip()}")
        mounts += 1

    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    yield mount
    while os.path.ismount(inbox):
        subprocess.run(["umount", inbox], check=True)


def test_a_file_system_is_mounted_over_the_inbox_and_taken_away_again(
    make_bench: MakeBench, inbox: Path, mounted: Callable[[], None]
) -> None:
    bench = make_bench(scan_interval_s=LONG_S)
    mounted()
    bench.watcher.scan()
    assert (bench.watcher.health().restarts, bench.watcher.health().file_system) == (1, "tmpfs")
    assert hears(bench, "on the new one.mp4")
    # The watch must not keep the file system busy.
    subprocess.run(["umount", inbox], check=True)
    bench.watcher.scan()
    assert bench.watcher.health().file_system != "tmpfs"
    assert (bench.watcher.health().events, bench.watcher.health().deaf) == ("failed", True)
    deadline_s = time.monotonic() + 10
    while bench.watcher.health().events != "on":
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
        bench.watcher.scan()
    assert hears(bench, "clip.mp4")


def test_the_same_file_system_is_unmounted_and_mounted_again(
    inbox: Path, tmp_path: Path, mounted: Callable[[], None]
) -> None:
    """Device and inode are the same afterwards, and yet the old watch is dead: only the kernel's list tells."""
    mounted()
    subprocess.run(["umount", inbox], check=True)
    image = tmp_path / "image"
    made = subprocess.run(
        ["mkfs.ext4", "-q", image, "4M"],
        capture_output=True,
        check=False,
        env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"},
    )
    if made.returncode:
        pytest.skip("cannot make a file system image here")
    mount = ["mount", "-o", "loop", image, inbox]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount an image here")
    bench = Bench(inbox, scan_interval_s=LONG_S)
    bench.watcher.start()
    try:
        bench.watcher.scan()
        subprocess.run(["umount", inbox], check=True)
        subprocess.run(mount, check=True)
        time.sleep(0.1)
        bench.watcher.scan()
        assert bench.watcher.health().restarts == 1
        assert hears(bench, "clip.mp4")
    finally:
        bench.watcher.stop()
