"""notify: chat by apprise's own JSON service to a real HTTP server, mail to a real SMTP server."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default as default_policy
from pathlib import Path
from typing import Any

import pytest

from dfwatch.errors import SinkError
from dfwatch.sinks.filters import wants
from dfwatch.sinks.notify import NotifySettings, NotifySink, describe
from dfwatch.sinks.samples import sample
from dfwatch.sinks.testing import Destination, SinkContract, message
from tests.servers import free_port
from tests.sinks.receiver import Receiver
from tests.sinks.servers import ReceiverProcess

pytest.importorskip("apprise")
smtp = pytest.importorskip("aiosmtpd.controller")
# A library of apprise's needs a module that Python 3.13 has no more, and brings its own where it is gone.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

TITLE = re.compile(r"(?P<name>.*): (?P<verdict>[A-Z_]+|rejected)(?: \(confidence \d+%\))?", re.DOTALL)


class Room(Destination):
    def __init__(self, folder: Path) -> None:
        self.server = ReceiverProcess()
        self.urls = folder / "urls"
        self.urls.write_text(f"# the newsroom\njson://127.0.0.1:{self.server.port}/hunter2-token/\n")

    @property
    def settings(self) -> NotifySettings:
        return NotifySettings(urls=f"file:{self.urls}", timeout_s=3.0)

    def received(self) -> list[dict[str, Any]]:
        found = []
        for request in self.server.requests:
            told = json.loads(request.body)
            title = TITLE.fullmatch(told["title"])
            job = re.search(r"job (\S+)\.$", told["message"])
            if title is not None and job is not None:
                verdict = None if title["verdict"] == "rejected" else title["verdict"]
                found.append({"job_id": job[1], "verdict": verdict, "name": title["name"]})
        return found

    def secrets(self) -> list[str]:
        return ["hunter2"]

    def stop(self) -> None:
        self.server.kill()

    def start(self) -> None:
        self.server.start()


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    yield made
    made.server.remove()


class TestNotifyContract(SinkContract):
    @pytest.fixture
    def destination(self, room: Room) -> Destination:
        return room


def test_message_says_that_a_score_is_no_proof(room: Room) -> None:
    document = {**sample(), "limits": ["A score is not proof."]}
    title, body = describe(document)
    assert title == "sample.mp4: FAKE (confidence 93%)"
    assert body.startswith("A score is not proof.")
    assert describe(sample(confidence=0.997))[0] == "sample.mp4: FAKE (confidence more than 99%)"
    title, body = describe(sample(verdict=None))
    assert title == "sample.mp4: rejected"
    assert "not judged" in body


def test_only_fakes_are_told_of_unless_asked(room: Room) -> None:
    assert wants(room.settings, sample())
    assert not wants(room.settings, sample(verdict="REAL"))
    assert not wants(room.settings, sample(verdict=None))


def test_url_that_apprise_does_not_know(room: Room) -> None:
    room.urls.write_text("nonsense://hunter2\n")
    with pytest.raises(SinkError, match="line 1") as caught:
        NotifySink(room.settings).deliver(message(1))
    assert "hunter2" not in str(caught.value)


def test_file_without_urls(room: Room) -> None:
    room.urls.write_text("# nobody yet\n")
    with pytest.raises(SinkError, match="only comments") as caught:
        NotifySink(room.settings).deliver(message(1))
    assert caught.value.retryable


def test_only_places_that_did_not_take_it_are_told_again(room: Room, tmp_path: Path) -> None:
    """One that works is told once, however long another one fails; and a mistyped line holds up nobody."""
    other = Receiver(tmp_path / "kept")
    other.answer = lambda _handler: (500, {})
    other.start()
    good = room.urls.read_text()
    flaky = f"json://127.0.0.1:{other.port}/"
    room.urls.write_text(f"{good}nonsense://hunter2\n{flaky}\n")
    sink = NotifySink(room.settings)
    for _ in range(3):
        with pytest.raises(SinkError) as caught:
            sink.deliver(message(1))
        sink.close()
        assert caught.value.cause == (
            "line 2 of its URLs is not one that apprise knows; line 3 of its URLs did not take it"
        )
        assert caught.value.retryable
    assert [record["job_id"] for record in room.received()] == [message(1).key]
    assert not other.requests
    other.answer = lambda _handler: (200, {})
    room.urls.write_text(f"{good}{flaky}\n")
    sink.deliver(message(1))
    assert len(room.received()) == len(other.requests) == 1
    # What is sent again on purpose reaches everybody.
    sink.deliver(message(1))
    other.stop()
    assert len(room.received()) == len(other.requests) == 2


def test_what_is_remembered_of_messages_is_bounded(room: Room) -> None:
    room.urls.write_text("nonsense://\n")
    sink = NotifySink(room.settings)
    for number in range(150):
        with pytest.raises(SinkError):
            sink.deliver(message(number))
    assert len(sink._took) == 100


def test_file_name_is_text_for_every_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Telegram shows HTML, Discord Markdown; a name can neither hold markup nor call anybody."""
    from apprise.plugins.discord import NotifyDiscord
    from apprise.plugins.telegram import NotifyTelegram

    server = Receiver(tmp_path / "kept")
    server.answer = lambda _handler: (200, {})
    server.start()
    monkeypatch.setattr(NotifyTelegram, "notify_url", f"http://127.0.0.1:{server.port}/bot")
    monkeypatch.setattr(NotifyDiscord, "notify_url", f"http://127.0.0.1:{server.port}/discord")
    urls = tmp_path / "urls"
    urls.write_text(f"tgram://123456789:{'a' * 34}/12315544/\ndiscord://{'A' * 24}/{'B' * 64}\n")
    name = "<b>@everyone [click](https:evil.example) <!channel> [x]: & y.mp4"
    NotifySink(NotifySettings(urls=f"file:{urls}", timeout_s=20.0)).deliver(message(1, name=name))
    server.stop()
    told = {request.path[:4]: json.loads(request.body) for request in server.requests}
    telegram, discord = told["/bot"]["text"], told["/dis"]["content"]
    assert told["/bot"]["parse_mode"] == "HTML"
    for text, shown in ((telegram, html.unescape(telegram)), (discord, discord)):
        assert not re.search(r"@everyone|\]\(|\]:", text)
        assert name in shown.replace("\u200b", "")
    # The bold letters are Telegram's title; no other tag is one.
    assert re.findall(r"<[^\u200b].*?>", telegram) == ["<b>", "</b>"]
    assert not re.search(r"<[!b]", discord)


