"""jsonl, csv and command."""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dfwatch.document import schema
from dfwatch.errors import SinkError
from dfwatch.settings import file as settings_file
from dfwatch.sinks.appending import AppendingSink
from dfwatch.sinks.command import CommandSettings, CommandSink
from dfwatch.sinks.csv_file import CsvSettings, CsvSink
from dfwatch.sinks.jsonl import JsonlSettings, JsonlSink
from dfwatch.sinks.record import NAMES
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
    sink.deliver(message(1))
    sink.close()
    first, second = path.read_bytes().splitlines()
    assert first == b"one"
    assert json.loads(second) == message(1).document


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


# --- a file that others write to as well


KINDS: dict[str, Callable[..., AppendingSink]] = {
    "jsonl": lambda **settings: JsonlSink(JsonlSettings(**settings)),
    "csv": lambda **settings: CsvSink(CsvSettings(**settings)),
}


def locked(path: Path) -> int:
    """The file, opened and locked as by another process."""
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def delivering(sink: AppendingSink) -> threading.Thread:
    """A thread that delivers the first message, and waits for something by now."""
    thread = threading.Thread(target=sink.deliver, args=(message(1),))
    thread.start()
    time.sleep(0.1)
    assert thread.is_alive()
    return thread


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", [b"", b"what somebody wrote, without its end.", b"a line\nhalf of one"])
def test_probe_leaves_the_file_as_it_is(kind: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    sink = KINDS[kind](path=str(path))
    sink.probe()
    sink.close()
    assert path.read_bytes() == content


def test_a_line_that_another_is_writing_is_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    fd = locked(path)
    os.write(fd, b'{"job_id": "another')
    sink = JsonlSink(JsonlSettings(path=str(path)))
    thread = delivering(sink)
    os.write(fd, b"'s\"}\n")
    os.close(fd)
    thread.join(5.0)
    sink.close()
    assert [json.loads(line)["job_id"] for line in path.read_bytes().splitlines()] == ["another's", message(1).key]


def test_a_file_that_another_rotates_meanwhile_gets_nothing_more(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    fd = locked(path)
    sink = CsvSink(CsvSettings(path=str(path)))
    thread = delivering(sink)
    path.rename(tmp_path / "a.csv.1")
    os.close(fd)
    thread.join(5.0)
    sink.close()
    assert (tmp_path / "a.csv.1").read_bytes() == b""
    assert [row["job_id"] for row in csv.DictReader(path.read_text().splitlines())] == [message(1).key]


def test_several_writers_lose_nothing_to_each_other(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    sinks = [CsvSink(CsvSettings(path=str(path), max_bytes=1200, keep=100)) for _ in range(3)]

    def write(number: int) -> None:
        for count in range(8):
            sinks[number].deliver(message(number * 100 + count))
            sinks[number].close()  # each line by a new opener

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    found = [row["job_id"] for file in tmp_path.iterdir() for row in csv.DictReader(file.read_text().splitlines())]
    assert sorted(found) == [message(number * 100 + count).key for number in range(3) for count in range(8)]


def test_a_lock_that_is_never_released_is_waited_for_in_bounds(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    fd = locked(path)
    sink = JsonlSink(JsonlSettings(path=str(path), timeout_s=0.2))
    for attempt in (lambda: sink.deliver(message(1)), sink.probe):
        began_s = time.monotonic()
        with pytest.raises(SinkError, match="kept it locked") as caught:
            attempt()
        assert caught.value.retryable
        assert time.monotonic() - began_s < 3.0
    assert path.read_bytes() == b""
    os.close(fd)
    sink.deliver(message(1))
    sink.close()
    assert json.loads(path.read_bytes()) == message(1).document


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(_fd: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.usefixtures("no_locks")
def test_a_file_system_without_locks_takes_outcomes(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"job_id": "whole"}\n{"job_id": "ha')
    sink = JsonlSink(JsonlSettings(path=str(path)))
    sink.probe()
    for number in (1, 2):
        sink.deliver(message(number))
    sink.close()
    found = [json.loads(line)["job_id"] for line in path.read_bytes().splitlines()]
    assert found == ["whole", message(1).key, message(2).key]


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_line_that_grows_is_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"job_id": "ha')

    def finish(_seconds: float) -> None:
        with path.open("ab") as file:
            file.write(b'lf"}\n')

    sink = JsonlSink(JsonlSettings(path=str(path)))
    with monkeypatch.context() as patched:
        patched.setattr(time, "sleep", finish)
        with pytest.raises(SinkError, match="somebody else is writing") as caught:
            sink.deliver(message(1))
    assert caught.value.retryable
    sink.deliver(message(1))
    sink.close()
    assert [json.loads(line)["job_id"] for line in path.read_bytes().splitlines()] == ["half", message(1).key]


@pytest.mark.parametrize(
    ("sinks", "complaint"),
    [
        ("[{type: jsonl, path: a}, {type: csv, path: ./b/../a}]", "the file of the sink 'jsonl' too"),
        ("[{type: jsonl, path: ~/a}, {type: csv, path: '%s/a'}]", "the file of the sink 'jsonl' too"),
        ("[{type: sqlite, path: a}, {type: jsonl, path: a}]", "the file of the sink 'sqlite' too"),
        ("[{type: jsonl, path: a}, {type: csv, path: b}]", None),
        ("[{type: jsonl, path: a}, {type: csv, path: a, enabled: false}]", None),
        ("[{type: sqlite, path: a}, {type: sqlite, name: other, path: a, table: others}]", None),
    ],
)
def test_two_sinks_may_not_append_to_one_file(
    sinks: str, complaint: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = tmp_path / "config.yaml"
    config.write_text("sinks: " + sinks.replace("%s", str(tmp_path)))
    problems = [str(problem) for problem in settings_file.check(config)]
    assert len(problems) == (complaint is not None)
    assert all("sinks[1].path" in problem and complaint in problem for problem in problems if complaint)


# --- csv


def written(name: str) -> str:
    """The row of a file with this name."""
    return CsvSink(CsvSettings(path="nowhere")).line(message(1, name=name)).decode("utf-8")


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("plain-2.mp4", "plain-2.mp4"),
        ("two words, 'and' \"more\"; all.mp4", "two words, 'and' \"more\"; all.mp4"),
        ("Zürich – 東京.mp4", "Zürich – 東京.mp4"),
        ("a;=HYPERLINK(1).mp4", "a;'=HYPERLINK(1).mp4"),
        ('a; "@SUM(1).mp4', "a;' \"@SUM(1).mp4"),
        (" +1.mp4", "' +1.mp4"),
        ("\uff1d1.mp4", "'\uff1d1.mp4"),
        ("\t=1.mp4", "\\t=1.mp4"),
        ("\x1b[2J\u202e\x9b.mp4", "\\x1b[2J\\u202e\\x9b.mp4"),
        ("two\r\nlines\u2028.mp4", "two lines .mp4"),
    ],
)
def test_names_are_one_cell_of_printable_text(name: str, cell: str) -> None:
    row = dict(zip(NAMES, next(csv.reader([written(name)])), strict=True))
    assert row["name"] == cell


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("a1=+-@;,\t\"' \n\r\x1b\udcff"), max_size=12))
def test_no_name_gets_out_of_its_cell(name: str) -> None:
    row = written(name)
    assert row.isprintable()
    assert len(next(csv.reader([row]))) == len(NAMES)
    # For a program that separates at semicolons, quotes in the midst of a cell are nothing special.
    assert not [cell for cell in row.split(";")[1:] if re.match(r'[ "]*[=+\-@]', cell)]


def test_a_missing_value_is_not_an_empty_text() -> None:
    cells = written("a b.mp4").split(",")
    assert cells[NAMES.index("name")] == '"a b.mp4"'
    assert cells[NAMES.index("folder")] == '""'
    assert cells[NAMES.index("reason")] == ""
    assert cells[NAMES.index("verdict")] == "FAKE"


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


def test_of_a_program_that_says_much_only_the_end_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes up no room, neither in memory nor on the disk, and the end is there however it came about."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    talk = "head -c 50000000 /dev/zero | tr '\\0' x >&2; sleep 0.3"
    tracemalloc.start()
    try:
        with pytest.raises(SinkError, match=r"exit status 1: x{400}$"):
            command(tmp_path, f"{talk}; exit 1").deliver(message(1))
        with pytest.raises(SinkError, match=r"exit status 1: x{100,}the end$"):
            command(tmp_path, f"{talk}; echo the end >&2; exit 1").deliver(message(1))
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_slow_program_is_killed_and_its_last_words_are_told(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"did not end within 0.5 s and was killed: waiting for the desk$"):
        command(tmp_path, "echo waiting for the desk >&2; sleep 60", timeout_s=0.5).deliver(message(1))


def test_what_a_program_leaves_behind_may_go_on_talking(tmp_path: Path) -> None:
    """It is neither waited for, nor ended by what it says, which is kept in no file."""
    sink = command(tmp_path, f"(read x <{tmp_path}/go; echo late >&2; ls -l /proc/self/fd/2 >{tmp_path}/late) & exit 3")
    os.mkfifo(tmp_path / "go")
    with pytest.raises(SinkError, match=r"exit status 3$"):
        sink.deliver(message(1))
    (tmp_path / "go").write_text("x\n")
    wait_until(lambda: (tmp_path / "late").exists() and (tmp_path / "late").read_text(), "what was left behind")
    assert "-> pipe:" in (tmp_path / "late").read_text()


def test_a_program_is_named_by_its_whole_path() -> None:
    """The program is run in '/', where a relative path would mean something else than in ``sinks test``."""
    ((name, _, _),) = CommandSettings(command=["tools/tell"]).problems()
    assert name == "command"
    for fine in ("tell", "/opt/tell"):
        assert CommandSettings(command=[fine]).problems() == []


def test_program_that_reads_nothing_and_says_much(tmp_path: Path) -> None:
    with pytest.raises(SinkError) as caught:
        command(tmp_path, "head -c 3000000 /dev/zero | tr '\\0' x >&2; exit 1").deliver(message(1))
    assert len(str(caught.value)) < 1000
