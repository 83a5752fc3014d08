"""sqlite, and postgresql with a real server."""

from __future__ import annotations

import json
import socket
import sqlite3
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dfwatch.errors import SinkError
from dfwatch.sinks.postgresql import PostgresqlSettings, PostgresqlSink
from dfwatch.sinks.record import NAMES
from dfwatch.sinks.sqlite import SqliteSettings, SqliteSink
from dfwatch.sinks.testing import Destination, SinkContract, message, wait_until, with_values
from tests.sinks.folders import Removable
from tests.sinks.servers import Postgresql


class SqliteDestination(Destination):
    def __init__(self, folder: Path) -> None:
        self.folder = Removable(folder)
        self.path = self.folder.path / "outcomes.sqlite3"

    @property
    def settings(self) -> SqliteSettings:
        return SqliteSettings(path=str(self.path), timeout_s=1.0)

    def received(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        with closing(sqlite3.connect(self.path)) as db:
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute("SELECT * FROM outcomes ORDER BY rowid")]

    def stop(self) -> None:
        self.folder.take_away()

    def start(self) -> None:
        self.folder.bring_back()


class TestSqliteContract(SinkContract):
    deduplicates = True

    @pytest.fixture
    def destination(self, tmp_path: Path) -> Destination:
        return SqliteDestination(tmp_path)


def test_row_holds_what_people_query(tmp_path: Path) -> None:
    destination = SqliteDestination(tmp_path)
    sink = SqliteSink(destination.settings)
    sink.deliver(message(1))
    sink.close()
    (row,) = destination.received()
    assert tuple(row) == (*NAMES, "document")
    assert json.loads(row.pop("document")) == message(1).document
    assert row == {
        "job_id": message(1).key,
        "received_at": "2026-01-02T03:04:05.678Z",
        "published_at": "2026-01-02T03:04:06.000Z",
        "name": "sample.mp4",
        "folder": "",
        "size_bytes": 123456,
        "sha256": "ab" * 32,
        "status": "done",
        "reason": None,
        "reason_detail": None,
        "verdict": "FAKE",
        "confidence": 0.93,
        "p_fake": 0.93,
        "p_fake_raw": 0.97,
        "calibrated": 1,
        "faces": 1,
        "tracks": 1,
        "frames": 1,
        "duration_s": 10.0,
        "width": 1280,
        "height": 720,
        "model_id": "made-up",
        "model_version": "0",
        "attempt": 1,
        "total_ms": 12.5,
    }


