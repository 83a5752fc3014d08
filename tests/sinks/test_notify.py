"""notify through apprise's own JSON service to a real HTTP server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dfwatch.errors import SinkError
from dfwatch.sinks.filters import wants
from dfwatch.sinks.notify import NotifySettings, NotifySink, describe
from dfwatch.sinks.samples import sample
from dfwatch.sinks.testing import Destination, SinkContract, message
from tests.sinks.servers import ReceiverProcess

pytest.importorskip("apprise")
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
