"""Publishes each outcome to an MQTT topic (MQTT 5, quality of service 1)."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dfwatch.config import SinkSettings, setting
from dfwatch.document import encode
from dfwatch.errors import SinkError
from dfwatch.sinks import Sink
from dfwatch.sinks.extras import require
from dfwatch.sinks.secret import FORMS, complaint, read_secret
from dfwatch.sinks.urls import host_complaint

if TYPE_CHECKING:
    from dfwatch.sinks import Message

_PLACES = ("{verdict}", "{status}")
# MQTT 5.0, 2.1 and 3.3: packet type, length, the topic's length and the packet's identifier.
_MOST_HEADER_BYTES = 1 + 4 + 2 + 2


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttSettings(SinkSettings):
    """Settings of ``type: mqtt``."""

    type: str = setting("mqtt", doc="Kind of sink.")
    host: str = setting(MISSING, doc="The broker.")
    port: int = setting(0, doc="Its port; 0: 8883 with TLS, 1883 without.", minimum=0, maximum=65535)
    topic: str = setting(
        "dfwatch/outcomes", doc="The topic; {verdict} and {status} are filled in ('none' where there is no verdict)."
    )
    retain: bool = setting(default=False, doc="The broker keeps the topic's last outcome for new subscribers.")
    user: str = setting("", doc="User name.")
    password: str = setting("", doc=f"Where the password is kept: {FORMS}.")
    tls: bool = setting(default=True, doc="Use TLS.")
    ca_file: str = setting("", doc="Certificate authorities to trust instead of the system's.", path=True)
    client_id: str = setting("", doc="Client id; empty: the broker chooses one.")

    def problems(self) -> list[tuple[str, str, str]]:
        """See ``SinkSettings``."""
        found = []
        if host_complaint(self.host):
            found.append(("host", host_complaint(self.host), "broker.example.org; its port is the setting 'port'"))
        plain = self.topic
        for place in _PLACES:
            plain = plain.replace(place, "")
        if not self.topic or any(mark in plain for mark in "+#{}"):
            found.append(("topic", f"is {self.topic!r}, which cannot be published to", "dfwatch/{verdict}"))
        if self.password and complaint(self.password):
            found.append(("password", complaint(self.password), FORMS))
        if self.password and not self.tls and self.host not in {"localhost", "127.0.0.1", "::1"}:
            found.append(("tls", "is off, so the password could be read on its way", ""))
        return found


class MqttSink(Sink):
    """Publishes sidecar documents; the user property ``key`` is the idempotency key. Taken: the broker's PUBACK."""

    settings_type: ClassVar[type[SinkSettings]] = MqttSettings
    networked: ClassVar[bool] = True

    def __init__(self, settings: MqttSettings) -> None:
        self._settings = settings
        self._paho = require("paho.mqtt.client", "mqtt")
        self._properties = require("paho.mqtt.properties", "mqtt")
        self._packets = require("paho.mqtt.packettypes", "mqtt")
        self._client: Any = None
        self._answers: dict[int, Any] = {}
        self._answered = threading.Condition()
        self._lost = ""
        # The largest packet that the broker takes; None where it does not say.
        self._most_bytes: int | None = None

    def deliver(self, message: Message) -> None:
        """See ``Sink``."""
        deadline_s = time.monotonic() + self._settings.timeout_s
        client = self._connect()
        # Addresses that did not answer have cost time too; the one that did must have a chance.
        deadline_s = max(deadline_s, time.monotonic() + self._settings.timeout_s / 2)
        properties = self._properties.Properties(self._packets.PacketTypes.PUBLISH)
        properties.ContentType = "application/json"
        properties.UserProperty = ("key", message.key)
        topic = self._settings.topic
        for place, value in zip(_PLACES, (message.document["verdict"], message.document["status"]), strict=True):
            topic = topic.replace(place, value or "none")
        body = encode(message.document, indent=None)
        size = _MOST_HEADER_BYTES + len(topic.encode("utf-8")) + len(properties.pack()) + len(body)
        if self._most_bytes is not None and size > self._most_bytes:
            # It would hang up, at each try, and hold up what comes behind.
            cause = f"the outcome has {size} bytes, and the broker takes no packet of more than {self._most_bytes}"
            raise SinkError("publishing to", self._shown, cause, hint="raise the broker's limit", retryable=False)
        try:
            sent = client.publish(
                topic,
                body,
                qos=1,
                retain=self._settings.retain,
                properties=properties,
            )
        except (OSError, ValueError) as exc:
            raise self._error("publishing to", exc) from exc
        if sent.rc != self._paho.MQTT_ERR_SUCCESS:
            raise self._error("publishing to", self._paho.error_string(sent.rc))
        answer = self._wait_for_answer(sent.mid, deadline_s)
        if answer.is_failure:
            raise self._error("publishing to", f"the broker refused {topic!r}: {answer}")

    def probe(self) -> str:
        """See ``Sink``. Nothing is published."""
        self._connect()
        return f"connected to {self._shown}; nothing was published"

    def close(self) -> None:
        """See ``Sink``. What is not acknowledged is forgotten here: the outbox sends it again, in order."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(OSError, ValueError):
                client.disconnect()
            client.loop_stop()
            # They refer to the client, which closes its last sockets when nobody does any more.
            client.on_connect = client.on_publish = client.on_disconnect = None
        self._answers.clear()

    @property
    def _port(self) -> int:
        return self._settings.port or (8883 if self._settings.tls else 1883)

    @property
    def _shown(self) -> str:
        return f"{self._settings.host}:{self._port}"

    def _connect(self) -> Any:  # noqa: ANN401 - paho's, which need not be installed
        if self._client is not None and not self._lost:
            return self._client
        self.close()
        settings = self._settings
        client = self._paho.Client(
            require("paho.mqtt.enums", "mqtt").CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            protocol=self._paho.MQTTv5,
            reconnect_on_failure=False,
        )
        # For each address of the host, and again for its TLS and its answer.
        limit_s = settings.timeout_s / 2
        client.connect_timeout = limit_s
        connected: list[Any] = []

        def on_connect(_client: Any, _data: object, _flags: object, reason: Any, properties: Any) -> None:  # noqa: ANN401
            with self._answered:
                self._most_bytes = getattr(properties, "MaximumPacketSize", None)
                connected.append(reason)
                self._answered.notify_all()

        def on_publish(_client: Any, _data: object, mid: int, reason: Any, _properties: object) -> None:  # noqa: ANN401
            with self._answered:
                self._answers[mid] = reason
                self._answered.notify_all()

        def on_disconnect(_client: Any, _data: object, _flags: object, reason: Any, _properties: object) -> None:  # noqa: ANN401
            with self._answered:
                if client is self._client:
                    self._lost = f"the connection was lost: {reason}"
                self._answered.notify_all()

        client.on_connect, client.on_publish, client.on_disconnect = on_connect, on_publish, on_disconnect
        self._lost = ""
        self._client = client
        try:
            if settings.tls:
                client.tls_set(ca_certs=settings.ca_file or None)
            if settings.user:
                client.username_pw_set(settings.user, read_secret(settings.password) if settings.password else None)
            client.connect(settings.host, self._port)
            client.loop_start()
        except (OSError, ValueError) as exc:
            raise self._error("connecting to", exc) from exc
        with self._answered:
            self._answered.wait_for(lambda: connected or self._lost, limit_s)
        if not connected:
            raise self._error("connecting to", self._lost or "it does not answer")
        if connected[0].is_failure:
            raise self._error("connecting to", f"the broker refused: {connected[0]}")
        return client

    def _wait_for_answer(self, mid: int, deadline_s: float) -> Any:  # noqa: ANN401 - paho's reason code
        with self._answered:
            self._answered.wait_for(lambda: mid in self._answers or self._lost, max(0.0, deadline_s - time.monotonic()))
            answer = self._answers.pop(mid, None)
        if answer is None:
            raise self._error("publishing to", self._lost or "the broker did not acknowledge in time")
        return answer

    def _error(self, action: str, cause: object) -> SinkError:
        self.close()
        return SinkError(action, self._shown, cause)
