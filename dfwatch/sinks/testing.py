"""The tests that every sink passes; ours and those of third parties. Needs pytest.

Subclass ``SinkContract`` in a test module of your own, give it a ``destination`` fixture, and run pytest::

    class TestMySink(SinkContract):
        @pytest.fixture
        def destination(self, tmp_path): return MyDestination(tmp_path)

where a ``Destination`` knows the settings that reach a real server, what the server has received, and how to stop and
start it. ``can_stop = False`` leaves out the tests with an outage, ``deduplicates = True`` asks that a second delivery
of the same key leaves one record.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from dfwatch.errors import SinkError
from dfwatch.jobs.dispatcher import Dispatcher
from dfwatch.journal import Journal
from dfwatch.reasons import Status
from dfwatch.sinks import Message
from dfwatch.sinks.registry import build, classes
from dfwatch.sinks.samples import TEST_KEY, sample
from dfwatch.storage.layout import DroppedName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from dfwatch.config import SinkSettings
    from dfwatch.sinks import Sink

_DEADLINE_S = 30.0


class Destination(ABC):
    """A real destination in a test."""

    @property
    @abstractmethod
    def settings(self) -> SinkSettings:
        """Settings that reach it; the name and the pauses between deliveries are replaced by the tests."""

    @abstractmethod
    def received(self) -> list[dict[str, Any]]:
        """What arrived, in order of arrival: of each record at least ``job_id``, and ``verdict`` and ``name``."""

    def secrets(self) -> Sequence[str]:
        """Texts that must never be seen in settings, errors or logs."""
        return ()

    def stop(self) -> None:
        """Take the destination down, as hard as a real one may go down: a server is killed (SIGKILL)."""
        raise NotImplementedError

    def start(self) -> None:
        """Bring it up again, with what it had."""
        raise NotImplementedError


def message(number: int = 1, **changes: Any) -> Message:  # noqa: ANN401 - as samples.sample
    """A valid message whose key sorts by its number; ``changes`` are those of ``samples.sample``."""
    key = f"20260102T030405.{number:06d}Z-0badcafe"
    return Message(key, sample(key, **changes), "2026-01-02T03:04:06.000Z")


def wait_until(condition: Callable[[], object], what: str, deadline_s: float = _DEADLINE_S) -> None:
    """Wait for ``condition`` to become true; fails the test when it does not in time."""
    until_s = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > until_s:
            pytest.fail(f"not within {deadline_s:g} s: {what}")
        time.sleep(0.02)


def with_values(settings: SinkSettings, **values: object) -> SinkSettings:
    """``settings`` with other values; also for the fields that only a subclass has."""
    from dataclasses import replace  # noqa: PLC0415 - keeps the module's names to what tests use

    return replace(settings, **values)  # type: ignore[arg-type]


class SinkContract:
    """What a sink owes to whoever relies on it."""

    can_stop: ClassVar[bool] = True
    deduplicates: ClassVar[bool] = False

    @pytest.fixture
    def destination(self) -> Destination:
        """The real destination; each test gets a fresh one."""
        raise NotImplementedError("give the class a fixture 'destination'")

    @pytest.fixture
    def sink(self, destination: Destination) -> Iterator[Sink]:
        """The sink under test, made as the service makes it."""
        made = build(destination.settings)
        yield made
        made.close()

    def keys(self, destination: Destination) -> list[str]:
        """Keys of what arrived, in order."""
        return [record["job_id"] for record in destination.received()]

    def arrives(self, destination: Destination, keys: Sequence[str]) -> None:
        """Wait until exactly these keys are there, in this order, repetitions of a key aside."""
        wait_until(lambda: set(self.keys(destination)) >= set(keys), f"{len(keys)} outcomes at the destination")
        assert list(dict.fromkeys(self.keys(destination))) == list(keys)

    def test_is_found_by_its_type(self, destination: Destination) -> None:
        """The registry knows the type, and the settings class says the same type."""
        found = classes()[destination.settings.type]
        assert isinstance(destination.settings, found.settings_type)

    def test_delivers(self, destination: Destination, sink: Sink) -> None:
        """When ``deliver`` returns, the destination has the outcome, with its key."""
        sent = message(name="Zürich – 東京 'x' \"y\", z.mp4")
        sink.deliver(sent)
        self.arrives(destination, [sent.key])
        (record,) = destination.received()
        assert record["verdict"] == "FAKE"
        assert record["name"] == sent.document["subject"]["name"]

    def test_takes_outcomes_without_verdict(self, destination: Destination, sink: Sink) -> None:
        """No face, and refused files, have nulls where others have numbers."""
        sent = [message(1, verdict="NO_FACE", confidence=None), message(2, verdict=None)]
        for one in sent:
            sink.deliver(one)
        self.arrives(destination, [one.key for one in sent])
        assert [record["verdict"] for record in destination.received()] == ["NO_FACE", None]

    def test_keeps_the_order(self, destination: Destination, sink: Sink) -> None:
        """What is delivered first arrives first."""
        sent = [message(number) for number in range(20)]
        for one in sent:
            sink.deliver(one)
        self.arrives(destination, [one.key for one in sent])

    def test_same_key_again(self, destination: Destination, sink: Sink) -> None:
        """A repeated delivery adds nothing where the destination can tell, and the same key where it cannot."""
        for number in (1, 1, 2):
            sink.deliver(message(number))
        self.arrives(destination, [message(1).key, message(2).key])
        assert len(self.keys(destination)) == (2 if self.deduplicates else 3)

    def test_works_again_after_close(self, destination: Destination, sink: Sink) -> None:
        """A closed sink connects anew; closing twice is no mistake."""
        sink.deliver(message(1))
        sink.close()
        sink.close()
        sink.deliver(message(2))
        self.arrives(destination, [message(1).key, message(2).key])

    def test_probe_leaves_no_outcome(self, destination: Destination, sink: Sink) -> None:
        """A probe tells in one line what it did; what it may leave is marked by the key of a test."""
        told = sink.probe()
        assert told
        assert "\n" not in told
        sink.deliver(message(1))
        wait_until(lambda: message(1).key in self.keys(destination), "the outcome after the probe")
        assert set(self.keys(destination)) <= {message(1).key, TEST_KEY}

    def test_secrets_stay_secret(self, destination: Destination, sink: Sink) -> None:
        """Neither the settings nor the sink show one when they are printed."""
        shown = f"{destination.settings!r} {sink!r} {vars(sink) if hasattr(sink, '__dict__') else ''}"
        assert not [secret for secret in destination.secrets() if secret in shown]

    def test_outage_is_retryable(self, destination: Destination, sink: Sink) -> None:
        """While the destination is down, ``deliver`` fails in time and retryably; afterwards the same sink works."""
        if not self.can_stop:
            pytest.skip("this destination cannot be stopped")
        sink.deliver(message(1))
        destination.stop()
        began_s = time.monotonic()
        with pytest.raises(SinkError) as caught:
            sink.deliver(message(2))
        assert caught.value.retryable
        assert time.monotonic() - began_s < destination.settings.timeout_s + 5.0
        assert not [secret for secret in destination.secrets() if secret in str(caught.value)]
        with pytest.raises(SinkError):
            sink.probe()
        sink.close()
        destination.start()
        sink.deliver(message(2))
        self.arrives(destination, [message(1).key, message(2).key])

    def test_outage_loses_nothing(self, destination: Destination, tmp_path: Path) -> None:
        """Through the outbox: the destination dies in the middle and comes back; all arrive, in order."""
        if not self.can_stop:
            pytest.skip("this destination cannot be stopped")
        journal = Journal(str(tmp_path / "outbox.sqlite3"))
        settings = with_values(destination.settings, name="contract", retry_delay_s=0.05, retry_longest_s=0.2)
        dispatcher = Dispatcher(str(tmp_path / "outbox.sqlite3"), [settings])
        sent = [message(number) for number in range(30)]
        dispatcher.start()
        try:
            for number, one in enumerate(sent):
                publish(journal, one, ["contract"])
                dispatcher.wake()
                if number == 10:
                    wait_until(lambda: self.keys(destination), "the first outcomes")
                    destination.stop()
                if number == 20:
                    wait_until(lambda: dispatcher.states()[0].failures > 0, "the sink notices the outage")
                    destination.start()
            wait_until(lambda: dispatcher.states()[0].queued == 0, "an empty outbox")
            state = dispatcher.states()[0]
            assert (state.delivered, state.dead, state.failures) == (30, 0, 0)
        finally:
            assert dispatcher.stop(_DEADLINE_S) == 0
            journal.close()
        self.arrives(destination, [one.key for one in sent])
        arrived = destination.received()
        # What came twice came with the same key, and says the same.
        assert len({(record["job_id"], record["verdict"], record["name"]) for record in arrived}) == 30
        if self.deduplicates:
            assert len(arrived) == 30


def publish(journal: Journal, sent: Message, sinks: Sequence[str]) -> None:
    """Enter an outcome into the journal as the service does, with a message for each of ``sinks``."""
    document = sent.document
    dropped = DroppedName("", document["subject"]["name"])
    journal.add(sent.key, dropped, received_at=sent.queued_at, size_bytes=1, evidence=())
    journal.published(
        sent.key,
        Status(document["status"]),
        sidecar=sent.sidecar,
        sha256=document["subject"]["sha256"],
        verdict=document["verdict"],
        p_fake=document["p_fake"],
        reason=document["reason"],
        detail=document["reason_detail"],
        document=document,
        sinks=sinks,
    )
