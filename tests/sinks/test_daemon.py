"""The real daemon with sinks: killed, reloaded, asked by the commands; and a sink of a package of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dfwatch.cli import main
from dfwatch.console.exits import Exit
from dfwatch.jobs.outbox import Outbox
from dfwatch.journal import Journal
from dfwatch.sinks.testing import message, publish
from dfwatch.storage.layout import Layout
from tests.service.daemon import REPOSITORY, Daemon, wait_for


class SinkDaemon(Daemon):
    """A daemon whose configuration can hold sinks."""

    def sinks(self, *sinks: dict[str, Any]) -> None:
        configured = yaml.safe_load(self.config.read_text())
        self.config.write_text(yaml.safe_dump({**configured, "sinks": list(sinks)}))

    def command(self, *arguments: str) -> int:
        return main([*arguments, "--config", str(self.config)])

    def reload(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[SinkDaemon]:
    made = SinkDaemon(tmp_path)
    yield made
    made.kill()


@pytest.fixture
def sink_file(tmp_path: Path) -> dict[str, Any]:
    return {"type": "jsonl", "path": "verdicts.jsonl", "retry_delay_s": 0.1, "retry_longest_s": 0.3}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def test_every_outcome_reaches_the_sink_and_equals_its_sidecar(daemon: SinkDaemon, sink_file: dict[str, Any]) -> None:
    fakes = {**sink_file, "name": "fakes", "path": "fakes.jsonl", "verdicts": ["FAKE"]}
    daemon.sinks(sink_file, fakes)
    daemon.start()
    for name, text in (("a.mp4", "fake"), ("b.mp4", "real"), ("c.mp4", "corrupt"), ("d.txt", "fake")):
        daemon.drop(name, text)
    sidecars = daemon.settle(4)
    wait_for(lambda: len(lines(daemon.folder / "verdicts.jsonl")) == 4, "four lines")
    wait_for(lambda: lines(daemon.folder / "fakes.jsonl"), "the fake one")
    by_job = {document["job_id"]: document for document in lines(daemon.folder / "verdicts.jsonl")}
    assert by_job == {document["job_id"]: document for document in sidecars.values()}
    assert [document["subject"]["name"] for document in lines(daemon.folder / "fakes.jsonl")] == ["a.mp4"]
    assert daemon.stop() == 0


@pytest.mark.parametrize("crash_at", ["sidecar.renamed", "job.published", "disposal.moved"])
def test_nothing_is_lost_when_the_daemon_dies(daemon: SinkDaemon, sink_file: dict[str, Any], crash_at: str) -> None:
    daemon.sinks(sink_file)
    daemon.start(crash_at=crash_at)
    daemon.drop("a.mp4", "fake")
    assert daemon.wait_until_dead() == -signal.SIGKILL
    daemon.start()
    daemon.drop("b.mp4", "real")
    daemon.settle(2)
    wait_for(lambda: len({line["job_id"] for line in lines(daemon.folder / "verdicts.jsonl")}) == 2, "both outcomes")
    daemon.stop()
    names = [line["subject"]["name"] for line in lines(daemon.folder / "verdicts.jsonl")]
    assert list(dict.fromkeys(names)) == ["a.mp4", "b.mp4"]


def test_what_waits_survives_a_kill_and_a_removed_sidecar(daemon: SinkDaemon, sink_file: dict[str, Any]) -> None:
    folder = daemon.folder / "out"
    folder.write_text("a file, where the sink wants a folder")
    daemon.sinks({**sink_file, "path": "out/verdicts.jsonl"})
    daemon.start()
    daemon.drop("a.mp4", "fake")
    document = daemon.sidecar("a.mp4")
    wait_for(lambda: any("does not take" in event for event in daemon.events()), "the failure is logged")
    daemon.kill()
    (daemon.root / "results" / "a.mp4.json").unlink()
    folder.unlink()
    daemon.start()
    wait_for(lambda: lines(folder / "verdicts.jsonl") == [document], "the outcome")


def test_sighup_adds_changes_and_removes_sinks(daemon: SinkDaemon, sink_file: dict[str, Any]) -> None:
    daemon.start()
    daemon.drop("a.mp4", "fake")
    daemon.settle(1)
    daemon.sinks(sink_file)
    daemon.reload()
    wait_for(lambda: "setting changed" in daemon.events(), "the new settings")
    daemon.drop("b.mp4", "fake")
    wait_for(lambda: len(lines(daemon.folder / "verdicts.jsonl")) == 1, "the line in the first file")
    daemon.sinks({**sink_file, "path": "other.jsonl"})
    daemon.reload()
    wait_for(lambda: daemon.events().count("setting changed") == 2, "the new path")
    daemon.drop("c.mp4", "fake")
    wait_for(lambda: len(lines(daemon.folder / "other.jsonl")) == 1, "the line in the second file")
    daemon.sinks()
    daemon.reload()
    wait_for(lambda: daemon.events().count("setting changed") == 3, "no sinks")
    daemon.drop("d.mp4", "fake")
    daemon.settle(4)
    daemon.stop()
    assert [line["subject"]["name"] for line in lines(daemon.folder / "verdicts.jsonl")] == ["b.mp4"]
    assert [line["subject"]["name"] for line in lines(daemon.folder / "other.jsonl")] == ["c.mp4"]


def test_failing_sink_is_seen_replayed_and_forgotten(
    daemon: SinkDaemon, sink_file: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    picky = {"type": "command", "name": "picky", "command": ["/bin/sh", "-c", "test -e ok || exit 65"]}
    daemon.sinks(sink_file, {**picky, "command": ["/bin/sh", "-c", f"test -e {daemon.folder}/ok || exit 65"]})
    daemon.start()
    daemon.drop("a.mp4", "fake")

    def sinks() -> dict[str, Any]:
        capsys.readouterr()
        assert daemon.command("status", "--json") == Exit.OK
        return {sink["name"]: sink for sink in json.loads(capsys.readouterr().out)["sinks"]}

    wait_for(lambda: sinks()["picky"]["dead"] == 1, "the message is dead")
    wait_for(lambda: sinks()["jsonl"]["delivered"] == 1, "the other sink has it")
    assert daemon.command("status") == Exit.OK
    assert "1 dead" in capsys.readouterr().out
    (daemon.folder / "ok").touch()
    (daemon.root / "results" / "a.mp4.json").unlink()
    assert daemon.command("sinks", "replay", "--dead", "--since", "2999-01-01") == Exit.OK
    assert "picky: 0 queued" in capsys.readouterr().out
    assert daemon.command("sinks", "replay", "--dead") == Exit.OK
    assert "picky: 1 queued" in capsys.readouterr().out
    wait_for(lambda: sinks()["picky"]["delivered"] == 1, "delivered after all")
    assert sinks()["picky"]["dead"] == 0
    assert daemon.command("sinks", "replay", "--since", "1h", "--sink", "jsonl") == Exit.FOUND
    assert "1 left out" in capsys.readouterr().err
    (daemon.root / "results" / "a.mp4.json").write_text(json.dumps(lines(daemon.folder / "verdicts.jsonl")[0]))
    assert daemon.command("sinks", "replay", "--since", "1h", "--sink", "jsonl") == Exit.OK
    wait_for(lambda: len(lines(daemon.folder / "verdicts.jsonl")) == 2, "the same again")
    first, second = lines(daemon.folder / "verdicts.jsonl")
    assert first == second
    assert daemon.command("sinks", "replay", "--since", "2999-01-01") == Exit.OK
    assert "jsonl: 0 queued" in capsys.readouterr().out
    daemon.stop()
    daemon.sinks(sink_file)
    assert sinks()["picky"]["state"] == "not configured"
    assert daemon.command("sinks", "forget", "picky", "--dead") == Exit.OK
    assert "picky: 0 messages dropped" in capsys.readouterr().out
    assert daemon.command("sinks", "forget", "picky") == Exit.OK
    assert "picky" not in sinks()


def test_commands_of_sinks(daemon: SinkDaemon, sink_file: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert daemon.command("sinks", "list") == Exit.OK
    assert "no sinks" in capsys.readouterr().out
    (daemon.folder / "in-the-way").touch()
    daemon.sinks(sink_file, {**sink_file, "name": "broken", "path": "in-the-way/x.jsonl"})
    assert daemon.command("sinks", "list", "--json") == Exit.OK
    assert [sink["name"] for sink in json.loads(capsys.readouterr().out)] == ["jsonl", "broken"]
    assert daemon.command("sinks", "test", "jsonl") == Exit.OK
    assert str(daemon.folder / "verdicts.jsonl") in capsys.readouterr().out
    assert daemon.command("sinks", "test", "broken") == Exit.FOUND
    assert "broken:" in capsys.readouterr().err
    assert daemon.command("sinks", "test", "nobody") == Exit.USAGE
    assert "there: jsonl, broken" in capsys.readouterr().err
    assert daemon.command("sinks", "replay", "--since", "yesterday") == Exit.USAGE
    assert daemon.command("sinks", "replay") == Exit.USAGE
    assert "--dead" in capsys.readouterr().err
    assert main(["sinks", "kinds"]) == Exit.OK
    assert {"jsonl", "csv", "command"} <= {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert daemon.command("check-config", "--show") == Exit.OK
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["sinks"][1]["path"] == str(daemon.folder / "in-the-way" / "x.jsonl")


def test_replay_leaves_out_what_is_switched_off_unless_it_is_named(
    daemon: SinkDaemon, sink_file: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.sinks(sink_file, {**sink_file, "name": "off", "path": "off.jsonl", "enabled": False})
    layout = Layout(str(daemon.root))
    layout.create()
    journal = Journal(layout.journal)
    publish(journal, message(1), ["jsonl"])
    outbox = Outbox(journal)
    assert daemon.command("sinks", "replay", "--since", "2000-01-01") == Exit.OK
    told = capsys.readouterr()
    assert told.out == "jsonl: 0 queued\n"
    assert "off: switched off" in told.err
    assert outbox.state("off").queued == 0
    assert daemon.command("sinks", "replay", "--since", "2000-01-01", "--sink", "off") == Exit.OK
    assert capsys.readouterr().out == "off: 1 queued\n"
    assert outbox.state("off").queued == 1
    journal.close()


@pytest.mark.parametrize(
    ("sinks", "complaint"),
    [
        ([{"type": "jsonl"}], "path' is missing"),
        ([{"type": "jsonl", "path": "a"}, {"type": "jsonl", "path": "b"}], "two sinks are called 'jsonl'"),
        ([{"type": "jsonl", "path": "a", "name": "a b"}], "sinks[0].name' is 'a b'"),
        ([{"type": "command", "command": []}], "names no program"),
        ([{"type": "jsnol", "path": "a"}], "did you mean 'jsonl'?"),
        ([{"type": "jsonl", "path": "a", "verdicts": ["FALSE"]}], "FAKE"),
        ([{"type": "webhook", "url": "https://[::1", "secret": "env:KEY"}], "'sinks[0].url' is not a URL"),
        ([{"type": "redis", "url": "redis://host:port"}], "'sinks[0].url' has a port that is not a number"),
    ],
)
def test_mistakes_are_named(
    daemon: SinkDaemon, capsys: pytest.CaptureFixture[str], sinks: list[dict[str, Any]], complaint: str
) -> None:
    daemon.sinks(*sinks)
    assert daemon.command("check-config") == Exit.FOUND
    assert complaint in capsys.readouterr().err
    assert daemon.command("run") == Exit.USAGE


def test_sighup_with_a_mistyped_url_leaves_the_service_as_it_was(daemon: SinkDaemon, sink_file: dict[str, Any]) -> None:
    daemon.sinks(sink_file)
    daemon.start()
    daemon.sinks(sink_file, {"type": "webhook", "url": "https://[::1", "secret": "env:KEY"})
    daemon.reload()
    wait_for(lambda: any("not taken" in event for event in daemon.events()), "the file is refused")
    daemon.drop("a.mp4", "fake")
    wait_for(lambda: len(lines(daemon.folder / "verdicts.jsonl")) == 1, "the line")
    assert daemon.stop() == 0


def test_reload_tells_which_sinks_changed_and_not_what_they_hold(daemon: SinkDaemon, sink_file: dict[str, Any]) -> None:
    pytest.importorskip("urllib3")
    (daemon.folder / "key").write_text("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
    desk = {
        "type": "webhook",
        "name": "desk",
        "url": "https://chat.example/hunter2",
        "secret": f"file:{daemon.folder}/key",
    }
    daemon.sinks(sink_file, desk)
    daemon.start()
    daemon.sinks({**desk, "url": "https://chat.example/hunter3"}, {**sink_file, "name": "more"})
    daemon.reload()
    wait_for(lambda: "setting changed" in daemon.events(), "the new settings")
    daemon.stop()
    (told,) = [line for line in daemon.lines() if line["event"] == "setting changed"]
    assert told["setting"] == "sinks"
    assert told["new"] == ["desk (webhook) changed", "more (jsonl) added", "jsonl (jsonl) removed"]
    assert "hunter" not in daemon.log.read_text()


# --- a sink of somebody else


@pytest.fixture
def package(tmp_path: Path) -> Callable[[str], Path]:
    """Installs a package with a sink into a folder of its own, as pip would."""

    def install(module: str) -> Path:
        folder = tmp_path / "site"
        metadata = folder / "house_sinks-1.0.dist-info"
        metadata.mkdir(parents=True)
        (folder / "house_sinks.py").write_text(textwrap.dedent(module))
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: house-sinks\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text("[dfwatch.sinks]\nbulletin = house_sinks:BulletinSink\n")
        return folder

    return install


BULLETIN = '''
    from dataclasses import MISSING, dataclass

    from dfwatch.config import SinkSettings, setting
    from dfwatch.errors import SinkError
    from dfwatch.sinks import Sink


    @dataclass(frozen=True, slots=True, kw_only=True)
    class BulletinSettings(SinkSettings):
        type: str = setting("bulletin", doc="Kind of sink.")
        board: str = setting(MISSING, doc="The board.", path=True)


    class BulletinSink(Sink):
        """Pins outcomes to a board."""

        settings_type = BulletinSettings

        def __init__(self, settings):
            self._board = settings.board

        def deliver(self, message):
            document = message.document
            line = f"{message.key}|{document['verdict'] or ''}|{document['subject']['name']}"
            try:
                with open(self._board, "a", encoding="utf-8") as board:
                    board.write(line + chr(10))
            except OSError as error:
                raise SinkError("pinning to", self._board, error.strerror) from error

        def probe(self):
            try:
                open(self._board, "a").close()
            except OSError as error:
                raise SinkError("looking at", self._board, error.strerror) from error
            return "the board is there"
'''

CONTRACT = """
    import pytest
    from house_sinks import BulletinSettings
    from dfwatch.sinks.testing import Destination, SinkContract


    class Board(Destination):
        def __init__(self, folder):
            self.folder = folder / "hall"
            self.folder.mkdir()

        @property
        def settings(self):
            return BulletinSettings(board=str(self.folder / "board"))

        def received(self):
            rows = [line.split("|") for line in (self.folder / "board").read_text().splitlines()]
            return [{"job_id": key, "verdict": verdict or None, "name": name} for key, verdict, name in rows]

        def stop(self):
            self.folder.rename(self.folder.with_name("away"))

        def start(self):
            self.folder.with_name("away").rename(self.folder)


    class TestBulletin(SinkContract):
        @pytest.fixture
        def destination(self, tmp_path):
            return Board(tmp_path)
