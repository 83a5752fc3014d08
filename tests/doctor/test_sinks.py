"""What the doctor says of sinks; none of them is called."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dfwatch.doctor.finding import Finding, Health
from dfwatch.doctor.sinks import sinks
from dfwatch.jobs.outbox import Outbox
from dfwatch.journal import Journal
from dfwatch.sinks.jsonl import JsonlSettings, JsonlSink
from dfwatch.sinks.notify import NotifySettings
from dfwatch.sinks.testing import message, publish
from dfwatch.sinks.webhook import WebhookSettings
from dfwatch.storage.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dfwatch.config import SinkSettings


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    layout = Layout(str(tmp_path))
    layout.create()
    made = Journal(layout.journal)
    yield made
    made.close()


def examined(root: Path, *settings: SinkSettings, offline: bool = False) -> list[tuple[Health, str, str]]:
    found: list[Finding] = list(sinks(str(root), settings, lambda: offline))
    assert {finding.name for finding in found} <= {"sink"}
    return [(finding.health, finding.found, finding.advice) for finding in found]


def lines_to(folder: Path, **changes: object) -> JsonlSettings:
    return JsonlSettings(path=str(folder / "verdicts.jsonl"), **changes)  # type: ignore[arg-type]


def test_without_sinks_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert examined(tmp_path) == []


def test_a_sink_that_works_or_is_off_is_no_trouble(tmp_path: Path) -> None:
    off = lines_to(tmp_path, name="off", enabled=False)
    assert [health for health, _, _ in examined(tmp_path, lines_to(tmp_path), off)] == [Health.OK, Health.OK]
    assert list(tmp_path.iterdir()) == [], "nothing was written"


def test_each_trouble_comes_with_its_command(tmp_path: Path, journal: Journal) -> None:
    outbox = Outbox(journal)
    names = ["failing", "gone", "given-up", "left-over"]
    for number in range(2):
        publish(journal, message(number), names)
    (entry, _) = outbox.waiting("failing", 2)
    outbox.failed("failing", entry, failures=7, retry_at="2999-01-01T00:00:00.000Z", error="connection refused")
    outbox.gone("gone", cause="abc it answered 410 Gone")
    (entry, other) = outbox.waiting("given-up", 2)
    outbox.set_aside("given-up", entry, error="unprocessable")
    outbox.delivered("given-up", other)
    found = examined(tmp_path, *(lines_to(tmp_path, name=name) for name in names[:3]))
    assert [health for health, _, _ in found] == [Health.WARN] * 4
    (failing, gone, dead, left) = [f"{text} → {advice}" for _, text, advice in found]
    assert "failing fails, 7 times in a row" in failing
    assert "connection refused" in failing
    assert "dfwatch sinks test failing" in failing
    assert "410 Gone" in gone
    assert "abc" not in gone, "what tells settings apart is nobody's concern"
    assert "dfwatch sinks enable gone" in gone
    assert "1 dead" in dead
    assert "dfwatch sinks replay --dead --sink given-up" in dead
    assert "dfwatch sinks forget left-over" in left


def test_what_keeps_a_sink_from_being_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    hook = {"url": "https://example.org/", "type": "webhook"}
    absent = WebhookSettings(secret=f"file:{tmp_path}/none", **hook)  # type: ignore[arg-type]
    ((health, found, advice),) = examined(tmp_path, absent)
    assert health is Health.WARN, "the service starts, and tries again"
    assert "No such file" in found
    assert advice
    ((health, found, _),) = examined(tmp_path, WebhookSettings(secret="credential:hook", **hook))  # type: ignore[arg-type]
    assert health is Health.OK, "only the service itself can read it"
    assert "0 delivered" in found

    monkeypatch.setitem(sys.modules, "apprise", None)
    ((health, found, advice),) = examined(tmp_path, NotifySettings(urls="env:URLS"))
    assert health is Health.FAIL, "the service does not start"
    assert advice == "pip install 'dfwatch[notify]'"


def test_a_sink_that_breaks_while_it_is_made_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a package's may; its words are not repeated, for they may be a secret."""

    def broken(_sink: JsonlSink, _settings: JsonlSettings) -> None:
        raise KeyError("hunter2")

    monkeypatch.setattr(JsonlSink, "__init__", broken)
    absent = WebhookSettings(url="https://example.org/", secret=f"file:{tmp_path}/none")
    odd, other = examined(tmp_path, lines_to(tmp_path, name="odd"), absent)
    assert odd[:2] == (Health.WARN, "odd cannot be made: KeyError"), "the service starts, and tries again"
    assert "dfwatch sinks test odd" in odd[2]
    assert "No such file" in other[1]


def test_a_unit_without_network_is_named_as_the_reason(tmp_path: Path, journal: Journal) -> None:
    secret = tmp_path / "secret"
    secret.write_text("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
    hook = WebhookSettings(name="hook", url="https://example.org/", secret=f"file:{secret}")
    outbox = Outbox(journal)
    publish(journal, message(1), ["hook", "jsonl"])
    for name in ("hook", "jsonl"):
        (entry,) = outbox.waiting(name, 1)
        outbox.failed(name, entry, failures=1, retry_at="2999-01-01T00:00:00.000Z", error="unreachable")
    found = examined(tmp_path, hook, lines_to(tmp_path), offline=True)
    assert ["install-units --network" in advice for _, _, advice in found] == [True, False]
    assert not any("install-units" in advice for _, _, advice in examined(tmp_path, hook, lines_to(tmp_path)))
