"""The connection that commits for several threads at once."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from dfwatch.storage.database import Database
from tests.users import somebody_else

THREADS = 8


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    # On a busy machine those who stand in line may need longer than is worth waiting for.
    monkeypatch.setattr("dfwatch.storage.database._LONGEST_GATHERING_S", 10.0)
    database = Database(str(tmp_path / "some.sqlite3"))
    database.read("PRAGMA journal_mode = WAL")
    database.script("CREATE TABLE things (name TEXT PRIMARY KEY)")
    yield database
    database.close()


def names_on_disk(tmp_path: Path) -> set[str]:
    """What a second connection sees: what is committed, and nothing else."""
    with closing(sqlite3.connect(tmp_path / "some.sqlite3")) as other:
        return {name for (name,) in other.execute("SELECT name FROM things")}


def add(database: Database, name: str) -> None:
    with database.write() as db:
        db.execute("INSERT INTO things VALUES (?)", (name,))


def test_what_a_thread_wrote_is_committed_when_its_write_returns(database: Database, tmp_path: Path) -> None:
    missing: list[str] = []

    def work(number: int) -> None:
        for step in range(20):
            name = f"{number}-{step}"
            add(database, name)
            if name not in names_on_disk(tmp_path):
                missing.append(name)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    assert missing == []
    assert len(names_on_disk(tmp_path)) == THREADS * 20


def commits_of(database: Database) -> list[str]:
    commits: list[str] = []
    database._db.set_trace_callback(lambda text: commits.append(text) if text == "COMMIT" else None)
    return commits


def test_those_who_stand_in_line_share_a_commit(database: Database, tmp_path: Path) -> None:
    commits = commits_of(database)
    inside, go_on = threading.Event(), threading.Event()

    def first() -> None:
        with database.write() as db:
            db.execute("INSERT INTO things VALUES ('first')")
            inside.set()
            assert go_on.wait(10)

    def follow(number: int) -> None:
        assert inside.wait(10)
        add(database, str(number))

    with ThreadPoolExecutor(THREADS + 1) as pool:
        works = [pool.submit(first), *(pool.submit(follow, number) for number in range(THREADS))]
        assert inside.wait(10)
        with database._line:
            assert database._line.wait_for(lambda: database._in_line >= 1, 10)
        for _ in range(1000):
            if database._in_line == THREADS + 1:
                break
            threading.Event().wait(0.005)
        go_on.set()
        for work in works:
            work.result(10)
    assert len(names_on_disk(tmp_path)) == THREADS + 1
    assert len(commits) < THREADS / 2


def test_one_that_fails_takes_nothing_of_the_others_with_it(database: Database, tmp_path: Path) -> None:
    add(database, "taken")

    def work(number: int) -> None:
        with database.write() as db:
            db.execute("INSERT INTO things VALUES (?)", (f"before-{number}",))
            db.execute("INSERT INTO things VALUES (?)", ("taken" if number % 2 else f"after-{number}",))

    with ThreadPoolExecutor(THREADS) as pool:
        works = [pool.submit(work, number) for number in range(40)]
        failed = {number for number, done in enumerate(works) if done.exception(10) is not None}
    assert failed == {number for number in range(40) if number % 2}
    expected = {f"{word}-{number}" for word in ("before", "after") for number in range(0, 40, 2)}
    assert names_on_disk(tmp_path) == {"taken"} | expected


def wait_for_two_in_line(database: Database) -> None:
    for _ in range(1000):
        if database._in_line == 2:
            break
        threading.Event().wait(0.005)


def test_a_commit_that_fails_fails_for_all_who_were_in_it(database: Database, tmp_path: Path) -> None:
    # A deferred constraint is looked at by COMMIT alone, as a full disk may be.
    database.read("PRAGMA foreign_keys = ON")
    database.script("CREATE TABLE parts (thing TEXT REFERENCES things (name) DEFERRABLE INITIALLY DEFERRED)")
    inside, joined = threading.Event(), threading.Event()

    def spoil() -> None:
        with database.write() as db:
            db.execute("INSERT INTO parts VALUES ('of nothing')")
            inside.set()
            assert joined.wait(10)

    with ThreadPoolExecutor(2) as pool:
        spoiler = pool.submit(spoil)
        assert inside.wait(10)
        other = pool.submit(add, database, "innocent")
        wait_for_two_in_line(database)
        joined.set()
        assert isinstance(spoiler.exception(10), sqlite3.IntegrityError)
        assert isinstance(other.exception(10), sqlite3.IntegrityError)
    assert names_on_disk(tmp_path) == set()
    add(database, "innocent")
    assert names_on_disk(tmp_path) == {"innocent"}


def test_a_write_within_a_write_is_refused_and_not_waited_for(database: Database, tmp_path: Path) -> None:
    def write_within() -> None:
        with database.write() as db:
            db.execute("INSERT INTO things VALUES ('outer')")
            add(database, "inner")

    with pytest.raises(RuntimeError, match="within"):
        write_within()
    assert names_on_disk(tmp_path) == set()
    add(database, "later")
    assert names_on_disk(tmp_path) == {"later"}


def test_a_thread_that_is_torn_out_of_its_commit_leaves_nobody_waiting(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, joined = threading.Event(), threading.Event()

    gather = database._line.wait_for
    leading: list[int] = []

    def interrupted(*args: Any) -> None:
        gather(*args)
        if threading.get_ident() in leading:
            raise KeyboardInterrupt

    def torn_out() -> str:
        leading.append(threading.get_ident())
        try:
            with database.write() as db:
                db.execute("INSERT INTO things VALUES ('torn')")
                inside.set()
                assert joined.wait(10)
                monkeypatch.setattr(database._line, "wait_for", interrupted)
        except KeyboardInterrupt:
            return "torn out"
        return "committed"

    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(torn_out)
        assert inside.wait(10)
        follower = pool.submit(add, database, "innocent")
        wait_for_two_in_line(database)
        joined.set()
        assert leader.result(10) == "torn out"
        failure = follower.exception(10)
    monkeypatch.undo()
    assert "not committed" in str(failure)
    add(database, "later")
    assert names_on_disk(tmp_path) == {"later"}


@pytest.fixture
def closed_folder() -> Iterator[Path]:
    """A folder that only its owner may write, in a place that others can reach."""
    folder = Path(tempfile.mkdtemp(prefix="dfwatch-test-"))
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@contextmanager
def owner_of(folder: Path) -> Iterator[Path]:
    folder.chmod(0o755)
    try:
        yield folder / "some.sqlite3"
    finally:
        folder.chmod(0o555)


def work_in(folder: Path, then: str) -> None:
    """A service that adds a row and ends."""
    script = (
        "import os, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('PRAGMA journal_mode = WAL')\n"
        "db.execute('CREATE TABLE IF NOT EXISTS things (name TEXT)')\n"
        "db.execute('INSERT INTO things VALUES (1)')\n"
        f"{then}\n"
    )
    with owner_of(folder) as path:
        subprocess.run([sys.executable, "-c", script, str(path)], check=True)


def rows_in(database: Database) -> int:
    return int(database.read("SELECT COUNT(*) FROM things")[0][0])


def test_a_reader_who_may_not_write_reads_what_nobody_has_open(closed_folder: Path) -> None:
    work_in(closed_folder, "db.close()")
    with somebody_else(), closing(Database(str(closed_folder / "some.sqlite3"), read_only=True)) as database:
        assert rows_in(database) == 1
        assert [path.name for path in closed_folder.iterdir()] == ["some.sqlite3"]


def test_a_reader_who_may_not_write_sees_what_a_service_does_that_starts_meanwhile(closed_folder: Path) -> None:
    work_in(closed_folder, "db.close()")
    with somebody_else():
        reader = Database(str(closed_folder / "some.sqlite3"), read_only=True)
        before = rows_in(reader)
    with owner_of(closed_folder) as path:
        service = Database(str(path))
        with service.write() as db:
            db.execute("INSERT INTO things VALUES (2)")
    with somebody_else():
        running = rows_in(reader)
    with owner_of(closed_folder):
        service.close()
    with somebody_else(), closing(reader):
        assert (before, running, rows_in(reader)) == (1, 2, 2)


def test_a_reader_who_may_not_write_is_told_why_nothing_can_be_read(closed_folder: Path) -> None:
    work_in(closed_folder, "os._exit(0)")
    with owner_of(closed_folder) as path:
        path.with_name("some.sqlite3-shm").unlink()
    with (
        somebody_else(),
        closing(Database(str(closed_folder / "some.sqlite3"), read_only=True)) as database,
        pytest.raises(sqlite3.OperationalError, match=r"neither read some\.sqlite3-wal and -shm .* ask as its owner"),
    ):
        rows_in(database)
