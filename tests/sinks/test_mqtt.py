"""mqtt with a real Mosquitto and a subscriber of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dfwatch.errors import SinkError
from dfwatch.sinks.mqtt import MqttSettings, MqttSink
from dfwatch.sinks.testing import Destination, SinkContract, message, wait_until, with_values
from tests.sinks.servers import Mosquitto, black_hole_first

paho = pytest.importorskip("paho.mqtt.client")


class Broker(Destination):
    def __init__(self, folder: Path) -> None:
        self.server = Mosquitto()
        self.password = folder / "password"
        self.password.write_text(f"{self.server.password}\n")
        self.messages: list[Any] = []
        self.subscribed = threading.Event()
        self.lost = threading.Event()
        self.client: Any = None
        self.subscribe()

    def subscribe(self) -> None:
        from paho.mqtt.enums import CallbackAPIVersion
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        self.subscribed.clear()
        self.lost.clear()
        # A session that outlives its connection: the broker keeps what comes while the subscriber is away.
        session = Properties(PacketTypes.CONNECT)
        session.SessionExpiryInterval = 3600
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id="subscriber", protocol=paho.MQTTv5)
        self.client.on_disconnect = lambda *_: self.lost.set()
        self.client.username_pw_set("dfwatch", self.server.password)
        self.client.on_connect = lambda client, *_: client.subscribe("news/#", qos=1)
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.on_message = lambda _client, _data, got: self.messages.append(got)
        self.client.connect("127.0.0.1", self.server.port, clean_start=False, properties=session)
        self.client.loop_start()
        assert self.subscribed.wait(10.0)

    def unsubscribe(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        # It refers to this one, and closes its last sockets when nobody refers to it.
        self.client = None

    @property
    def settings(self) -> MqttSettings:
        return MqttSettings(
            host="127.0.0.1",
            port=self.server.port,
            tls=False,
            topic="news/{status}/{verdict}",
            user="dfwatch",
            password=f"file:{self.password}",
            timeout_s=3.0,
        )

    def received(self) -> list[dict[str, Any]]:
        found = []
        for got in self.messages.copy():
            document = json.loads(got.payload)
            assert dict(got.properties.UserProperty)["key"] == document["job_id"]
            assert got.topic == f"news/{document['status']}/{document['verdict'] or 'none'}"
            found.append({**document, "name": document["subject"]["name"]})
        return found

    def secrets(self) -> list[str]:
        return [self.server.password]

    def stop(self) -> None:
        self.server.kill()
        assert self.lost.wait(10.0)
        self.client.loop_stop()

    def start(self) -> None:
        self.server.start()
        self.subscribe()

    def remove(self) -> None:
        self.unsubscribe()
        self.server.remove()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path)
    yield made
    made.remove()


class TestMqttContract(SinkContract):
    @pytest.fixture
    def destination(self, broker: Broker) -> Destination:
        return broker


def test_wrong_password(broker: Broker) -> None:
    broker.password.write_text("hunter3")
    sink = MqttSink(broker.settings)
    with pytest.raises(SinkError, match=r"(?:Not authorized|user name or password)") as caught:
        sink.deliver(message(1))
    assert "hunter3" not in str(caught.value)


def test_topic_that_is_not_allowed(broker: Broker) -> None:
    sink = MqttSink(with_values(broker.settings, topic="secret/place"))  # type: ignore[arg-type]
    with pytest.raises(SinkError, match="refused 'secret/place'") as caught:
        sink.deliver(message(1))
    assert caught.value.retryable
    sink.close()


def test_broker_with_an_address_that_does_not_answer_is_reached_at_the_next(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with black_hole_first(monkeypatch, broker.server.port):
        sink = MqttSink(with_values(broker.settings, host="localhost", timeout_s=2.0))  # type: ignore[arg-type]
        sink.deliver(message(1))
        wait_until(lambda: broker.messages, "the outcome")
        sink.close()


def take_no_more_than(broker: Broker, packet_bytes: int) -> None:
    conf = broker.server.folder / "conf"
    conf.write_text(f"{conf.read_text()}max_packet_size {packet_bytes}\n")
    broker.stop()
    broker.start()


def test_outcome_that_is_too_large_for_the_broker_holds_up_nobody(broker: Broker) -> None:
    """It would be hung up on at each try, for three days, with all others behind it."""
    take_no_more_than(broker, 8000)
    sink = MqttSink(broker.settings)
    with pytest.raises(SinkError, match="takes no packet of more than 8000") as caught:
        sink.deliver(message(1, name="x" * 8000))
    assert not caught.value.retryable
    sink.deliver(message(2))
    wait_until(lambda: broker.messages, "the one behind it")
    sink.close()


def test_only_what_the_broker_would_hang_up_on_is_too_large(broker: Broker) -> None:
    """The lengths below the first one that is refused go through, to the last byte."""
    take_no_more_than(broker, 4000)
    sink = MqttSink(broker.settings)
    errors: list[SinkError] = []
    for length in range(1000, 3000):
        try:
            sink.deliver(message(1, name="x" * length))
        except SinkError as error:
            errors.append(error)
            break
    sink.close()
    assert [error.retryable for error in errors] == [False]


def test_retained_outcome_waits_for_new_subscribers(broker: Broker) -> None:
    sink = MqttSink(with_values(broker.settings, retain=True, topic="news/last"))  # type: ignore[arg-type]
    sink.deliver(message(1))
    sink.close()
    wait_until(lambda: len(broker.messages) == 1, "the first")
    broker.unsubscribe()
    broker.subscribe()
    wait_until(lambda: len(broker.messages) == 2, "the same again")
    assert broker.messages[1].retain


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"host": ""}, "host"),
        ({"host": "mqtts://broker.example"}, "host"),
        ({"host": "broker.example:8883"}, "host"),
        ({"host": "broker..example"}, "host"),
        ({"host": "[::1]"}, "host"),
        ({"topic": "a/#"}, "topic"),
        ({"topic": "a/{name}"}, "topic"),
        ({"topic": ""}, "topic"),
        ({"password": "hunter2"}, "password"),
        ({"password": "env:X", "tls": False}, "tls"),
    ],
)
def test_settings_that_cannot_work(changes: dict[str, Any], setting: str) -> None:
    ((name, cause, hint),) = with_values(MqttSettings(host="broker.example"), **changes).problems()
    assert name == setting
    assert "hunter2" not in cause + hint