def test_locked_database_is_tried_again(tmp_path: Path) -> None:
    destination = SqliteDestination(tmp_path)
    sink = SqliteSink(with_values(destination.settings, timeout_s=0.2))  # type: ignore[arg-type]
    sink.deliver(message(1))
    with closing(sqlite3.connect(destination.path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SinkError, match="locked") as caught:
            sink.deliver(message(2))
        assert caught.value.retryable
    sink.deliver(message(2))
    sink.close()
    assert len(destination.received()) == 2


# --- postgresql


class PostgresqlDestination(Destination):
    def __init__(self, server: Postgresql, folder: Path) -> None:
        self.server = server
        self.password = folder / "password"
        self.password.write_text(f"{server.password}\n")

    @property
    def settings(self) -> PostgresqlSettings:
        return PostgresqlSettings(conninfo=self.server.conninfo, password=f"file:{self.password}")

    def query(self, text: str) -> list[dict[str, Any]]:
        import psycopg
        from psycopg.rows import dict_row

        with psycopg.connect(
            f"{self.server.conninfo} password={self.server.password}", row_factory=dict_row, autocommit=True
        ) as connection:
            cursor = connection.execute(text)
            return cursor.fetchall() if cursor.description else []

    def received(self) -> list[dict[str, Any]]:
        if self.server.process is None or not self.query(
            "SELECT 1 FROM pg_tables WHERE tablename = 'dfwatch_outcomes'"
        ):
            return []
        return self.query("SELECT * FROM dfwatch_outcomes ORDER BY ctid")

    def secrets(self) -> list[str]:
        return [self.server.password]

    def stop(self) -> None:
        self.server.kill()

    def start(self) -> None:
        self.server.start()


@pytest.fixture(scope="module")
def server() -> Iterator[Postgresql]:
    pytest.importorskip("psycopg")
    made = Postgresql()
    yield made
    made.remove()


@pytest.fixture
def postgresql(server: Postgresql, tmp_path: Path) -> PostgresqlDestination:
    if server.process is None:
        server.start()
    made = PostgresqlDestination(server, tmp_path)
    made.query("DROP TABLE IF EXISTS dfwatch_outcomes")
    return made


class TestPostgresqlContract(SinkContract):
    deduplicates = True

    @pytest.fixture
    def destination(self, postgresql: PostgresqlDestination) -> Destination:
        return postgresql


def test_columns_have_the_types_to_query_by(postgresql: PostgresqlDestination) -> None:
    sink = PostgresqlSink(postgresql.settings)
    for number, verdict in enumerate(["FAKE", "REAL", None]):
        sink.deliver(message(number, verdict=verdict))
    sink.close()
    rows = postgresql.query(
        "SELECT job_id, document #>> '{subject,name}' AS name FROM dfwatch_outcomes"
        " WHERE verdict = 'FAKE' AND confidence > 0.9 AND calibrated AND received_at < now()"
    )
    assert rows == [{"job_id": message(0).key, "name": "sample.mp4"}]
    (row,) = postgresql.query("SELECT * FROM dfwatch_outcomes WHERE verdict = 'FAKE'")
    assert row["document"] == message(0).document
    assert row["published_at"].isoformat() == "2026-01-02T03:04:06+00:00"


def test_wrong_password_is_not_repeated(postgresql: PostgresqlDestination) -> None:
    postgresql.password.write_text("hunter3")
    sink = PostgresqlSink(postgresql.settings)
    with pytest.raises(SinkError, match="password authentication failed") as caught:
        sink.deliver(message(1))
    assert caught.value.retryable
    assert "hunter3" not in str(caught.value)


def test_table_made_by_others_is_used_and_its_constraints_set_aside_what_breaks_them(
    postgresql: PostgresqlDestination,
) -> None:
    sink = PostgresqlSink(postgresql.settings)
    sink.probe()
    sink.close()
    postgresql.query("ALTER TABLE dfwatch_outcomes ADD CONSTRAINT sure CHECK (confidence > 0.5)")
    sink = PostgresqlSink(with_values(postgresql.settings, create_table=False))  # type: ignore[arg-type]
    sink.deliver(message(1))
    with pytest.raises(SinkError, match="sure") as caught:
        sink.deliver(message(2, confidence=0.4))
    assert not caught.value.retryable
    sink.close()
    assert len(postgresql.received()) == 1


def test_table_that_somebody_else_makes_at_the_same_moment_costs_no_message(postgresql: PostgresqlDestination) -> None:
    """CREATE TABLE IF NOT EXISTS waits for the other one, and then breaks a constraint of PostgreSQL's catalogue."""
    import psycopg

    errors: list[SinkError] = []
    sink = PostgresqlSink(postgresql.settings)

    def deliver() -> None:
        with pytest.raises(SinkError, match="duplicate key") as caught:
            sink.deliver(message(1))
        errors.append(caught.value)

    with psycopg.connect(f"{postgresql.server.conninfo} password={postgresql.server.password}") as other:
        other.execute("CREATE TABLE dfwatch_outcomes (somebody text)")
        thread = threading.Thread(target=deliver)
        thread.start()
        waits = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'dfwatch' AND wait_event_type = 'Lock'"
        wait_until(lambda: postgresql.query(waits), "the sink waits for the other one")
    thread.join(10.0)
    assert [error.retryable for error in errors] == [True]
    postgresql.query("DROP TABLE dfwatch_outcomes")
    sink.deliver(message(1))
    sink.close()
    assert len(postgresql.received()) == 1


def test_what_the_connection_string_says_is_kept(postgresql: PostgresqlDestination) -> None:
    """Its options come on top of the limits, and its name stands in place of ours."""
    sink = PostgresqlSink(postgresql.settings)
    sink.deliver(message(1))
    sink.close()
    told = ("application_name", "DateStyle", "statement_timeout")
    columns = ", ".join(f"current_setting('{name}') AS {name}" for name in told)
    body = f"BEGIN CREATE TABLE noted AS SELECT {columns}; RETURN NEW; END"
    postgresql.query(f"CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $${body}$$")
    postgresql.query("CREATE TRIGGER noting BEFORE INSERT ON dfwatch_outcomes FOR EACH ROW EXECUTE FUNCTION note()")
    conninfo = f"{postgresql.server.conninfo} application_name=desk options='-c DateStyle=German'"
    sink = PostgresqlSink(with_values(postgresql.settings, conninfo=conninfo))  # type: ignore[arg-type]
    sink.deliver(message(2))
    sink.close()
    (noted,) = postgresql.query("SELECT * FROM noted")
    postgresql.query("DROP TABLE noted; DROP FUNCTION note() CASCADE")
    assert tuple(noted.values()) == ("desk", "German, DMY", "9s")


def test_missing_table_is_retryable(postgresql: PostgresqlDestination) -> None:
    sink = PostgresqlSink(with_values(postgresql.settings, create_table=False))  # type: ignore[arg-type]
    with pytest.raises(SinkError, match="does not exist") as caught:
        sink.deliver(message(1))
    assert caught.value.retryable
    with pytest.raises(SinkError):
        sink.probe()


def test_waiting_for_a_lock_is_bounded(postgresql: PostgresqlDestination) -> None:
    import psycopg

    sink = PostgresqlSink(with_values(postgresql.settings, timeout_s=0.5))  # type: ignore[arg-type]
    sink.deliver(message(1))
    with psycopg.connect(f"{postgresql.server.conninfo} password={postgresql.server.password}") as other:
        other.execute("LOCK TABLE dfwatch_outcomes IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(SinkError) as caught:
            sink.deliver(message(2))
        assert caught.value.retryable
    sink.deliver(message(2))
    sink.close()


def test_nul_within_a_text_does_not_hold_up_the_outcome(postgresql: PostgresqlDestination) -> None:
    """No column and no jsonb takes one; the document is stored with U+FFFD in its place."""
    plain = message(1)
    subject = {**plain.document["subject"], "name": "a\0b.mp4"}
    sent = replace(plain, document={**plain.document, "subject": subject, "limits": ["\0", r"\u0000"], "x": {"\0": 1}})
    sink = PostgresqlSink(postgresql.settings)
    sink.deliver(sent)
    sink.close()
    (row,) = postgresql.received()
    assert row["name"] == "a\ufffdb.mp4"
    assert row["document"]["subject"] == {**subject, "name": "a\ufffdb.mp4"}
    assert row["document"]["limits"] == ["\ufffd", r"\u0000"]
    assert row["document"]["x"] == {"\ufffd": 1}


class Mute:
    """A server that lets everybody in, and does not answer what they then ask; it is there all the time."""

    LONGEST_S = 8.0

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.ended = threading.Event()
        self.hung_up = threading.Event()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    @property
    def conninfo(self) -> str:
        port = self.listener.getsockname()[1]
        return f"host=127.0.0.1 port={port} dbname=x user=y sslmode=disable gssencmode=disable"

    def stop(self) -> None:
        self.ended.set()
        self.listener.close()
        self.thread.join()

    def _serve(self) -> None:
        # https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP
        line, _ = self.listener.accept()
        with line:
            line.recv(4096)
            parameter = b"server_version\x0018.0\0"
            line.sendall(struct.pack(">cii", b"R", 8, 0))
            line.sendall(struct.pack(">ci", b"S", 4 + len(parameter)) + parameter)
            line.sendall(struct.pack(">cic", b"Z", 5, b"I"))
            line.settimeout(self.LONGEST_S)
            with suppress(OSError):
                while line.recv(4096):
                    pass
                self.hung_up.set()


@pytest.mark.parametrize("create_table", [True, False])
def test_server_that_lets_in_and_then_says_nothing_is_given_up(create_table: bool) -> None:
    pytest.importorskip("psycopg")
    server = Mute()
    settings = PostgresqlSettings(conninfo=server.conninfo, create_table=create_table, timeout_s=0.5)
    sink = PostgresqlSink(settings)
    began_s = time.monotonic()
    with pytest.raises(SinkError, match=r"it did not answer within 0\.5 s") as caught:
        sink.deliver(message(1))
    assert time.monotonic() - began_s < 5.0
    assert caught.value.retryable
    assert server.hung_up.wait(5.0)
    server.stop()


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"conninfo": "host=x password=hunter2"}, "conninfo"),
        ({"conninfo": "postgresql://x:hunter2/db"}, "conninfo"),
        ({"conninfo": "postgresql://[::1/hunter2"}, "conninfo"),
        ({"conninfo": "host=x port=99999"}, "conninfo"),
        ({"conninfo": "host=x hunter2"}, "conninfo"),
        ({"conninfo": "postgresql://me:hunter2@x/db"}, "conninfo"),
        ({"password": "hunter2"}, "password"),
        ({"table": "a; DROP TABLE b"}, "table"),
        ({"db_schema": 'x"'}, "db_schema"),
    ],
)
def test_settings_that_cannot_work(changes: dict[str, Any], setting: str) -> None:
    settings = with_values(PostgresqlSettings(conninfo="host=x dbname=y user=z"), **changes)
    ((name, cause, hint),) = settings.problems()
    assert name == setting
    assert "hunter2" not in cause + hint


@pytest.mark.parametrize(
    "conninfo", ["", "service=media", "postgresql://a:1,b/db", "postgresql:///db?host=/run", "host=a,b port=5432,"]
)
def test_connection_strings_that_are_taken(conninfo: str) -> None:
    pytest.importorskip("psycopg")
    assert PostgresqlSettings(conninfo=conninfo).problems() == []
