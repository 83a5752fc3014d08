"""The pure tracker, against an oracle that keeps the whole history."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from itertools import count

import hypothesis.strategies as st
import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from dfwatch.config import WatchSettings
from dfwatch.inbox.completeness import Fingerprint, Inspection, Kind, Length, Tracker, Writer

QUIET_S, EMPTY_S, SHORT_S = 3.0, 30.0, 120.0
SETTINGS = WatchSettings(quiet_s=QUIET_S, empty_quiet_s=EMPTY_S, short_quiet_s=SHORT_S)


def fingerprint(size: int = 10, *, ctime: int = 1, mtime: int = 1, inode: int = 1, blocks: int = 8) -> Fingerprint:
    return Fingerprint(size, mtime, ctime, blocks, inode, 1, stat.S_IFREG | 0o644)


def names(settled: list) -> list[str]:
    return [tracked.name for tracked in settled]


def test_a_file_settles_when_its_window_is_over_and_not_before() -> None:
    tracker = Tracker(SETTINGS)
    first = tracker.observe({"a": fingerprint()}, 100.0)
    assert (first.settled, names(first.resting), first.next_due_s) == ([], ["a"], 103.0)
    assert tracker.observe({"a": fingerprint()}, 102.999).settled == []
    last = tracker.observe({"a": fingerprint()}, 103.0)
    assert names(last.settled) == ["a"]
    assert (last.settling, last.next_due_s, last.changed) == (0, None, False)


@pytest.mark.parametrize("attribute", Fingerprint._fields)
def test_any_change_starts_the_window_again(attribute: str) -> None:
    tracker = Tracker(SETTINGS)
    before = fingerprint()
    after = before._replace(**{attribute: getattr(before, attribute) + 1})
    tracker.observe({"a": before}, 0.0)
    assert tracker.observe({"a": after}, 2.9).changed
    assert tracker.observe({"a": after}, 5.8).settled == []
    assert names(tracker.observe({"a": after}, 5.9).settled) == ["a"]


def test_an_empty_file_waits_longer_but_a_pipe_does_not() -> None:
    tracker = Tracker(SETTINGS)
    pipe = Fingerprint(0, 1, 1, 0, 2, 1, stat.S_IFIFO | 0o644)
    snapshot = {"empty": fingerprint(0), "pipe": pipe}
    tracker.observe(snapshot, 0.0)
    assert names(tracker.observe(snapshot, QUIET_S).settled) == ["pipe"]
    assert names(tracker.observe(snapshot, EMPTY_S).settled) == ["pipe", "empty"]


def test_a_long_quiet_window_is_never_shortened_by_the_special_ones() -> None:
    tracker = Tracker(WatchSettings(quiet_s=60.0, empty_quiet_s=30.0))
    tracker.observe({"empty": fingerprint(0)}, 0.0)
    assert tracker.observe({"empty": fingerprint(0)}, 59.0).settled == []


def test_the_one_that_has_waited_longest_comes_first_and_an_endless_upload_blocks_nobody() -> None:
    tracker = Tracker(SETTINGS)
    for second in range(10):
        snapshot = {"endless": fingerprint(second + 1, ctime=second)}
        if second >= 1:
            snapshot["b"] = fingerprint()
        if second >= 2:
            snapshot["a"] = fingerprint()
        observation = tracker.observe(snapshot, float(second))
    assert names(observation.settled) == ["b", "a"]
    assert [(tracked.name, tracked.first_seen_s) for tracked in observation.resting] == [("endless", 0.0)]


def test_what_has_vanished_is_forgotten_and_starts_anew() -> None:
    tracker = Tracker(SETTINGS)
    tracker.observe({"a": fingerprint()}, 0.0)
    assert tracker.observe({}, 1.0).changed
    assert len(tracker) == 0
    tracker.observe({"a": fingerprint()}, 2.0)
    assert tracker.observe({"a": fingerprint()}, 4.9).settled == []


def test_evidence_says_what_was_asked_and_answered() -> None:
    tracker = Tracker(SETTINGS)
    snapshot = {"a": fingerprint()}
    tracker.observe(snapshot, 0.0)
    (tracked,) = tracker.observe(snapshot, 3.0).settled
    assert tracker.decide(tracked, Inspection(), 3.0) == ("quiet 3.0 s",)
    whole = Inspection(Writer.NONE, Length.WHOLE)
    assert tracker.decide(tracked, whole, 3.0) == ("quiet 3.0 s", "lease", "declared size")


def test_a_writer_holds_the_file_back_until_it_has_gone() -> None:
    tracker = Tracker(SETTINGS)
    snapshot = {"a": fingerprint()}
    tracker.observe(snapshot, 0.0)
    for now_s in (3.0, 50.0, 5000.0):
        (tracked,) = tracker.observe(snapshot, now_s).settled
        assert tracker.decide(tracked, Inspection(Writer.PRESENT), now_s) is None
        assert tracked.writer_present
    assert tracker.decide(tracked, Inspection(Writer.NONE), 5000.0) == ("quiet 3.0 s", "lease")
    assert not tracked.writer_present


def test_a_file_shorter_than_declared_waits_for_the_long_window_and_is_then_taken() -> None:
    tracker = Tracker(SETTINGS)
    snapshot = {"a": fingerprint()}
    tracker.observe(snapshot, 0.0)
    (tracked,) = tracker.observe(snapshot, 3.0).settled
    short = Inspection(Writer.NONE, Length.SHORT)
    assert tracker.decide(tracked, short, 3.0) is None
    waiting = tracker.observe(snapshot, 4.0)
    assert (waiting.settled, waiting.next_due_s) == ([], SHORT_S)
    (tracked,) = tracker.observe(snapshot, SHORT_S).settled
    assert tracker.decide(tracked, short, SHORT_S) == ("quiet 120.0 s", "lease", "shorter than declared")


def test_more_data_ends_the_wait_for_the_long_window() -> None:
    tracker = Tracker(SETTINGS)
    tracker.observe({"a": fingerprint(10)}, 0.0)
    (tracked,) = tracker.observe({"a": fingerprint(10)}, 3.0).settled
    tracker.decide(tracked, Inspection(length=Length.SHORT), 3.0)
    tracker.observe({"a": fingerprint(20)}, 5.0)
    (tracked,) = tracker.observe({"a": fingerprint(20)}, 8.0).settled
    assert not tracked.inspected


def test_a_file_that_changed_between_scan_and_look_starts_anew() -> None:
    tracker = Tracker(SETTINGS)
    tracker.observe({"a": fingerprint()}, 0.0)
    (tracked,) = tracker.observe({"a": fingerprint()}, 3.0).settled
    assert tracker.decide(tracked, Inspection(changed=True), 3.0) is None
    tracker.observe({"a": fingerprint()}, 3.5)
    assert tracker.observe({"a": fingerprint()}, 6.0).settled == []


def test_with_markers_only_marked_files_settle_and_the_long_windows_are_spared() -> None:
    tracker = Tracker(WatchSettings(quiet_s=QUIET_S, empty_quiet_s=EMPTY_S, short_quiet_s=SHORT_S, marker=".done"))
    snapshot = {"a": fingerprint(0), "b": fingerprint()}
    tracker.observe(snapshot, 0.0)
    unmarked = tracker.observe(snapshot, 1000.0)
    assert (unmarked.settled, names(unmarked.unmarked), unmarked.next_due_s) == ([], ["a", "b"], None)
    marked = tracker.observe(snapshot, 1001.0, markers={"a"})
    assert names(marked.settled) == ["a"]
    short = Inspection(length=Length.SHORT)
    assert tracker.decide(marked.settled[0], short, 1001.0) == ("quiet 3.0 s", "marker", "shorter than declared")
    tracker.observe({"c": fingerprint()}, 2000.0, markers={"c"})
    assert tracker.observe({"c": fingerprint()}, 2002.9, markers={"c"}).settled == []


def test_new_settings_hold_for_windows_that_are_running() -> None:
    tracker = Tracker(SETTINGS)
    tracker.observe({"a": fingerprint()}, 0.0)
    tracker.update(WatchSettings(quiet_s=1.0))
    assert names(tracker.observe({"a": fingerprint()}, 1.0).settled) == ["a"]


def test_kinds_are_told_apart() -> None:
    kinds = {
        stat.S_IFREG: Kind.FILE,
        stat.S_IFLNK: Kind.SYMLINK,
        stat.S_IFIFO: Kind.FIFO,
        stat.S_IFSOCK: Kind.SOCKET,
        stat.S_IFCHR: Kind.CHARACTER_DEVICE,
        stat.S_IFBLK: Kind.BLOCK_DEVICE,
        stat.S_IFDIR: Kind.DIRECTORY,
        0: Kind.OTHER,
    }
    assert {mode: fingerprint()._replace(mode=mode | 0o600).kind for mode in kinds} == kinds


def test_a_rename_and_late_allocation_keep_the_bytes_the_same() -> None:
    before = fingerprint()
    renamed = before._replace(ctime_ns=9)
    assert before.same_bytes(before._replace(blocks=99), renamed=False)
    assert before.same_bytes(renamed, renamed=True)
    assert not before.same_bytes(renamed, renamed=False)
    for attribute in ("size_bytes", "mtime_ns", "inode", "device"):
        assert not before.same_bytes(before._replace(**{attribute: 77}), renamed=True)


@dataclass
class File:
    """An inode of the model's world."""

    inode: int
    size: int = 0
    blocks: int = 0
    mtime: int = 0
    ctime: int = 0
    written_at_s: float = 0.0
    mode: int = stat.S_IFREG | 0o644

    def look(self) -> Fingerprint:
        return Fingerprint(self.size, self.mtime, self.ctime, self.blocks, self.inode, 1, self.mode)


