"""The watcher on real folders with a clock that moves only when told."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dfwatch.config import WatchSettings
from dfwatch.inbox import beneath
from dfwatch.inbox.completeness import Kind
from dfwatch.watcher import HINT_DELAY_S, Candidate, Watcher
from tests.watcher.conftest import FakeClock, tick, unprivileged

if TYPE_CHECKING:
    from collections.abc import Callable

QUIET_S = 3.0


@pytest.fixture
def make_watcher(inbox: Path, clock: FakeClock) -> Callable[..., Watcher]:
    def make(folder: Path = inbox, **values: object) -> Watcher:
        settings = WatchSettings(**({"quiet_s": QUIET_S, "events": "off"} | values))  # type: ignore[arg-type]
        return Watcher(str(folder), settings, threading.Event(), clock=clock)

    return make


def names(candidates: tuple[Candidate, ...]) -> list[str]:
    return [candidate.name for candidate in candidates]


def test_a_candidate_says_what_was_found_and_why(
    make_watcher: Callable[..., Watcher], inbox: Path, clock: FakeClock
) -> None:
    watcher = make_watcher()
    (inbox / "clip.mp4").write_bytes(b"hello")
    os.mkfifo(inbox / "pipe.mp4")
    first_wall_s = clock.time()
    waiting = watcher.scan()
    assert (waiting.ready, waiting.waiting, waiting.next_due_s) == ((), 2, QUIET_S)
    clock.advance(QUIET_S)
    result = watcher.scan()
    clip, pipe = result.ready
    status = (inbox / "clip.mp4").stat()
    assert (clip.name, clip.kind, clip.evidence) == ("clip.mp4", Kind.FILE, ("quiet 3.0 s", "lease"))
    assert (clip.fingerprint.size_bytes, clip.fingerprint.inode) == (5, status.st_ino)
    assert clip.first_seen_wall_time == pytest.approx(first_wall_s)
    assert clip.ready_since_s == clock.monotonic()
    assert (pipe.kind, pipe.evidence) == (Kind.FIFO, ("quiet 3.0 s",))
    assert (result.waiting, result.oldest_wait_s, result.next_due_s) == (0, 0.0, None)


def test_the_wall_clock_may_jump(make_watcher: Callable[..., Watcher], inbox: Path, clock: FakeClock) -> None:
    watcher = make_watcher()
    (inbox / "clip.mp4").write_bytes(b"x")
    watcher.scan()
    clock.wall_s -= 10**9
    clock.advance(2.9)
    assert watcher.scan().ready == ()
    clock.wall_s += 2 * 10**9
    clock.advance(0.1)
    (candidate,) = watcher.scan().ready
    # The age counts from the clock as it is now, so that a clock that was set right in between does not matter.
    assert candidate.first_seen_wall_time == pytest.approx(clock.wall_s - QUIET_S)


def test_a_file_filled_in_place_in_every_window_is_never_ready(
    make_watcher: Callable[..., Watcher], inbox: Path, clock: FakeClock
) -> None:
    watcher = make_watcher(lease="off")
    path = inbox / "clip.mp4"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 100_000)
    for chunk in range(10):
        assert watcher.scan().ready == ()
        clock.advance(QUIET_S * 0.9)
        tick()
        with path.open("r+b") as file:
            file.seek(chunk * 10_000)
            file.write(b"x" * 10_000)
    watcher.scan()
    clock.advance(QUIET_S)
    assert names(watcher.scan().ready) == ["clip.mp4"]


def test_ready_files_are_offered_again_until_they_are_gone_and_limited(
    make_watcher: Callable[..., Watcher], inbox: Path, clock: FakeClock
) -> None:
    watcher = make_watcher()
    for number in range(5):
        (inbox / f"{number}.mp4").write_bytes(b"x")
        watcher.scan()
        clock.advance(0.1)
    clock.advance(QUIET_S)
    first = watcher.scan(limit=2)
    assert (names(first.ready), first.beyond_limit, first.waiting) == (["0.mp4", "1.mp4"], 3, 0)
    assert names(watcher.scan(limit=2).ready) == ["0.mp4", "1.mp4"]
    (inbox / "0.mp4").unlink()
    assert names(watcher.scan(limit=2).ready) == ["1.mp4", "2.mp4"]
    nothing = watcher.scan(limit=0)
    assert (nothing.ready, nothing.beyond_limit, nothing.waiting) == ((), 4, 0)


def test_what_the_service_knows_is_held_back(
    make_watcher: Callable[..., Watcher], inbox: Path, clock: FakeClock
) -> None:
    watcher = make_watcher()
    for name in ("kept.mp4", "new.mp4"):
        (inbox / name).write_bytes(b"x")
    watcher.scan()
    clock.advance(QUIET_S)
    result = watcher.scan(known=lambda candidate: candidate.name == "kept.mp4", limit=1)
    assert (names(result.ready), result.held_back, result.waiting) == (["new.mp4"], 1, 0)


def test_what_the_service_knows_is_not_waiting_for_a_marker(
    make_watcher: Callable[..., Watcher], inbox: Path, clock: FakeClock
) -> None:
    watcher = make_watcher(marker=".done")
    for name in ("kept.mp4", "new.mp4"):
        (inbox / name).write_bytes(b"x")
        watcher.scan()
        clock.advance(QUIET_S)
    result = watcher.scan(known=lambda candidate: candidate.name == "kept.mp4")
    assert (result.unmarked, result.held_back, result.waiting, result.oldest_wait_s) == (1, 1, 1, QUIET_S)


def test_a_file_that_changes_between_scan_and_look_is_not_ready(
    make_watcher: Callable[..., Watcher], inbox: Path, clock: FakeClock
) -> None:
    """As on a network file system that answers lstat from its cache: opening the file shows the truth."""
    watcher = make_watcher()
    path = inbox / "clip.mp4"
    path.write_bytes(b"x")
    watcher.scan()
    clock.advance(QUIET_S)

    def meddle(_: Candidate) -> bool:
        path.write_bytes(b"longer")
        return False

    assert watcher.scan(known=meddle).ready == ()
    assert watcher.scan().ready == ()
    clock.advance(QUIET_S)
    (candidate,) = watcher.scan().ready
    assert candidate.fingerprint.size_bytes == 6


@pytest.mark.parametrize("turn_into", ["nothing", "link", "folder", "pipe"])
def test_a_file_that_turns_into_something_else_before_the_look(
    make_watcher: Callable[..., Watcher], inbox: Path, clock: FakeClock, turn_into: str
) -> None:
    watcher = make_watcher()
    path = inbox / "clip.mp4"
    path.write_bytes(b"x")
    watcher.scan()
    clock.advance(QUIET_S)

    def meddle(_: Candidate) -> bool:
        path.unlink()
        if turn_into == "link":
            path.symlink_to("/etc/passwd")
        elif turn_into == "folder":
            path.mkdir()
        elif turn_into == "pipe":
            os.mkfifo(path)
        return False

    assert watcher.scan(known=meddle).ready == ()


def test_forget_starts_the_window_anew(make_watcher: Callable[..., Watcher], inbox: Path, clock: FakeClock) -> None:
    watcher = make_watcher()
    (inbox / "clip.mp4").write_bytes(b"x")
    watcher.scan()
    clock.advance(QUIET_S)
    assert watcher.scan().ready
    watcher.forget("clip.mp4")
    watcher.forget("unknown.mp4")
    clock.advance(QUIET_S)
    assert watcher.scan().ready == ()


def test_an_unreadable_file_is_passed_on_to_be_refused(make_watcher: Callable[..., Watcher], clock: FakeClock) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "clip.mp4").write_bytes(b"x")
        (folder / "clip.mp4").chmod(0o000)
        watcher = make_watcher(folder)
        with unprivileged():
            watcher.scan()
            clock.advance(QUIET_S)
            (candidate,) = watcher.scan().ready
        assert candidate.evidence == ("quiet 3.0 s",)


def test_leases_that_may_not_be_asked_for_are_reported_and_missing_from_the_evidence(
    make_watcher: Callable[..., Watcher], clock: FakeClock
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make files of another user")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "clip.mp4").write_bytes(b"x")
        watcher = make_watcher(folder)
        assert watcher.health().lease == "unknown"
        with unprivileged():
            watcher.scan()
            clock.advance(QUIET_S)
            (candidate,) = watcher.scan().ready
    assert candidate.evidence == ("quiet 3.0 s",)
    health = watcher.health()
    assert (health.lease, health.lease_reason) == ("impossible", "Permission denied")


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO])
def test_a_file_that_cannot_be_opened_just_now_is_held_back_and_reported(
    make_watcher: Callable[..., Watcher],
    inbox: Path,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
) -> None:
    watcher = make_watcher()
    (inbox / "clip.mp4").write_bytes(b"x")
    watcher.scan()
    clock.advance(QUIET_S)
    real_open = os.open

    def failing_open(path: str, *arguments: int, **options: int) -> int:
        if path == "clip.mp4":
            raise OSError(code, os.strerror(code))
        return real_open(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(beneath.os, "open", failing_open)
        result = watcher.scan()
    assert (result.ready, result.waiting) == ((), 1)
    assert watcher.health().problems == (f"clip.mp4: {os.strerror(code)}",)
    assert names(watcher.scan().ready) == ["clip.mp4"]
    assert watcher.health().problems == ()


def test_a_file_whose_bytes_cannot_be_read_is_passed_on_and_reported(
    make_watcher: Callable[..., Watcher], inbox: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = make_watcher()
    (inbox / "clip.mp4").write_bytes(b"x")
    watcher.scan()
    clock.advance(QUIET_S)

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("dfwatch.inbox.inspection.os.pread", fail)
    assert names(watcher.scan().ready) == ["clip.mp4"]
    assert watcher.health().problems == ("clip.mp4: Input/output error",)


def test_a_file_on_which_another_holds_a_lease_is_busy(
    make_watcher: Callable[..., Watcher], inbox: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = make_watcher()
    (inbox / "clip.mp4").write_bytes(b"x")
    watcher.scan()
    clock.advance(QUIET_S)

    def refuse(*_: object) -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("dfwatch.inbox.inspection.open_file", refuse)
    result = watcher.scan()
    assert (result.ready, result.busy) == ((), 1)


def test_new_settings_hold_from_the_next_scan_on(
    make_watcher: Callable[..., Watcher], inbox: Path, clock: FakeClock
) -> None:
    watcher = make_watcher(recursive=False)
    (inbox / "sub").mkdir()
    for name in ("clip.mp4", "clip.odd", "sub/inner.mp4"):
        (inbox / name).write_bytes(b"x")
    watcher.scan()
    clock.advance(1.0)
    assert watcher.scan().waiting == 2
    watcher.update(WatchSettings(quiet_s=1.0, ignore=["*.odd"], recursive=True))
    assert watcher.wait_s() <= 0.05
    result = watcher.scan()
    assert (names(result.ready), result.ignored) == (["clip.mp4"], 2)


def test_the_next_scan_comes_when_a_window_ends_or_at_the_interval_or_after_a_hint(
    make_watcher: Callable[..., Watcher], inbox: Path, clock: FakeClock
) -> None:
    watcher = make_watcher(scan_interval_s=10.0)
    watcher.start()
    assert watcher.wait_s() == 0.0
    watcher.scan()
    assert watcher.wait_s() == 10.0
    clock.advance(5.0)
    (inbox / "clip.mp4").write_bytes(b"x")
    watcher.hint()
    assert watcher.wait_s() == pytest.approx(HINT_DELAY_S)
    clock.advance(HINT_DELAY_S)
    seen_s = clock.now_s
    watcher.scan()
    waits: list[float] = []
    while not (ready := watcher.scan().ready):
        waits.append(watcher.wait_s())
        clock.advance(waits[-1])
    assert names(ready) == ["clip.mp4"]
    assert clock.now_s - seen_s == pytest.approx(QUIET_S)
    # Brisk for a moment after the change, then one sleep until the window ends.
    assert waits[:6] == pytest.approx([0.1] * 6)
    assert len(waits) <= 9
    (inbox / "clip.mp4").unlink()
    while watcher.wait_s() < 1.0:
        clock.advance(watcher.wait_s())
        watcher.scan()
    assert watcher.wait_s() == 10.0


def test_scans_are_brisk_after_a_claim_but_not_while_ready_files_only_wait_for_room(
    make_watcher: Callable[..., Watcher], inbox: Path, clock: FakeClock
) -> None:
    watcher = make_watcher(scan_interval_s=10.0)
    (inbox / "a.mp4").write_bytes(b"x")
    watcher.scan()
    clock.advance(QUIET_S)
    assert watcher.scan().ready
    clock.advance(1.0)
    assert watcher.scan().ready
    assert watcher.wait_s() == 10.0
    (inbox / "a.mp4").unlink()
    watcher.forget("a.mp4")
    assert watcher.wait_s() == pytest.approx(0.1)


def test_a_storm_of_hints_does_not_make_a_storm_of_scans(
    make_watcher: Callable[..., Watcher], clock: FakeClock
) -> None:
    watcher = make_watcher()
    began_s = clock.now_s
    for _ in range(100):
        watcher.scan()
        watcher.hint()
        clock.advance(watcher.wait_s())
    assert clock.now_s - began_s >= 2.9


def test_a_header_is_read_once_for_each_state_of_the_file(
    make_watcher: Callable[..., Watcher], inbox: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    real_pread = os.pread

    def counting_pread(descriptor: int, count: int, offset: int) -> bytes:
        reads.append(count)
        return real_pread(descriptor, count, offset)

    watcher = make_watcher()
    (inbox / "clip.mp4").write_bytes(b"x" * 100)
    watcher.scan()
    clock.advance(QUIET_S)
    monkeypatch.setattr("dfwatch.inbox.inspection.os.pread", counting_pread)
    assert watcher.scan().ready
    assert reads
    reads.clear()
    assert watcher.scan().ready
    assert reads == []


def test_scans_that_take_long_come_seldom(inbox: Path) -> None:
    class SlowClock(FakeClock):
        def monotonic(self) -> float:
            self.now_s += 0.1
            return self.now_s

    clock = SlowClock()
    watcher = Watcher(str(inbox), WatchSettings(events="off"), threading.Event(), clock=clock)
    result = watcher.scan()
    watcher.hint()
    assert result.scan_ms >= 100
    assert watcher.wait_s() > 2 * result.scan_ms / 1000


def test_a_stuck_scan_shows_in_the_health(make_watcher: Callable[..., Watcher], inbox: Path, clock: FakeClock) -> None:
    watcher = make_watcher()
    (inbox / "clip.mp4").write_bytes(b"x")
    watcher.scan()
    clock.advance(QUIET_S)
    seen: list[float | None] = []
    watcher.scan(known=lambda _: bool(seen.append(watcher.health().scanning_since_s)))
    assert seen == [clock.now_s]
    health = watcher.health()
    assert (health.scanning_since_s, health.last_scan_at_s, health.scans) == (None, clock.now_s, 2)


def test_empty_subfolders_are_left_alone_by_default(
    make_watcher: Callable[..., Watcher], inbox: Path, clock: FakeClock
) -> None:
    watcher = make_watcher()
    (inbox / "empty").mkdir()
    watcher.scan()
    clock.advance(10**6)
    watcher.scan()
    assert (inbox / "empty").is_dir()


def test_empty_subfolders_are_removed_from_the_inside_out_where_so_configured(
    make_watcher: Callable[..., Watcher], inbox: Path, clock: FakeClock
) -> None:
    watcher = make_watcher(remove_empty_folders_s=60.0)
    (inbox / "a/b").mkdir(parents=True)
    (inbox / "used").mkdir()
    (inbox / "used/.hidden").touch()
    watcher.scan()
    clock.advance(59.0)
    watcher.scan()
    assert (inbox / "a/b").is_dir()
    clock.advance(1.0)
    watcher.scan()
    assert not (inbox / "a/b").exists()
    watcher.scan()
    assert (inbox / "a").is_dir()
    clock.advance(60.0)
    watcher.scan()
    assert sorted(path.name for path in inbox.iterdir()) == ["used"]


def test_a_subfolder_that_was_used_meanwhile_starts_its_time_anew(
    make_watcher: Callable[..., Watcher], inbox: Path, clock: FakeClock
) -> None:
    watcher = make_watcher(remove_empty_folders_s=60.0)
    (inbox / "a").mkdir()
    watcher.scan()
    clock.advance(50.0)
    tick()
    (inbox / "a/x.mp4").touch()
    (inbox / "a/x.mp4").unlink()
    watcher.scan()
    clock.advance(59.0)
    watcher.scan()
    assert (inbox / "a").is_dir()


def test_a_marker_that_cannot_be_removed_is_an_error(make_watcher: Callable[..., Watcher], inbox: Path) -> None:
    watcher = make_watcher(marker=".done")
    (inbox / "clip.mp4.done").mkdir()
    with pytest.raises(OSError, match="directory"):
        watcher.remove_marker("clip.mp4")
    make_watcher().remove_marker("clip.mp4")


def test_no_descriptor_is_left_open(make_watcher: Callable[..., Watcher], inbox: Path, clock: FakeClock) -> None:
    watcher = make_watcher(events="on")
    before = set(os.listdir("/proc/self/fd"))
    watcher.start()
    (inbox / "sub").mkdir()
    (inbox / "sub/clip.mp4").write_bytes(b"x")
    watcher.scan()
    clock.advance(QUIET_S)
    assert watcher.scan().ready
    inbox.rename(inbox.with_name("old"))
    inbox.mkdir()
    for _ in range(20):
        clock.advance(100.0)
        watcher.scan()
    watcher.stop()
    assert set(os.listdir("/proc/self/fd")) == before
