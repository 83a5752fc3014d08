from __future__ import annotations

from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dfwatch.config import Settings
from dfwatch.operation.heartbeat import Heartbeat, Lateness, Watchdog
from dfwatch.service import Service
from dfwatch.systemd import Notifier
from tests.service.scripted import ScriptedReader, ScriptedScorer

if TYPE_CHECKING:
    from pathlib import Path


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class RecordingNotifier(Notifier):
    def __init__(self) -> None:
        super().__init__()
        self.fed = 0
        self.takes = True

    def watchdog(self) -> bool:
        self.fed += self.takes
        return self.takes


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def heartbeat(clock: Clock) -> Heartbeat:
    return Heartbeat(clock)


def test_a_stage_is_late_only_beyond_its_allowance(heartbeat: Heartbeat, clock: Clock) -> None:
    heartbeat.register("watcher", 10.0)
    clock.now += 10.0
    assert heartbeat.late() == ()
    clock.now += 0.5
    assert heartbeat.late() == (Lateness("watcher", 10.5, 10.0, ""),)
    heartbeat.beat("watcher")
    assert heartbeat.late() == ()


def test_idle_stages_owe_nothing_until_they_are_busy(heartbeat: Heartbeat, clock: Clock) -> None:
    heartbeat.register("reader", 5.0, idle=True)
    clock.now += 1e6
    assert heartbeat.late() == ()
    heartbeat.busy("reader")
    clock.now += 6.0
    assert [lateness.stage for lateness in heartbeat.late()] == ["reader"]
    heartbeat.idle("reader")
    assert heartbeat.late() == ()


def test_a_beat_does_not_wake_an_idle_stage(heartbeat: Heartbeat, clock: Clock) -> None:
    heartbeat.register("reader", 5.0, idle=True)
    heartbeat.beat("reader")
    clock.now += 6.0
    assert heartbeat.late() == ()


def test_a_piece_of_work_may_have_an_allowance_of_its_own(heartbeat: Heartbeat, clock: Clock) -> None:
    heartbeat.register("reader", 5.0)
    heartbeat.busy("reader", allowance_s=300.0, doing="reading job 7")
    clock.now += 299.0
    assert heartbeat.late() == ()
    heartbeat.beat("reader")
    clock.now += 299.0
    assert heartbeat.late() == ()
    clock.now += 2.0
    (late,) = heartbeat.late()
    assert str(late) == "reader silent for 301 s while reading job 7 (allowed 300 s)"
    heartbeat.busy("reader")
    clock.now += 6.0
    assert str(heartbeat.late()[0]) == "reader silent for 6 s (allowed 5 s)"


def test_the_longest_silent_comes_first(heartbeat: Heartbeat, clock: Clock) -> None:
    heartbeat.register("a", 1.0)
    heartbeat.register("b", 1.0)
    clock.now += 5.0
    heartbeat.register("c", 1.0)
    clock.now += 2.0
    heartbeat.beat("a")
    clock.now += 2.0
    assert [lateness.stage for lateness in heartbeat.late()] == ["b", "c", "a"]
    heartbeat.remove("b")
    assert [lateness.stage for lateness in heartbeat.late()] == ["c", "a"]


def test_nobody_is_late_who_ends_in_an_orderly_stop(heartbeat: Heartbeat, clock: Clock) -> None:
    """A stop has a limit of its own, and may take longer than any stage's allowance."""
    heartbeat.register("reader", 60)
    heartbeat.register("publisher", 60)
    heartbeat.close()
    clock.now += 61
    assert heartbeat.late() == ()
    heartbeat.beat("publisher")
    notifier = RecordingNotifier()
    Watchdog(heartbeat, notifier, 120, clock).feed()
    assert notifier.fed == 1


def test_a_stopping_service_expects_no_beats(tmp_path: Path) -> None:
    service = Service(
        Settings(root=str(tmp_path)),
        make_scorer=lambda _settings: ScriptedScorer(),
        make_reader=lambda _settings: ScriptedReader(),
        reload_settings=Settings,
        notifier=RecordingNotifier(),
    )
    service._heartbeat.register("watcher", 1e-9)
    assert service._heartbeat.late()
    pipeline, watcher = Mock(), Mock()
    pipeline.stop.return_value = 0
    service._end(pipeline, watcher)
    assert service._heartbeat.late() == ()