def test_urls_are_never_in_the_configuration() -> None:
    ((name, cause, hint),) = NotifySettings(urls="slack://hunter2").problems()
    assert name == "urls"
    assert "hunter2" not in cause + hint


class Mailbox:
    """Keeps the mail that an SMTP server takes."""

    def __init__(self) -> None:
        self.letters: list[EmailMessage] = []

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's
        self.letters.append(message_from_bytes(envelope.content, policy=default_policy))
        return "250 taken"


def test_mail_reaches_a_mail_server(tmp_path: Path) -> None:
    mailbox = Mailbox()
    server = smtp.Controller(mailbox, hostname="127.0.0.1", port=free_port(), server_hostname="localhost")
    server.start()
    try:
        urls = tmp_path / "urls"
        urls.write_text(
            f"mailto://127.0.0.1:{server.port}/?from=dfwatch@news.example&to=desk@news.example&mode=insecure"
        )
        sink = NotifySink(NotifySettings(urls=f"file:{urls}", timeout_s=20.0))
        sink.deliver(message(1, name="Zürich.mp4"))
        sink.deliver(message(2, name="<a href='https:evil.example'>look.mp4", verdict=None))
        assert sink.probe() == "1 place took a test message"
    finally:
        server.stop()
    letter, hostile, test = mailbox.letters
    assert letter["Subject"] == "Zürich.mp4: FAKE (confidence 93%)"
    assert "desk@news.example" in letter["To"]
    text = letter.get_body(("html", "plain"))
    assert text is not None
    assert text.get_content_type() == "text/plain"
    first, second = text.get_content().split("\n")[:2]
    assert "made-up" in first
    assert message(1).key in second
    assert hostile.get_body(("html",)) is None
    assert hostile["Subject"].replace("\u200b", "").startswith("<a href=")
    assert test["Subject"] == "dfwatch: this is a test"


def test_mail_server_that_is_down(tmp_path: Path) -> None:
    urls = tmp_path / "urls"
    urls.write_text(f"mailto://hunter2:hunter2@127.0.0.1:{free_port()}/?from=a@b.example&to=c@d.example&mode=insecure")
    with pytest.raises(SinkError) as caught:
        NotifySink(NotifySettings(urls=f"file:{urls}", timeout_s=5.0)).deliver(message(1))
    assert caught.value.retryable
    assert "hunter2" not in str(caught.value)
