"""The webhook against a real HTTPS server; signatures and events are checked by their own libraries."""

from __future__ import annotations

import base64
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dfwatch.errors import SinkError, SinkGoneError
from dfwatch.sinks import webhook
from dfwatch.sinks.testing import Destination, SinkContract, message, wait_until, with_values
from dfwatch.sinks.webhook import EVENT_TYPE, TEST_TYPE, WebhookSettings, WebhookSink, retry_after_s
from tests.sinks.receiver import Answer, Handler, Received, Receiver
from tests.sinks.servers import ReceiverProcess, black_hole_first

trustme = pytest.importorskip("trustme")
standardwebhooks = pytest.importorskip("standardwebhooks")

KEY = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
OLD_KEY = "whsec_" + base64.b64encode(b"fedcba9876543210fedcba9876543210").decode()


class Hook(Destination):
    """A receiver in this process, whose answers a test chooses; or one that is a process of its own."""

    def __init__(self, folder: Path, *, process: bool = False) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.ca_file = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca_file))
        self.certificate = str(folder / "certificate.pem")
        self.authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(self.certificate)
        self.secret = folder / "secret"
        self.secret.write_text(f"{KEY}\n")
        self.server: Any = ReceiverProcess(self.certificate) if process else self.listen("kept")

    def listen(self, name: str) -> Receiver:
        made = Receiver(self.folder / name, certificate=self.certificate)
        made.start()
        return made

    @property
    def requests(self) -> list[Received]:
        kept: list[Received] = self.server.requests
        return kept

    @property
    def settings(self) -> WebhookSettings:
        return WebhookSettings(
            url=f"https://localhost:{self.server.port}/hook?room=7",
            secret=f"file:{self.secret}",
            ca_file=str(self.ca_file),
            timeout_s=5.0,
        )

    def received(self) -> list[dict[str, Any]]:
        events = []
        for _, headers, body in self.requests:
            event = standardwebhooks.Webhook(KEY).verify(body, headers)
            if event["type"] == EVENT_TYPE:
                data = event["data"]
                events.append({"job_id": event["id"], "verdict": data["verdict"], "name": data["subject"]["name"]})
        return events

    def secrets(self) -> list[str]:
        return [KEY, KEY.removeprefix("whsec_"), "room=7"]

    def stop(self) -> None:
        self.server.kill()

    def start(self) -> None:
        self.server.start()


@pytest.fixture
def hook(tmp_path: Path) -> Iterator[Hook]:
    made = Hook(tmp_path)
    yield made
    made.server.stop()


class TestWebhookContract(SinkContract):
    @pytest.fixture
    def destination(self, tmp_path: Path) -> Iterator[Destination]:
        made = Hook(tmp_path, process=True)
        yield made
        made.server.remove()

    def test_secrets_stay_secret(self, destination: Hook, sink: WebhookSink) -> None:  # type: ignore[override]
        # The URL is a setting; what must not be shown is the key, and the URL's query in errors.
        assert KEY not in f"{destination.settings!r} {vars(sink)!r}"


@pytest.fixture
def sink(hook: Hook) -> Iterator[WebhookSink]:
    made = WebhookSink(hook.settings)
    yield made
    made.close()


def test_event_is_a_cloudevent(hook: Hook, sink: WebhookSink) -> None:
    sink.deliver(message(1, name="Zürich.mp4"))
    ((path, headers, body),) = hook.requests
    assert path == "/hook?room=7"
    assert headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert headers["webhook-id"] == message(1).key
    http = pytest.importorskip("cloudevents.core.bindings.http", reason="the CloudEvents library is not installed")
    from cloudevents.core.formats.json import JSONFormat

    event = http.from_http_event(http.HTTPMessage(headers=headers, body=body), JSONFormat())
    assert event.get_id() == message(1).key
    assert event.get_type() == EVENT_TYPE
    assert event.get_source() == "dfwatch"
    assert event.get_subject() == "Zürich.mp4"
    assert event.get_time() == datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC)
    assert event.get_data() == message(1, name="Zürich.mp4").document


def test_key_can_be_replaced_without_a_restart(hook: Hook, sink: WebhookSink) -> None:
    hook.secret.write_text(f"{OLD_KEY}\n{KEY}\n")
    sink.deliver(message(1))
    ((_, headers, body),) = hook.requests
    for key in (KEY, OLD_KEY):
        assert standardwebhooks.Webhook(key).verify(body, headers)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(KEY).verify(body + b" ", headers)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_c2hvcnQ=", "hunter2hunter2hunter2hunter2", "whsec_*"])