def test_unknown_stages_are_a_mistake(heartbeat: Heartbeat) -> None:
    for report in (heartbeat.beat, heartbeat.busy, heartbeat.idle):
        with pytest.raises(KeyError):
            report("nobody")
    heartbeat.remove("nobody")
    with pytest.raises(ValueError, match="allowance"):
        heartbeat.register("x", 0.0)


def test_watchdog_is_fed_only_while_nobody_is_late(heartbeat: Heartbeat, clock: Clock) -> None:
    notifier = RecordingNotifier()
    watchdog = Watchdog(heartbeat, notifier, 60.0, clock)
    heartbeat.register("watcher", 10.0)
    assert watchdog.period_s == 30.0
    assert watchdog.feed() == ()
    assert notifier.fed == 1
    clock.now += 60.0
    assert [lateness.stage for lateness in watchdog.feed()] == ["watcher"]
    assert notifier.fed == 1
    heartbeat.beat("watcher")
    assert watchdog.feed() == ()
    assert notifier.fed == 2


def test_watchdog_is_not_fed_more_often_than_needed(heartbeat: Heartbeat, clock: Clock) -> None:
    notifier = RecordingNotifier()
    watchdog = Watchdog(heartbeat, notifier, 60.0, clock)
    for _ in range(600):
        watchdog.feed()
        clock.now += 1.0
    assert notifier.fed == 600 / 15


def test_a_message_that_did_not_get_through_is_sent_again(heartbeat: Heartbeat, clock: Clock) -> None:
    notifier = RecordingNotifier()
    watchdog = Watchdog(heartbeat, notifier, 60.0, clock)
    notifier.takes = False
    watchdog.feed()
    notifier.takes = True
    clock.now += 1.0
    watchdog.feed()
    assert notifier.fed == 1


def test_without_an_interval_lateness_is_still_told(heartbeat: Heartbeat, clock: Clock) -> None:
    notifier = RecordingNotifier()
    watchdog = Watchdog(heartbeat, notifier, None, clock)
    heartbeat.register("watcher", 1.0)
    assert watchdog.period_s is None
    assert watchdog.feed() == ()
    clock.now += 2.0
    assert len(watchdog.feed()) == 1
    assert notifier.fed == 0


class WatchdogMachine(RuleBasedStateMachine):
    """Whatever the stages do: systemd's patience ends if, and only if, some stage hangs."""

    INTERVAL_S = 20.0
    STAGES = ("watcher", "reader", "detector")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.heartbeat = Heartbeat(self.clock)
        self.notifier = RecordingNotifier()
        self.watchdog = Watchdog(self.heartbeat, self.notifier, self.INTERVAL_S, self.clock)
        self.deadline: dict[str, float | None] = dict.fromkeys(self.STAGES)
        self.last_fed = self.clock.now
        for stage in self.STAGES:
            self.heartbeat.register(stage, 5.0, idle=True)

    @rule(stage=st.sampled_from(STAGES), allowance=st.sampled_from([None, 2.0, 50.0]))
    def start(self, stage: str, allowance: float | None) -> None:
        self.heartbeat.busy(stage, allowance)
        self.deadline[stage] = self.clock.now + (allowance or 5.0)

    @rule(stage=st.sampled_from(STAGES))
    def finish(self, stage: str) -> None:
        self.heartbeat.idle(stage)
        self.deadline[stage] = None

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds
        before = self.notifier.fed
        late = self.watchdog.feed()
        if self.notifier.fed > before:
            assert not late
            self.last_fed = self.clock.now
        if not late:
            assert self.clock.now - self.last_fed < self.INTERVAL_S / 2

    @invariant()
    def late_stages_are_those_beyond_their_deadline(self) -> None:
        late = {lateness.stage for lateness in self.heartbeat.late()}
        assert late == {name for name, end in self.deadline.items() if end is not None and self.clock.now > end}


TestWatchdogMachine = WatchdogMachine.TestCase
TestWatchdogMachine.settings = hypothesis_settings(max_examples=60, stateful_step_count=30, deadline=None)
