"""jsonl, csv and command."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dfwatch.document import schema
from dfwatch.errors import SinkError
from dfwatch.sinks.command import CommandSettings, CommandSink
from dfwatch.sinks.csv_file import CsvSettings, CsvSink
from dfwatch.sinks.jsonl import JsonlSettings, JsonlSink
from dfwatch.sinks.samples import sample
from dfwatch.sinks.testing import Destination, SinkContract, message, wait_until
from tests import programs
from tests.sinks.folders import Removable


class FileDestination(Destination):
    """A file whose folder is taken away while it is down."""

    def __init__(self, folder: Path) -> None:
        self.folder = Removable(folder)
        self.path = self.folder.path / "verdicts"

    def text(self) -> str:
        """What was written; nothing before the first outcome."""
        return self.path.read_text(encoding="utf-8") if self.path.exists() else ""

    def stop(self) -> None:
        self.folder.take_away()

    def start(self) -> None:
        self.folder.bring_back()


class JsonlDestination(FileDestination):
    @property
    def settings(self) -> JsonlSettings:
        return JsonlSettings(path=str(self.path))

    def received(self) -> list[dict[str, Any]]:
        documents = [json.loads(line) for line in self.text().splitlines()]
        return [{**document, "name": document["subject"]["name"]} for document in documents]


class CsvDestination(FileDestination):
    @property
    def settings(self) -> CsvSettings:
        return CsvSettings(path=str(self.path))

    def received(self) -> list[dict[str, Any]]:
        rows = csv.DictReader(io.StringIO(self.text()))
        return [{**row, "verdict": row["verdict"] or None} for row in rows]


PROGRAM = """
import json, os, sys
document = json.load(sys.stdin)
assert os.environ["DFWATCH_JOB_ID"] == document["job_id"]
assert os.environ["DFWATCH_VERDICT"] == (document["verdict"] or "")
with open(sys.argv[1], "a") as out:
    out.write(json.dumps(document) + chr(10))
"""


class CommandDestination(JsonlDestination):
    """A program that appends what it is given to a file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.program = self.folder.path / "program"
        self.program.write_text(f"#!{sys.executable} -IS{PROGRAM}")
        self.program.chmod(0o755)

    @property
    def settings(self) -> CommandSettings:  # type: ignore[override]
        return CommandSettings(command=[str(self.program), str(self.path)])


class TestJsonlContract(SinkContract):
    @pytest.fixture
    def destination(self, tmp_path: Path) -> Destination:
        return JsonlDestination(tmp_path)


class TestCsvContract(SinkContract):
    @pytest.fixture
    def destination(self, tmp_path: Path) -> Destination:
        return CsvDestination(tmp_path)


class TestCommandContract(SinkContract):
    @pytest.fixture
    def destination(self, tmp_path: Path) -> Destination:
        return CommandDestination(tmp_path)


@pytest.mark.parametrize("verdict", ["FAKE", "NO_FACE", None])
def test_samples_are_valid_sidecars(verdict: str | None) -> None:
    jsonschema.Draft202012Validator(schema()).validate(sample(verdict=verdict))


# --- jsonl


def test_line_is_the_sidecar(tmp_path: Path) -> None:
    sink = JsonlSink(JsonlSettings(path=str(tmp_path / "deep" / "a.jsonl")))
    sink.deliver(message(1))
    assert json.loads((tmp_path / "deep" / "a.jsonl").read_bytes()) == message(1).document
    sink.close()


def test_half_a_line_of_a_crash_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"job_id": "whole"}\n{"job_id": "ha')
    sink = JsonlSink(JsonlSettings(path=str(path)))
    sink.deliver(message(1))
    sink.close()
    lines = path.read_bytes().splitlines()
    assert [json.loads(line)["job_id"] for line in lines] == ["whole", message(1).key]


def test_half_a_line_longer_than_a_block_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"one\n" + b"x" * 200_000)
    sink = JsonlSink(JsonlSettings(path=str(path)))
    sink.probe()
    sink.close()
    assert path.read_bytes() == b"one\n"