def test_unusable_keys_are_refused_and_not_repeated(hook: Hook, secret: str) -> None:
    hook.secret.write_text(secret)
    with pytest.raises(SinkError) as caught:
        WebhookSink(hook.settings)
    assert "hunter2" not in str(caught.value)


def test_credential_of_systemd(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(hook.secret.parent))
    sink = WebhookSink(with_values(hook.settings, secret="credential:secret"))  # type: ignore[arg-type]
    sink.deliver(message(1))
    sink.close()
    assert len(hook.received()) == 1
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(SinkError, match="CREDENTIALS_DIRECTORY"):
        sink.deliver(message(1))


@pytest.mark.parametrize(("status", "retryable"), [(400, False), (422, False), (404, True), (500, True), (301, True)])
def test_status_says_whether_to_try_again(hook: Hook, sink: WebhookSink, status: int, retryable: bool) -> None:
    hook.server.answer = lambda _handler: (status, {"location": "/elsewhere"})
    with pytest.raises(SinkError, match=rf"{status} .*no, because") as caught:
        sink.deliver(message(1))
    assert caught.value.retryable is retryable
    assert caught.value.retry_after_s is None


def test_410_ends_it(hook: Hook, sink: WebhookSink) -> None:
    hook.server.answer = lambda _handler: (410, {})
    with pytest.raises(SinkGoneError, match="410 Gone"):
        sink.deliver(message(1))


def test_retry_after(hook: Hook, sink: WebhookSink) -> None:
    hook.server.answer = lambda _handler: (503, {"retry-after": "120"})
    with pytest.raises(SinkError) as caught:
        sink.deliver(message(1))
    assert caught.value.retry_after_s == 120.0
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert retry_after_s("Fri, 02 Jan 2026 03:05:05 GMT", now) == 60.0
    assert retry_after_s("Fri, 02 Jan 2026 03:00:00 GMT", now) == 0.0
    assert retry_after_s("soon", now) is None


def redirect(code: int, target: str) -> Answer:
    return lambda handler: (code, {"location": target}) if handler.path.startswith("/hook") else (204, {})


@pytest.mark.parametrize("code", [307, 308])
def test_redirect_to_this_machine_needs_permission(hook: Hook, sink: WebhookSink, code: int) -> None:
    hook.server.answer = redirect(code, "/moved")
    with pytest.raises(SinkError, match="private network") as caught:
        sink.deliver(message(1))
    assert caught.value.retryable
    assert not hook.requests
    allowed = WebhookSink(with_values(hook.settings, redirects_to_private=True))  # type: ignore[arg-type]
    allowed.deliver(message(1))
    allowed.close()
    ((path, _, _),) = hook.requests
    assert path == "/moved"
    assert [event["job_id"] for event in hook.received()] == [message(1).key]


def test_name_that_means_another_address_after_the_check_is_not_followed(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A redirect goes to the address that was looked at, whatever the name means a moment later."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if host == "rebind.example":
            asked.append(host)
            address = "127.0.0.1" if len(asked) > 1 else "203.0.113.9"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]
        return real(host, port, *rest, **more)

    monkeypatch.setattr(webhook.socket, "getaddrinfo", rebinding)
    monkeypatch.setattr(webhook, "_is_public", lambda address: address == "203.0.113.9")
    hook.server.answer = redirect(307, f"https://rebind.example:{hook.server.port}/stolen")
    sink = WebhookSink(with_values(hook.settings, timeout_s=0.5))  # type: ignore[arg-type]
    with pytest.raises(SinkError):
        sink.deliver(message(1))
    sink.close()
    assert asked == ["rebind.example"]
    assert not hook.requests


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("224.0.0.1", False),
        ("9.9.9.9", True),
        ("2620:fe::fe", True),
    ],
)
def test_private_addresses_are_known(address: str, public: bool) -> None:
    assert webhook._is_public(address) is public


def test_redirects_without_tls_or_end_are_refused(hook: Hook) -> None:
    sink = WebhookSink(with_values(hook.settings, redirects_to_private=True))  # type: ignore[arg-type]
    hook.server.answer = lambda _handler: (307, {"location": "/hook"})
    with pytest.raises(SinkError, match="more than 3 times"):
        sink.deliver(message(1))
    hook.server.answer = lambda _handler: (307, {"location": f"http://localhost:{hook.server.port}/"})
    with pytest.raises(SinkError, match="without TLS"):
        sink.deliver(message(1))
    sink.close()


