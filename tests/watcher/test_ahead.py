"""A digest that was begun before the claim is of the bytes that are claimed, or there is none."""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dfwatch.config import WatchSettings
from dfwatch.inbox import ahead
from dfwatch.inbox.completeness import Fingerprint, Writer
from dfwatch.inbox.lease import LeaseProbe
from dfwatch.intake import Job
from dfwatch.storage.digest import Digest
from dfwatch.storage.layout import DroppedName
from dfwatch.watcher import Watcher
from tests.watcher.conftest import Bench, FakeClock, tick

if TYPE_CHECKING:
    from collections.abc import Callable

    from dfwatch.watcher import Candidate

LARGE = ahead.LEAST_BYTES + 12345
QUIET_S = 1.0


@pytest.fixture
def bench(make_bench: Callable[..., Bench], tmp_path: Path) -> Bench:
    probe = tmp_path / "probe"
    probe.write_bytes(b"x")
    with probe.open("rb") as stream:
        if LeaseProbe().writer(stream.fileno()) is not Writer.NONE:
            pytest.skip("this file system has no leases")
    return make_bench(quiet_s=QUIET_S)


def large_file(path: Path, first: bytes = b"beginning") -> None:
    with path.open("wb") as stream:
        stream.write(first)
        stream.truncate(LARGE)


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def ready(bench: Bench) -> Candidate:
    return bench.until(lambda result: bool(result.ready)).ready[0]


def begun(bench: Bench, name: str) -> Digest | None:
    tracked = bench.watcher._tracker.get(name)
    return None if tracked is None else bench.watcher._digests.of(name, tracked.fingerprint)


def test_a_large_file_is_hashed_while_its_window_runs(bench: Bench) -> None:
    large_file(bench.inbox / "clip.mp4")
    bench.until(lambda _: begun(bench, "clip.mp4") is not None)
    candidate = ready(bench)
    assert candidate.digest is not None
    assert candidate.digest.result() == sha256(bench.inbox / "clip.mp4")
    assert "lease" in candidate.evidence


def test_small_files_are_not(bench: Bench) -> None:
    (bench.inbox / "clip.mp4").write_bytes(bytes(1000))
    assert ready(bench).digest is None


