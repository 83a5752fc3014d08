"""notify: chat by apprise's own JSON service to a real HTTP server, mail to a real SMTP server."""

from __future__ import annotations

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
        assert sink.probe() == "1 place took a test message"
    finally:
        server.stop()
    letter, test = mailbox.letters
    assert letter["Subject"] == "Zürich.mp4: FAKE (confidence 93%)"
    assert "desk@news.example" in letter["To"]
    text = letter.get_body(("html", "plain"))
    assert text is not None
    assert message(1).key in text.get_content()
    assert test["Subject"] == "dfwatch: this is a test"


def test_mail_server_that_is_down(tmp_path: Path) -> None:
    urls = tmp_path / "urls"
    urls.write_text(f"mailto://hunter2:hunter2@127.0.0.1:{free_port()}/?from=a@b.example&to=c@d.example&mode=insecure")
    with pytest.raises(SinkError) as caught:
        NotifySink(NotifySettings(urls=f"file:{urls}", timeout_s=5.0)).deliver(message(1))
    assert caught.value.retryable
    assert "hunter2" not in str(caught.value)
