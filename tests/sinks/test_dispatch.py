"""The outbox and the dispatcher, through a real journal; sinks that fail on command."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, ClassVar

import pytest
import structlog

from dfwatch.config import SinkSettings, setting
from dfwatch.errors import ConfigError, SinkError, SinkGoneError, StorageError
from dfwatch.jobs import dispatcher as dispatcher_module
from dfwatch.jobs import pauses as pauses_module
from dfwatch.jobs.dispatcher import Dispatcher
from dfwatch.jobs.outbox import Outbox
from dfwatch.journal import Journal
from dfwatch.sinks import Message, Sink
from dfwatch.sinks.testing import message, publish, wait_until
from dfwatch.storage.stamps import utc_now


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeSettings(SinkSettings):
    type: str = setting("fake", doc="")
    retry_delay_s: float = setting(0.05, doc="")
    retry_longest_s: float = setting(0.2, doc="")
    variant: int = setting(0, doc="")


class FakeSink(Sink):
    settings_type: ClassVar[type[SinkSettings]] = FakeSettings
    taken: ClassVar[dict[str, list[str]]] = {}
    behave: ClassVar[dict[str, Callable[[Message], None]]] = {}
    running: ClassVar[dict[str, int]] = {}

    def __init__(self, settings: FakeSettings) -> None:
        self.name = settings.name

    def deliver(self, message: Message) -> None:
        self.running[self.name] = self.running.get(self.name, 0) + 1
        assert self.running[self.name] == 1, "two deliveries to one sink at once"
        try:
            self.behave.get(self.name, lambda _message: None)(message)
            self.taken.setdefault(self.name, []).append(message.key)
        finally:
            self.running[self.name] -= 1

    def probe(self) -> str:
        return "fake"


@pytest.fixture(autouse=True)
def fake_sinks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "build", FakeSink)
    for shared in (FakeSink.taken, FakeSink.behave, FakeSink.running):
        monkeypatch.setattr(FakeSink, next(name for name, value in vars(FakeSink).items() if value is shared), {})


class Bench:
    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "journal.sqlite3")
        self.journal = Journal(self.path)
        self.outbox = Outbox(self.journal)
        self.dispatcher: Dispatcher | None = None

    def start(self, *settings: SinkSettings) -> Dispatcher:
        self.dispatcher = Dispatcher(self.path, settings)
        self.dispatcher.start()
        return self.dispatcher

    def publish(self, numbers: range, *sinks: str) -> list[str]:
        for number in numbers:
            publish(self.journal, message(number), sinks)
        if self.dispatcher is not None:
            self.dispatcher.wake()
        return [message(number).key for number in numbers]

    def taken(self, sink: str, keys: list[str]) -> None:
        wait_until(lambda: FakeSink.taken.get(sink) == keys, f"{sink} took {len(keys)}: {FakeSink.taken.get(sink)}")

    def stop(self) -> None:
        if self.dispatcher is not None:
            assert self.dispatcher.stop(5.0) == 0
            self.dispatcher = None


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.stop()
    made.journal.close()


def refuse(**how: Any) -> Callable[[Message], None]:
    def behave(_message: Message) -> None:
        raise SinkError("delivering to", "it", "it is down", **how)

    return behave


def test_messages_wait_for_their_sinks_and_leave_nothing_behind(bench: Bench) -> None:
    keys = bench.publish(range(5), "one", "two")
    assert {state.name: state.queued for state in bench.outbox.states()} == {"one": 5, "two": 5}
    bench.start(FakeSettings(name="one"), FakeSettings(name="two"))
    bench.taken("one", keys)
    bench.taken("two", keys)
    wait_until(lambda: not bench.journal.query("SELECT * FROM outbox"), "an empty outbox")
    assert not bench.journal.query("SELECT * FROM documents")


def test_verdict_and_messages_are_one_transaction(bench: Bench) -> None:
    one = message(1)
    with pytest.raises(StorageError, match="NOT NULL"):
        publish(bench.journal, one, [None])  # type: ignore[list-item]
    row = bench.journal.job(one.key)
    assert row is not None
    assert row.state == "queued"
    assert not bench.journal.query("SELECT * FROM documents")


def test_job_published_again_after_a_crash_is_not_queued_again(bench: Bench) -> None:
    bench.publish(range(1), "one")
    bench.publish(range(1), "one")
    assert bench.outbox.state("one").queued == 1


def test_dead_sink_holds_up_no_other(bench: Bench) -> None:
    FakeSink.behave["dead"] = refuse()
    gate = threading.Event()
    FakeSink.behave["stuck"] = lambda _message: (gate.wait(30.0), None)[1]
    bench.start(FakeSettings(name="dead"), FakeSettings(name="stuck"), FakeSettings(name="well"))
    keys = bench.publish(range(50), "dead", "stuck", "well")
    bench.taken("well", keys)
    assert "dead" not in FakeSink.taken
    assert "stuck" not in FakeSink.taken
    gate.set()
    bench.taken("stuck", keys)


def test_order_is_kept_through_failures(bench: Bench) -> None:
    tries: list[str] = []

    def flaky(one: Message) -> None:
        tries.append(one.key)
        if len(tries) % 3:
            raise SinkError("delivering to", "it", "not now")

    FakeSink.behave["one"] = flaky
    bench.start(FakeSettings(name="one"))
    keys = bench.publish(range(6), "one")
    bench.taken("one", keys)
    assert tries == [key for key in keys for _ in range(3)]


def test_pauses_grow_and_survive_a_restart(bench: Bench) -> None:
    FakeSink.behave["one"] = refuse()
    slow = FakeSettings(name="one", retry_delay_s=0.05, retry_longest_s=3600.0)
    bench.start(slow)
    bench.publish(range(1), "one")
    wait_until(lambda: bench.outbox.state("one").failures >= 4, "some failures")
    bench.stop()
    before = bench.outbox.state("one")
    FakeSink.behave.clear()
    # Almost as far in the future as it would be after a long outage.
    with bench.journal.transaction() as db:
        db.execute("UPDATE sinks SET retry_at = ?", (stamp_in(3500.0),))
    bench.start(slow)
    time.sleep(0.3)
    assert "one" not in FakeSink.taken
    assert bench.outbox.state("one").failures == before.failures
    bench.outbox.enable("one")
    bench.taken("one", [message(0).key])


def test_retry_after_is_obeyed(bench: Bench) -> None:
    FakeSink.behave["one"] = refuse(retry_after_s=0.8)
    bench.start(FakeSettings(name="one"))
    bench.publish(range(1), "one")
    wait_until(lambda: bench.outbox.state("one").failures == 1, "a failure")
    FakeSink.behave.clear()
    began_s = time.monotonic()
    bench.taken("one", [message(0).key])
    assert time.monotonic() - began_s > 0.5


class Steps:
    """Steps of the wall clock, as the dispatcher sees it."""

    def __init__(self) -> None:
        self.ahead_s = 0.0


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    made = Steps()

    class Wall(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(seconds=made.ahead_s)

    monkeypatch.setattr(pauses_module, "datetime", Wall)
    return made


def stamp_in(seconds: float) -> str:
    return (datetime.fromisoformat(utc_now()) + timedelta(seconds=seconds)).isoformat()


def test_a_clock_that_steps_back_lengthens_no_pause(bench: Bench, steps: Steps) -> None:
    FakeSink.behave["one"] = refuse()
    bench.start(FakeSettings(name="one"))
    keys = bench.publish(range(2), "one")
    wait_until(lambda: bench.outbox.state("one").failures > 0, "a failure")
    steps.ahead_s = -3600.0
    failures = bench.outbox.state("one").failures
    wait_until(lambda: bench.outbox.state("one").failures > failures + 1, "further tries")
    FakeSink.behave.clear()
    bench.taken("one", keys)


def test_a_clock_that_jumps_ahead_gives_no_message_up(bench: Bench, steps: Steps) -> None:
    FakeSink.behave["one"] = refuse()
    bench.start(FakeSettings(name="one"))
    keys = bench.publish(range(2), "one")
    wait_until(lambda: bench.outbox.state("one").failures > 0, "a failure")
    steps.ahead_s = 4 * 24 * 3600.0
    failures = bench.outbox.state("one").failures
    wait_until(lambda: bench.outbox.state("one").failures > failures + 1 or bench.outbox.state("one").dead, "more")
    assert bench.dispatcher is not None
    # New settings are no new run.
    bench.dispatcher.update([FakeSettings(name="one", variant=1)])
    failures = bench.outbox.state("one").failures
    wait_until(lambda: bench.outbox.state("one").failures > failures + 1 or bench.outbox.state("one").dead, "more")
    assert bench.outbox.state("one").dead == 0
    FakeSink.behave.clear()
    bench.taken("one", keys)


def test_a_message_that_failed_in_an_earlier_run_is_given_up_in_time(bench: Bench) -> None:
    FakeSink.behave["one"] = refuse()
    keys = bench.publish(range(2), "one")
    with bench.journal.transaction() as db:
        db.execute("UPDATE outbox SET first_failed_at = ? WHERE job = ?", (stamp_in(-3601.0), keys[0]))
    bench.start(FakeSettings(name="one", retry_for_s=3600.0))
    wait_until(lambda: bench.outbox.state("one").failures > 1, "the next one has its turn")
    assert (bench.outbox.state("one").dead, bench.outbox.state("one").queued) == (1, 1)


@pytest.mark.parametrize(("asked_s", "retry_in_s", "waits"), [(None, 3600.0, False), (7200.0, 3600.0, True)])
def test_a_pause_of_an_earlier_run_lasts_no_longer_than_any_pause(
    bench: Bench, asked_s: float | None, retry_in_s: float, waits: bool
) -> None:
    FakeSink.behave["one"] = refuse(retry_after_s=asked_s)
    settings = FakeSettings(name="one")
    bench.start(settings)
    keys = bench.publish(range(1), "one")
    wait_until(lambda: bench.outbox.state("one").failures == 1, "a failure")
    bench.stop()
    assert ("left alone for 7200 s" in (bench.outbox.state("one").error or "")) is waits
    # As after a clock that was an hour ahead.
    with bench.journal.transaction() as db:
        db.execute("UPDATE sinks SET retry_at = ?", (stamp_in(retry_in_s),))
    FakeSink.behave.clear()
    bench.start(settings)
    if waits:
        time.sleep(0.2)
        assert "one" not in FakeSink.taken
        bench.stop()
        with bench.journal.transaction() as db:
            db.execute("UPDATE sinks SET retry_at = ?", (stamp_in(2 * 24 * 3600.0),))
        bench.start(settings)
    bench.taken("one", keys)


def test_message_that_will_never_be_taken_is_set_aside(bench: Bench) -> None:
    def picky(one: Message) -> None:
        if one.key == message(1).key:
            raise SinkError("delivering to", "it", "unprocessable, password=hunter2", retryable=False)

    FakeSink.behave["one"] = picky
    bench.start(FakeSettings(name="one"))
    keys = bench.publish(range(3), "one")
    bench.taken("one", [keys[0], keys[2]])
    wait_until(lambda: bench.outbox.state("one").queued == 0, "nothing waits")
    state = bench.outbox.state("one")
    assert (state.dead, state.delivered) == (1, 2)
    (row,) = bench.journal.query("SELECT * FROM outbox")
    assert (row["job"], row["attempts"]) == (keys[1], 1)
    assert "unprocessable" in row["error"]
    assert "hunter2" not in row["error"]


def test_message_that_failed_for_too_long_is_set_aside(bench: Bench) -> None:
    FakeSink.behave["one"] = refuse()
    bench.start(FakeSettings(name="one", retry_for_s=0.3))
    bench.publish(range(1), "one")
    wait_until(lambda: bench.outbox.state("one").dead == 1, "the message is dead")
    assert bench.journal.query("SELECT attempts FROM outbox")[0]["attempts"] > 1
    FakeSink.behave.clear()
    assert bench.outbox.replay("one", message(0).key, message(0).document, sidecar="")
    bench.taken("one", [message(0).key])
    assert bench.outbox.state("one").dead == 0


def test_dead_messages_go_again_however_old_and_into_their_old_places(bench: Bench) -> None:
    def picky(one: Message) -> None:
        if one.key in {message(0).key, message(2).key}:
            raise SinkError("delivering to", "it", "unprocessable", retryable=False)

    FakeSink.behave["one"] = picky
    bench.start(FakeSettings(name="one", retry_for_s=60.0))
    keys = bench.publish(range(4), "one", "two")
    wait_until(lambda: bench.outbox.state("one").dead == 2, "two are dead")
    bench.stop()
    with bench.journal.transaction() as db:
        db.execute("UPDATE outbox SET queued_at = '2001-01-01T00:00:00.000Z', first_failed_at = queued_at")
    assert bench.outbox.revive("one", since="2002-01-01T00:00:00.000Z") == 0
    assert bench.outbox.revive("one") == 2
    later = bench.publish(range(4, 6), "one")
    FakeSink.behave.clear()
    FakeSink.taken.clear()
    bench.start(FakeSettings(name="one", retry_for_s=60.0))
    bench.taken("one", [keys[0], keys[2], *later])
    assert bench.outbox.state("two").queued == 4


def test_dead_messages_can_be_dropped_alone(bench: Bench) -> None:
    def picky(one: Message) -> None:
        if one.key != message(1).key:
            raise SinkError("delivering to", "it", "unprocessable", retryable=one.key == message(2).key)

    FakeSink.behave["one"] = picky
    bench.start(FakeSettings(name="one"))
    bench.publish(range(3), "one")
    wait_until(lambda: bench.outbox.state("one").failures > 0, "the last one fails")
    bench.stop()
    assert bench.outbox.forget("one", only_dead=True) == 1
    state = bench.outbox.state("one")
    assert (state.dead, state.queued, state.delivered) == (0, 1, 1)
    assert [row["job"] for row in bench.journal.query("SELECT job FROM documents")] == [message(2).key]


def test_what_is_sent_again_says_when_it_was_published(bench: Bench) -> None:
    told: list[str] = []
    FakeSink.behave["one"] = lambda one: told.append(one.queued_at)
    bench.start(FakeSettings(name="one"))
    stamp = "2026-01-02T03:04:06.000Z"
    assert bench.outbox.replay("one", message(1).key, message(1).document, sidecar="", published_at=stamp)
    bench.taken("one", [message(1).key])
    assert told == [stamp]


def test_sink_that_breaks_its_word_is_only_failing(bench: Bench) -> None:
    FakeSink.behave["one"] = lambda one: one.document["no such key"]
    bench.start(FakeSettings(name="one"), FakeSettings(name="two"))
    keys = bench.publish(range(2), "one", "two")
    bench.taken("two", keys)
    wait_until(lambda: bench.outbox.state("one").failures > 1, "failures")
    assert "KeyError" in (bench.outbox.state("one").error or "")
    FakeSink.behave.clear()
    bench.taken("one", keys)


@pytest.mark.parametrize("odd", [SystemExit, asyncio.CancelledError])
def test_sink_whose_library_wants_to_end_everything_is_only_failing(bench: Bench, odd: type[BaseException]) -> None:
    """These are no ``Exception``, and end a thread without a word."""

    def end(_message: Message | None = None) -> None:
        raise odd

    FakeSink.behave["one"] = end
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(FakeSink, "close", end)
        bench.start(FakeSettings(name="one"))
        keys = bench.publish(range(2), "one")
        wait_until(lambda: bench.outbox.state("one").failures > 1, "failures")
        assert odd.__name__ in (bench.outbox.state("one").error or "")
        FakeSink.behave.clear()
        bench.taken("one", keys)


def test_what_a_sinks_mistake_says_of_itself_is_repeated_nowhere(bench: Bench) -> None:
    def leak(_message: Message) -> None:
        try:
            raise KeyError("s3cr3t-a")
        except KeyError:
            raise RuntimeError("https://chat.example.org/hook/s3cr3t-b") from None

    def build(settings: SinkSettings) -> Sink:
        if settings.name == "unmade" and not FakeSink.taken.get("ready"):
            leak(message(1))
        return FakeSink(settings)  # type: ignore[arg-type]

    FakeSink.behave["one"] = leak
    structlog.reset_defaults()  # a test before this one may have let a service configure the log
    with pytest.MonkeyPatch.context() as patched, structlog.testing.capture_logs() as logged:
        patched.setattr(dispatcher_module, "build", build)
        bench.start(FakeSettings(name="one"), FakeSettings(name="unmade"))
        bench.publish(range(1), "one")
        for name in ("one", "unmade"):
            wait_until(lambda name=name: bench.outbox.state(name).failures > 1, "failures")
        bench.stop()
    (row,) = bench.journal.query("SELECT error FROM outbox")
    told = [row["error"], *(bench.outbox.state(name).error for name in ("one", "unmade")), repr(logged)]
    assert "s3cr3t" not in "".join(told)
    assert all("RuntimeError" in text for text in told)
    assert "test_dispatch.py" in told[-1], "the log says where"


def test_a_damaged_document_is_set_aside(bench: Bench) -> None:
    keys = bench.publish(range(4), "one")
    with bench.journal.transaction() as db:
        db.execute("UPDATE documents SET body = x'00ff' WHERE job = ?", (keys[0],))
        db.execute("DELETE FROM documents WHERE job = ?", (keys[2],))
    bench.start(FakeSettings(name="one"))
    bench.taken("one", [keys[1], keys[3]])
    wait_until(lambda: bench.outbox.state("one").queued == 0, "nothing waits")
    state = bench.outbox.state("one")
    assert (state.dead, state.delivered) == (2, 2)
    assert "damaged" in bench.journal.query("SELECT error FROM outbox")[0]["error"]
    # What is not readable here may be so in the sidecar, from which 'replay --since' takes it then.
    assert bench.outbox.document(keys[0]) is None
    assert bench.outbox.replay("one", keys[0], message(0).document, sidecar="")
    bench.taken("one", [keys[1], keys[3], keys[0]])


def test_an_error_that_nobody_foresaw_ends_no_thread(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = Outbox.waiting
    broken = threading.Event()
    broken.set()

    def fail(self: Outbox, sink: str, limit: int) -> Any:
        if broken.is_set():
            raise ZeroDivisionError("s3cr3t")
        return waiting(self, sink, limit)

    monkeypatch.setattr(Outbox, "waiting", fail)
    bench.start(FakeSettings(name="one"))
    wait_until(lambda: bench.outbox.state("one").failures > 1, "the state shows it")
    assert "ZeroDivisionError" in (bench.outbox.state("one").error or "")
    assert "s3cr3t" not in (bench.outbox.state("one").error or "")
    broken.clear()
    wait_until(lambda: bench.outbox.state("one").failures == 0, "it is over, without a message that shows it")
    bench.taken("one", bench.publish(range(2), "one"))


def test_sink_that_is_gone_is_left_alone_until_a_person_or_new_settings_say_otherwise(bench: Bench) -> None:
    calls = []

    def gone(one: Message) -> None:
        calls.append(one.key)
        raise SinkGoneError("posting to", "it", "410 Gone")

    FakeSink.behave["one"] = gone
    settings = FakeSettings(name="one")
    bench.start(settings)
    keys = bench.publish(range(3), "one")
    wait_until(lambda: bench.outbox.state("one").gone, "the sink is gone")
    bench.stop()
    bench.start(settings)
    time.sleep(0.3)
    assert calls == keys[:1]
    bench.stop()
    FakeSink.behave.clear()
    bench.start(FakeSettings(name="one", variant=1))
    bench.taken("one", keys)


def test_only_what_passes_the_filters_is_sent(bench: Bench) -> None:
    dispatcher = bench.start(
        FakeSettings(name="all"),
        FakeSettings(name="fakes", verdicts=["FAKE"]),
        FakeSettings(name="sure", min_confidence=0.9),
        FakeSettings(name="failed", statuses=["rejected", "failed"]),
        FakeSettings(name="off", enabled=False),
    )
    assert dispatcher.recipients(message(1).document) == ("all", "fakes", "sure")
    assert dispatcher.recipients(message(1, confidence=0.8).document) == ("all", "fakes")
    assert dispatcher.recipients(message(1, verdict="NO_FACE").document) == ("all",)
    assert dispatcher.recipients(message(1, verdict=None).document) == ("all", "failed")


def test_sinks_come_change_and_go(bench: Bench) -> None:
    dispatcher = bench.start(FakeSettings(name="one"), FakeSettings(name="two"))
    first = bench.publish(range(3), "one", "two")
    bench.taken("one", first)
    bench.taken("two", first)
    dispatcher.update([FakeSettings(name="two", variant=1), FakeSettings(name="three")])
    second = bench.publish(range(3, 6), "one", "two", "three")
    bench.taken("two", first + second)
    bench.taken("three", second)
    assert FakeSink.taken["one"] == first
    assert bench.outbox.state("one").queued == 3
    dispatcher.update([FakeSettings(name="one")])
    bench.taken("one", first + second)


def test_change_waits_for_the_delivery_in_hand(bench: Bench) -> None:
    gate = threading.Event()
    FakeSink.behave["one"] = lambda _message: (gate.wait(10.0), None)[1]
    dispatcher = bench.start(FakeSettings(name="one"))
    keys = bench.publish(range(3), "one")
    wait_until(lambda: FakeSink.running.get("one"), "a delivery in hand")
    dispatcher.update([FakeSettings(name="one", variant=1)])
    time.sleep(0.1)
    gate.set()
    bench.taken("one", keys)


def test_wrong_update_changes_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    dispatcher = bench.start(FakeSettings(name="one"))

    def fail(_settings: SinkSettings) -> Sink:
        raise ConfigError("making the sink", "two", "impossible")

    monkeypatch.setattr(dispatcher_module, "build", fail)
    with pytest.raises(ConfigError):
        dispatcher.update([FakeSettings(name="two")])
    bench.taken("one", bench.publish(range(2), "one"))


@pytest.mark.parametrize(
    "error",
    [
        SinkError("reading the secret", "file:/x", "there is no such file"),
        SinkError("reading the certificates", "/x", "there is no such file", retryable=False),
        RuntimeError("a package's sink, broken"),
    ],
)
def test_sink_that_cannot_be_made_yet_stops_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def build(settings: SinkSettings) -> Sink:
        if settings.name == "one" and not FakeSink.taken.get("ready"):
            raise error
        return FakeSink(settings)  # type: ignore[arg-type]

    monkeypatch.setattr(dispatcher_module, "build", build)
    dispatcher = bench.start(FakeSettings(name="two"))
    dispatcher.update([FakeSettings(name="one"), FakeSettings(name="two")])
    wait_until(lambda: bench.outbox.state("one").failures > 1, "the failure is shown before there is any message")
    keys = bench.publish(range(3), "one", "two")
    bench.taken("two", keys)
    failures = bench.outbox.state("one").failures
    wait_until(lambda: bench.outbox.state("one").failures > failures + 1, "it is tried again")
    state = bench.outbox.state("one")
    assert (state.queued, state.dead) == (3, 0), "it says nothing about the messages"
    FakeSink.taken["ready"] = ["now"]
    bench.taken("one", keys)


def test_only_sinks_that_are_served_can_be_behind(bench: Bench) -> None:
    bench.publish(range(2), "busy", "off", "removed")
    FakeSink.behave["busy"] = refuse()
    dispatcher = bench.start(FakeSettings(name="busy"), FakeSettings(name="off", enabled=False))
    behind = {lag.sink: (lag.pending, lag.oldest_s > 0.0) for lag in dispatcher.lag()}
    assert behind == {"busy": (2, True), "off": (2, False), "removed": (2, False)}


def test_stop_is_bounded(bench: Bench) -> None:
    gate = threading.Event()
    FakeSink.behave["one"] = lambda _message: (gate.wait(30.0), None)[1]
    dispatcher = bench.start(FakeSettings(name="one"))
    bench.publish(range(1), "one")
    wait_until(lambda: FakeSink.running.get("one"), "a delivery in hand")
    began_s = time.monotonic()
    assert dispatcher.stop(0.2) == 1
    assert time.monotonic() - began_s < 2.0
    gate.set()


def test_delivery_in_hand_is_finished_at_the_end(bench: Bench) -> None:
    FakeSink.behave["one"] = lambda _message: time.sleep(0.3)
    dispatcher = bench.start(FakeSettings(name="one"))
    bench.publish(range(3), "one")
    wait_until(lambda: FakeSink.running.get("one"), "a delivery in hand")
    assert dispatcher.stop(5.0) == 0
    bench.dispatcher = None
    state = bench.outbox.state("one")
    assert (state.delivered, state.queued) == (1, 2)


def test_messages_queued_by_another_process_are_found(bench: Bench) -> None:
    bench.start(FakeSettings(name="one"))
    other = Journal(bench.path)
    Outbox(other).replay("one", message(1).key, message(1).document, sidecar="")
    other.close()
    bench.taken("one", [message(1).key])


def test_forgotten_sink_leaves_nothing(bench: Bench) -> None:
    bench.publish(range(3), "one", "two")
    assert bench.outbox.forget("one") == 3
    assert [state.name for state in bench.outbox.states()] == ["two"]
    assert bench.outbox.forget("two") == 3
    assert not bench.journal.query("SELECT * FROM documents")