"""


def test_sink_of_a_third_party_is_found_configured_and_used(
    daemon: SinkDaemon, package: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(package(BULLETIN)))
    daemon.sinks({"type": "bulletin", "board": "board.txt"})
    daemon.start()
    daemon.drop("a.mp4", "fake")
    board = daemon.folder / "board.txt"
    wait_for(lambda: board.exists() and "FAKE|a.mp4" in board.read_text(), "the bulletin")
    daemon.stop()


def test_sink_of_a_third_party_passes_the_contract(package: Callable[[str], Path], tmp_path: Path) -> None:
    site = package(BULLETIN)
    (tmp_path / "test_contract.py").write_text(textwrap.dedent(CONTRACT))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "test_contract.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{REPOSITORY}"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "10 passed" in done.stdout


def test_package_whose_sink_cannot_be_made_does_not_stop_the_service(
    daemon: SinkDaemon,
    sink_file: dict[str, Any],
    package: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SIGHUP brings a sink that raises what no sink should."""
    broken = BULLETIN.replace("self._board = settings.board", "raise RuntimeError('no')")
    monkeypatch.setenv("PYTHONPATH", str(package(broken)))
    daemon.sinks(sink_file)
    daemon.start()
    daemon.sinks(sink_file, {"type": "bulletin", "board": "board.txt"})
    daemon.reload()
    wait_for(
        lambda: any("not taken" in event or "cannot be made" in event for event in daemon.events()), "it is in the log"
    )
    daemon.drop("a.mp4", "fake")
    wait_for(lambda: lines(daemon.folder / "verdicts.jsonl"), "the outcome")
    assert daemon.stop() == 0