class TrackerMachine(RuleBasedStateMachine):
    """Everything that senders do, in any order, with any time between; the oracle decides from the whole history."""

    files = Bundle("files")

    def __init__(self) -> None:
        super().__init__()
        self.tracker = Tracker(SETTINGS)
        self.world: dict[str, File] = {}
        self.history: dict[str, list[tuple[float, Fingerprint]]] = {}
        self.now_s = 0.0
        self.wall_ns = 10**18
        self.numbers = count(1)

    def touch(self, file: File, *, data: bool = True) -> None:
        self.wall_ns += 1
        file.ctime = self.wall_ns
        if data:
            file.mtime = self.wall_ns
            file.written_at_s = self.now_s

    def put(self, name: str, file: File) -> str:
        self.world[name] = file
        return name

    @rule(target=files, size=st.sampled_from([0, 0, 1, 1000]))
    def create(self, size: int) -> str:
        file = File(next(self.numbers), size, size)
        self.touch(file)
        return self.put(f"clip {file.inode}", file)

    @rule(name=files)
    def grow(self, name: str) -> None:
        if file := self.world.get(name):
            file.size += 100
            file.blocks += 1
            self.touch(file)

    @rule(name=files)
    def preallocate(self, name: str) -> None:
        if file := self.world.get(name):
            file.size = file.blocks = 10**9
            self.touch(file)

    @rule(name=files)
    def fill_in_place(self, name: str) -> None:
        if file := self.world.get(name):
            self.touch(file)

    @rule(name=files, back_ns=st.integers(0, 10**18))
    def set_times(self, name: str, back_ns: int) -> None:
        if file := self.world.get(name):
            self.touch(file, data=False)
            file.mtime = self.wall_ns - back_ns

    @rule(target=files, name=consumes(files))
    def rename(self, name: str) -> str:
        file = self.world.pop(name, None)
        if file is None:
            return name
        self.touch(file, data=False)
        return self.put(f"renamed {next(self.numbers)}", file)

    @rule(target=files, name=files)
    def hard_link(self, name: str) -> str:
        file = self.world.get(name)
        if file is None:
            return name
        self.touch(file, data=False)
        return self.put(f"link {next(self.numbers)}", file)

    @rule(name=files, other=files)
    def replace(self, name: str, other: str) -> None:
        if name in self.world and other in self.world and name != other:
            file = self.world.pop(name)
            self.touch(file, data=False)
            self.put(other, file)

    @rule(name=files)
    def delete(self, name: str) -> None:
        self.world.pop(name, None)

    @rule(jump_ns=st.integers(-(10**18), 10**18))
    def wall_clock_jumps(self, jump_ns: int) -> None:
        # Two states of a file never share a time stamp by accident; that is the clock's resolution, not the jump.
        self.wall_ns += jump_ns * 10**6 + next(self.numbers)

    @rule(seconds=st.floats(0.001, 60.0))
    def time_goes_by(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def scan(self) -> None:
        snapshot = {name: file.look() for name, file in self.world.items()}
        self.history = {name: self.history.get(name, []) for name in snapshot}
        for name, look in snapshot.items():
            self.history[name].append((self.now_s, look))
        observation = self.tracker.observe(snapshot, self.now_s)

        expected: dict[str, float] = {}
        due: list[float] = []
        for name, looks in self.history.items():
            same = [when for when, look in looks[self.last_change(looks) :]]
            window_s = EMPTY_S if looks[-1][1].size_bytes == 0 else QUIET_S
            if same[0] + window_s <= self.now_s:
                expected[name] = same[0] + window_s
            else:
                due.append(same[0] + window_s)
        assert {tracked.name for tracked in observation.settled} == set(expected)
        order = [expected[tracked.name] for tracked in observation.settled]
        assert order == sorted(order)
        assert observation.settling == len(due)
        assert observation.next_due_s == (min(due) if due else None)
        for tracked in observation.settled:
            assert self.world[tracked.name].written_at_s <= self.now_s - QUIET_S

    @rule()
    def wait_until_everything_has_settled(self) -> None:
        self.scan()
        self.now_s += EMPTY_S
        observation = self.tracker.observe({name: file.look() for name, file in self.world.items()}, self.now_s)
        assert {tracked.name for tracked in observation.settled} == set(self.world)
        for looks, file in ((self.history[name], file) for name, file in self.world.items()):
            looks.append((self.now_s, file.look()))

    @staticmethod
    def last_change(looks: list[tuple[float, Fingerprint]]) -> int:
        for index in range(len(looks) - 1, 0, -1):
            if looks[index][1] != looks[index - 1][1]:
                return index
        return 0

    @invariant()
    def memory_is_bounded_by_what_was_there(self) -> None:
        assert len(self.tracker) == len(self.history)


TestTrackerMachine = TrackerMachine.TestCase
TestTrackerMachine.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)