def test_without_leases_nothing_is_hashed_before_the_claim(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(quiet_s=QUIET_S, lease="off")
    large_file(bench.inbox / "clip.mp4")
    assert ready(bench).digest is None


def test_nothing_is_begun_while_a_writer_has_the_file_open(bench: Bench) -> None:
    path = bench.inbox / "clip.mp4"
    large_file(path)
    with path.open("r+b"):
        bench.until(lambda result: result.busy == 1)
        assert begun(bench, "clip.mp4") is None


def test_nothing_is_begun_while_the_file_is_mapped_for_writing(bench: Bench) -> None:
    path = bench.inbox / "clip.mp4"
    large_file(path)
    with path.open("r+b") as stream:
        mapping = mmap.mmap(stream.fileno(), 4096)
    # Its descriptor is closed; only the mapping is left.
    with mapping:
        bench.until(lambda result: result.busy == 1)
        assert begun(bench, "clip.mp4") is None


@pytest.mark.parametrize("change", ["appended", "overwritten", "overwritten, and its time set back", "replaced"])
def test_a_digest_is_void_once_the_file_changes(bench: Bench, change: str) -> None:
    path = bench.inbox / "clip.mp4"
    large_file(path)
    bench.until(lambda _: begun(bench, "clip.mp4") is not None)
    before = path.stat()
    tick()
    if change == "replaced":
        large_file(bench.inbox / ".new", b"another")
        (bench.inbox / ".new").rename(path)
    else:
        with path.open("ab" if change == "appended" else "r+b") as stream:
            stream.write(b"changed")
    if change.endswith("set back"):
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    candidate = ready(bench)
    if change == "replaced":
        # Another file altogether: it may be hashed ahead as well.
        assert candidate.digest is None or candidate.digest.result() == sha256(path)
    else:
        # And not once more, or a slow sender would have all be hashed at each of its pauses.
        assert candidate.digest is None


@pytest.mark.parametrize("moment", ["before the claim", "after the claim"])
def test_a_claimed_file_whose_times_were_set_back_is_hashed_anew(tmp_path: Path, moment: str) -> None:
    """Through a second name of it, say, which neither the lease nor the rename stands in the way of."""
    path, source = tmp_path / "clip.mp4", tmp_path / "source"
    path.write_bytes(b"as it was sent")

    def rewrite(there: Path) -> None:
        times = there.stat()
        tick()
        with there.open("r+b") as stream:
            stream.write(b"AS")
        os.utime(there, ns=(times.st_atime_ns, times.st_mtime_ns))

    with path.open("rb") as stream:
        digest = Digest(stream.fileno())
    if moment == "before the claim":
        tick()
        path.write_bytes(b"another length altogether")
    path.rename(source)
    claimed = Fingerprint.from_stat(source.stat())
    job = Job("1", DroppedName.of("clip.mp4"), str(tmp_path), "", claimed=claimed, digest=digest)
    assert job.digest_of(claimed) is (None if moment == "before the claim" else digest)
    rewrite(source)
    assert job.digest_of(Fingerprint.from_stat(source.stat())) is None


def test_when_it_stops_it_stops_reading(bench: Bench) -> None:
    large_file(bench.inbox / "clip.mp4")
    bench.until(lambda _: begun(bench, "clip.mp4") is not None)
    digest = begun(bench, "clip.mp4")
    bench.watcher.stop()
    assert digest is not None
    assert digest._given_up
    assert begun(bench, "clip.mp4") is None


class Senders(RuleBasedStateMachine):
    """Files that are written, rewritten, mapped, replaced and back-dated, in any order, at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.inbox = self.folder / "inbox"
        self.inbox.mkdir()
        self.path = self.inbox / "clip.mp4"
        self.clock = FakeClock()
        self.watcher = Watcher(str(self.inbox), WatchSettings(quiet_s=1.0, events="off"), _NoFlag(), clock=self.clock)
        self.least = (ahead.LEAST_BYTES, ahead.LEAST_REST_S)
        ahead.LEAST_BYTES, ahead.LEAST_REST_S = 1, 0.3  # type: ignore[misc]
        self.open: list[int] = []
        self.ready: tuple[Candidate, ...] = ()

    def teardown(self) -> None:
        ahead.LEAST_BYTES, ahead.LEAST_REST_S = self.least  # type: ignore[misc]
        for fd in self.open:
            os.close(fd)
        self.watcher.stop()
        shutil.rmtree(self.folder)

    @initialize()
    def send(self) -> None:
        # Above a MiB, so that a thread hashes it.
        self.path.write_bytes(os.urandom(5) + bytes(1024 * 1024))

    @rule(times=st.integers(1, 6))
    def scan(self, times: int) -> None:
        tick()
        for _ in range(times):
            self.clock.advance(0.35)
            self.ready = self.watcher.scan().ready

    @rule(offset=st.integers(0, 1024 * 1024), back_dated=st.booleans())
    def overwrite(self, offset: int, back_dated: bool) -> None:
        times = self.path.stat()
        with self.path.open("r+b") as stream:
            stream.seek(offset)
            stream.write(os.urandom(3))
        if back_dated:
            os.utime(self.path, ns=(times.st_atime_ns, times.st_mtime_ns))
        self.ready = ()

    @rule()
    def append(self) -> None:
        with self.path.open("ab") as stream:
            stream.write(b"more")
        self.ready = ()

    @rule()
    def replace(self) -> None:
        other = self.folder / "other"
        shutil.copy2(self.path, other)
        with other.open("r+b") as stream:
            stream.write(os.urandom(5))
        os.utime(other, ns=(self.path.stat().st_atime_ns, self.path.stat().st_mtime_ns))
        other.rename(self.path)
        self.ready = ()

    @precondition(lambda self: not self.open)
    @rule()
    def hold_open(self) -> None:
        self.open.append(os.open(self.path, os.O_RDWR))
        self.ready = ()

    @precondition(lambda self: self.open)
    @rule(writes=st.booleans())
    def let_go(self, writes: bool) -> None:
        fd = self.open.pop()
        if writes:
            os.pwrite(fd, os.urandom(3), 7)
        os.close(fd)
        self.ready = ()

    @invariant()
    def a_digest_is_of_what_is_there(self) -> None:
        for candidate in self.ready:
            if candidate.digest is not None:
                assert candidate.digest.result() == sha256(self.path)


class _NoFlag:
    def set(self) -> None:
        pass


TestSenders = Senders.TestCase
TestSenders.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