@pytest.mark.parametrize(
    ("module", "told"),
    [
        ("raise SystemExit('house_sinks needs another Python')", "cannot be loaded"),
        (BULLETIN.replace("settings_type = BulletinSettings", ""), "no settings_type"),
        (BULLETIN.replace("settings_type = BulletinSettings", "settings_type = dict"), "no settings_type"),
    ],
)
def test_package_whose_sink_is_none_is_left_out(
    module: str, told: str, package: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text("sinks: [{type: jsonl, path: a.jsonl}]\n")
    environment = {**os.environ, "PYTHONPATH": f"{package(module)}{os.pathsep}{REPOSITORY}"}
    for arguments in (["check-config", "--config", str(tmp_path / "config.yaml")], ["sinks", "kinds"]):
        done = subprocess.run(
            [sys.executable, "-m", "dfwatch", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == Exit.OK, done.stderr
        assert told in done.stdout + done.stderr
        assert "bulletin " not in done.stdout


def test_sink_that_says_nothing_of_itself_is_listed(package: Callable[[str], Path]) -> None:
    """As the example of docs/sinks.md, which has no docstring."""
    module = BULLETIN.replace('"""Pins outcomes to a board."""', "")
    done = subprocess.run(
        [sys.executable, "-m", "dfwatch", "sinks", "kinds"],
        env={**os.environ, "PYTHONPATH": f"{package(module)}{os.pathsep}{REPOSITORY}"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "bulletin" in done.stdout.splitlines(), done.stderr


def test_broken_package_does_not_stop_the_service(
    daemon: SinkDaemon,
    sink_file: dict[str, Any],
    package: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(package("raise RuntimeError('no')")))
    daemon.sinks(sink_file)
    daemon.start()
    daemon.drop("a.mp4", "fake")
    wait_for(lambda: lines(daemon.folder / "verdicts.jsonl"), "the outcome")
    daemon.stop()