def test_authorization_is_not_handed_to_another_place(hook: Hook, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("Bearer abc")
    settings = with_values(hook.settings, redirects_to_private=True, authorization=f"file:{tmp_path}/token")
    sink = WebhookSink(settings)  # type: ignore[arg-type]
    sink.deliver(message(1))
    other = hook.listen("elsewhere")
    hook.server.answer = redirect(307, f"https://localhost:{other.port}/hook")
    sink.deliver(message(2))
    sink.close()
    other.stop()
    assert hook.requests[0][1]["authorization"] == "Bearer abc"
    assert "authorization" not in other.requests[0][1]


@pytest.mark.parametrize(
    "value", ["Token hunter2\nToken hunter3", "Token hunter2\x00", "Token hunter2 \u2013", "Token\x85hunter2"]
)
def test_authorization_that_no_header_can_hold_is_refused_and_not_repeated(
    hook: Hook, tmp_path: Path, value: str
) -> None:
    token = tmp_path / "token"
    token.write_text("Token hunter2")
    settings = with_values(hook.settings, authorization=f"file:{token}")
    sink = WebhookSink(settings)  # type: ignore[arg-type]
    token.write_text(value, encoding="utf-8")
    for attempt in (lambda: sink.deliver(message(1)), lambda: WebhookSink(settings)):  # type: ignore[arg-type]
        with pytest.raises(SinkError, match="cannot hold") as caught:
            attempt()
        assert caught.value.retryable
        assert "hunter" not in repr(caught.value) + str(caught.value.__context__)
    sink.close()
    assert not hook.requests


def test_secrets_may_begin_with_a_byte_order_mark(hook: Hook, tmp_path: Path) -> None:
    """Some editors write one; it is no part of a key or a header."""
    (tmp_path / "token").write_text("Token abc\n", encoding="utf-8-sig")
    hook.secret.write_text(f"{KEY}\n", encoding="utf-8-sig")
    sink = WebhookSink(with_values(hook.settings, authorization=f"file:{tmp_path}/token"))  # type: ignore[arg-type]
    sink.deliver(message(1))
    sink.close()
    assert hook.requests[0].headers["authorization"] == "Token abc"
    assert len(hook.received()) == 1


def test_certificates_that_are_away_for_a_moment_cost_no_message(hook: Hook) -> None:
    with pytest.raises(SinkError, match="reading the certificates") as caught:
        WebhookSink(with_values(hook.settings, ca_file="/nowhere/ca.pem"))  # type: ignore[arg-type]
    assert caught.value.retryable


class Everywhere(Receiver):
    """Listens at every address of this machine."""

    def server_bind(self) -> None:
        self.server_address = ("0.0.0.0", self.server_address[1])
        super().server_bind()


def test_redirect_to_changing_addresses_leaves_no_connections(
    hook: Hook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificate = str(tmp_path / "other.pem")
    hook.authority.issue_cert("changing.example").private_key_and_cert_chain_pem.write_to_path(certificate)
    other = Everywhere(tmp_path / "other", certificate=certificate)
    other.start()
    real = socket.getaddrinfo
    last = iter(range(1, 100))

    def changing(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if host == "changing.example":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{next(last)}", port))]
        return real(host, port, *rest, **more)

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    monkeypatch.setattr(webhook.socket, "getaddrinfo", changing)
    hook.server.answer = redirect(307, f"https://changing.example:{other.port}/there")
    sink = WebhookSink(with_values(hook.settings, redirects_to_private=True))  # type: ignore[arg-type]
    sink.deliver(message(1))
    before = descriptors()
    for number in range(2, 7):
        sink.deliver(message(number))
    wait_until(lambda: descriptors() <= before, "nothing but the connection to the URL itself is kept", 10.0)
    sink.close()
    other.stop()
    assert len(other.requests) == 6


@pytest.mark.parametrize("target", ["https://[::1", "https://localhost:99999/", "https://localhost:x/"])
def test_redirect_to_nonsense(hook: Hook, sink: WebhookSink, target: str) -> None:
    hook.server.answer = redirect(307, target)
    with pytest.raises(SinkError, match="it redirected to") as caught:
        sink.deliver(message(1))
    assert caught.value.retryable


def test_certificate_of_nobody_is_refused(hook: Hook) -> None:
    sink = WebhookSink(with_values(hook.settings, ca_file=""))  # type: ignore[arg-type]
    with pytest.raises(SinkError, match=r"(?i)certificate") as caught:
        sink.deliver(message(1))
    assert "room=7" not in str(caught.value)


def test_slow_server_is_given_up(hook: Hook) -> None:
    hook.server.answer = lambda _handler: (time.sleep(2.0), (204, {}))[1]
    sink = WebhookSink(with_values(hook.settings, timeout_s=0.3))  # type: ignore[arg-type]
    began_s = time.monotonic()
    with pytest.raises(SinkError):
        sink.deliver(message(1))
    assert time.monotonic() - began_s < 1.5
    sink.close()


def test_server_with_an_address_that_does_not_answer_is_reached_at_the_next(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once: that waiting for the first address took time does not make an answer of the second one come too late."""
    with black_hole_first(monkeypatch, hook.server.port):
        sink = WebhookSink(with_values(hook.settings, timeout_s=2.0))  # type: ignore[arg-type]
        sink.deliver(message(1))
        sink.close()
    assert [event["job_id"] for event in hook.received()] == [message(1).key]


@pytest.mark.parametrize("encrypted", [True, False], ids=["handshake", "headers"])
def test_server_that_sends_a_byte_now_and_then_is_given_up(hook: Hook, encrypted: bool) -> None:
    """Each wait for it is short; all of them together must not be longer than the limit."""
    stopping = threading.Event()

    def drip(listener: socket.socket) -> None:
        line, _ = listener.accept()
        with line, suppress(OSError):
            # The begin of a TLS record of 16 KiB, or of a header.
            line.sendall(b"\x16\x03\x03\x40\x00" if encrypted else b"HTTP/1.1 200 OK\r\nx-long: ")
            while not stopping.wait(0.05):
                line.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        url = f"http{'s' if encrypted else ''}://localhost:{listener.getsockname()[1]}/"
        sink = WebhookSink(with_values(hook.settings, timeout_s=0.5, url=url, allow_http=True))  # type: ignore[arg-type]
        began_s = time.monotonic()
        with pytest.raises(SinkError, match=r"it did not answer within 0\.5 s"):
            sink.deliver(message(1))
        assert time.monotonic() - began_s < 5.0
        stopping.set()
        thread.join()
        sink.close()


@pytest.mark.parametrize("pause_s", [0.0, 0.05])
def test_answer_without_end_holds_nobody(hook: Hook, pause_s: float) -> None:
    """What a receiver says beyond its status is not waited for, fast or slow."""
    sent: list[int] = []

    def endless(handler: Handler) -> tuple[int, dict[str, str]]:
        handler.close_connection = True
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
        with suppress(OSError):
            while True:
                sent.append(handler.wfile.write(b"x" * (10 if pause_s else 100_000)))
                time.sleep(pause_s)
        return 200, {}

    hook.server.answer = endless
    sink = WebhookSink(with_values(hook.settings, timeout_s=1.0))  # type: ignore[arg-type]
    sink.deliver(message(1))
    wait_until(lambda: len(hook.requests) == 1, "the connection was closed")
    assert sum(sent) < 50_000_000
    hook.server.answer = lambda _handler: (204, {})
    sink.deliver(message(2))
    sink.close()
    assert [event["job_id"] for event in hook.received()] == [message(1).key, message(2).key]


def test_probe_is_marked_as_a_test(hook: Hook, sink: WebhookSink) -> None:
    assert "204" in sink.probe()
    assert json.loads(hook.requests[0][2])["type"] == TEST_TYPE


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"url": "example.org"}, "url"),
        ({"url": "https://[::1/hunter2"}, "url"),
        ({"url": "https:///hunter2"}, "url"),
        ({"url": "https://desk..example.org/hunter2"}, "url"),
        ({"url": "https://desk example.org/hunter2"}, "url"),
        ({"url": "https://example.org:hunter2/"}, "url"),
        ({"url": "https://example.org:99999/hunter2"}, "url"),
        ({"url": "https://example.org:0/hunter2"}, "url"),
        ({"headers": {"x-room": "hunter2\nwebhook-id: x"}}, "headers"),
        ({"headers": {"x-room": "\u2013hunter2"}}, "headers"),
        ({"headers": {"x room": "7"}}, "headers"),
        ({"url": "http://example.org/"}, "url"),
        ({"url": "https://me:hunter2@example.org/"}, "url"),
        ({"secret": "whsec_hunter2"}, "secret"),
        ({"secret": "file:relative"}, "secret"),
        ({"authorization": "Bearer hunter2"}, "authorization"),
        ({"headers": {"Webhook-Id": "x"}}, "headers"),
    ],
)
def test_settings_that_cannot_work(hook: Hook, changes: dict[str, Any], setting: str) -> None:
    ((name, cause, hint),) = with_values(hook.settings, **changes).problems()
    assert name == setting
    assert "hunter2" not in cause + hint


@pytest.mark.parametrize("url", ["https://[::1]:8443/x", "https://desk.example.org./x", "https://bücher.example:443"])
def test_urls_that_are_taken(hook: Hook, url: str) -> None:
    assert with_values(hook.settings, url=url).problems() == []