def test_rotation_keeps_the_newest_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    line = len(json.dumps(message(1).document, ensure_ascii=False).encode()) + 1
    sink = JsonlSink(JsonlSettings(path=str(path), max_bytes=2 * line + line // 2, keep=2))
    for number in range(9):
        sink.deliver(message(number))
    sink.close()
    assert sorted(os.listdir(tmp_path)) == ["a.jsonl", "a.jsonl.1", "a.jsonl.2"]
    found = [
        json.loads(line)["job_id"]
        for name in ("a.jsonl.2", "a.jsonl.1", "a.jsonl")
        for line in (tmp_path / name).read_bytes().splitlines()
    ]
    assert found == [message(number).key for number in range(4, 9)]


def test_rotation_by_somebody_else_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    sink = JsonlSink(JsonlSettings(path=str(path)))
    sink.deliver(message(1))
    path.rename(tmp_path / "moved")
    sink.deliver(message(2))
    sink.close()
    assert json.loads(path.read_bytes())["job_id"] == message(2).key


def test_a_reader_that_follows_the_file_gets_every_line_once(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    line = len(json.dumps(message(1).document, ensure_ascii=False).encode()) + 1
    sink = JsonlSink(JsonlSettings(path=str(path), max_bytes=3 * line + line // 2, keep=1))
    sink.probe()
    with (
        (tmp_path / "seen").open("wb") as seen,
        subprocess.Popen(
            [programs.require("tail"), "--lines=+1", "--retry", "--follow=name", "--sleep-interval=0.05", str(path)],
            stdout=seen,
            stderr=subprocess.DEVNULL,
        ) as tail,
    ):
        try:
            for number in range(1, 11):
                sink.deliver(message(number))
                # One line after the other: a reader that misses a whole rotation would see gaps, whoever rotates.
                wait_until(
                    lambda count=number: len((tmp_path / "seen").read_bytes().splitlines()) >= count, f"line {number}"
                )
        finally:
            tail.kill()
    sink.close()
    found = [json.loads(text)["job_id"] for text in (tmp_path / "seen").read_bytes().splitlines()]
    assert found == [message(number).key for number in range(1, 11)]
    assert (tmp_path / "a.jsonl.1").exists()


def test_full_disk_leaves_whole_lines() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    sink = JsonlSink(JsonlSettings(path="/dev/full"))
    with pytest.raises(SinkError) as caught:
        sink.deliver(message(1))
    assert caught.value.retryable


# --- csv


def test_names_that_look_like_formulas_are_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    sink = CsvSink(CsvSettings(path=str(path)))
    sink.deliver(message(1, name='=HYPERLINK("http://x","y")\n2.mp4'))
    sink.close()
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    (row,) = csv.DictReader(lines)
    assert row["name"] == '\'=HYPERLINK("http://x","y") 2.mp4'
    assert (row["confidence"], row["calibrated"], row["faces"], row["reason"]) == ("0.93", "true", "1", "")


def test_each_rotated_file_has_its_header(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    sink = CsvSink(CsvSettings(path=str(path), max_bytes=600, keep=9))
    for number in range(4):
        sink.deliver(message(number))
    sink.close()
    files = sorted(tmp_path.iterdir())
    assert len(files) == 4
    assert all(file.read_text().startswith("job_id,") and len(file.read_text().splitlines()) == 2 for file in files)


# --- command


def command(tmp_path: Path, program: str, **changes: Any) -> CommandSink:
    path = tmp_path / "program"
    path.write_text(f"#!/bin/sh\n{program}\n")
    path.chmod(0o755)
    return CommandSink(CommandSettings(command=[str(path)], **changes))


def test_exit_status_decides(tmp_path: Path) -> None:
    command(tmp_path, "exit 0").deliver(message(1))
    with pytest.raises(SinkError, match="exit status 3: no such room") as caught:
        command(tmp_path, "echo no such room >&2; exit 3").deliver(message(1))
    assert caught.value.retryable
    with pytest.raises(SinkError, match="exit status 65") as caught:
        command(tmp_path, "exit 65").deliver(message(1))
    assert not caught.value.retryable
    with pytest.raises(SinkError, match="killed by SIGKILL"):
        command(tmp_path, "kill -9 $$").deliver(message(1))


def test_slow_program_is_killed_with_its_children(tmp_path: Path) -> None:
    sink = command(tmp_path, f"(sleep 2; touch {tmp_path}/late) & sleep 60", timeout_s=0.3)
    began_s = time.monotonic()
    with pytest.raises(SinkError, match="did not end within") as caught:
        sink.deliver(message(1))
    assert caught.value.retryable
    assert time.monotonic() - began_s < 2.0
    time.sleep(2.2)
    assert not (tmp_path / "late").exists()


def test_program_sees_no_secret_of_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_PASSWORD", "hunter2")
    command(tmp_path, f"env > {tmp_path}/env").deliver(message(1))
    assert "hunter2" not in (tmp_path / "env").read_text()
    assert f"DFWATCH_JOB_ID={message(1).key}" in (tmp_path / "env").read_text()


def test_there_is_no_shell(tmp_path: Path) -> None:
    sink = CommandSink(CommandSettings(command=["/bin/echo", f"; touch {tmp_path}/owned"]))
    sink.deliver(message(1))
    assert not (tmp_path / "owned").exists()


def test_program_that_never_stops_talking_fills_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    truncate = os.ftruncate
    monkeypatch.setattr(
        os, "ftruncate", lambda fd, size: (kept.append(os.fstat(fd).st_blocks * 512), truncate(fd, size))
    )
    # Three megabytes at a time, with time between them to be looked at.
    talk = (
        "for i in 1 2 3 4 5; do head -c 3000000 /dev/zero | tr '\\0' x >&2; sleep 0.25; done; echo the end >&2; exit 1"
    )
    with pytest.raises(SinkError, match=r"the end$") as caught:
        command(tmp_path, talk).deliver(message(1))
    assert len(str(caught.value)) < 1000
    assert len(kept) >= 2
    assert max(kept) < 12_000_000


def test_program_that_reads_nothing_and_says_much(tmp_path: Path) -> None:
    with pytest.raises(SinkError) as caught:
        command(tmp_path, "head -c 3000000 /dev/zero | tr '\\0' x >&2; exit 1").deliver(message(1))
    assert len(str(caught.value)) < 1000
