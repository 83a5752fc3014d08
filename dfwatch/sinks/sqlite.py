"""One row for each outcome in an SQLite database."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from dfwatch.config import SinkSettings, setting
from dfwatch.document import encode
from dfwatch.errors import SinkError
from dfwatch.sinks import Sink
from dfwatch.sinks.record import COLUMNS, NAMES, TABLE_NAME, record

if TYPE_CHECKING:
    from dfwatch.sinks import Message

_TYPES: Final = {"text": "TEXT", "time": "TEXT", "integer": "INTEGER", "real": "REAL", "boolean": "INTEGER"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteSettings(SinkSettings):
    """Settings of ``type: sqlite``."""

    type: str = setting("sqlite", doc="Kind of sink.")
    path: str = setting(MISSING, doc="The database; it and its folder are made.", path=True)
    table: str = setting("outcomes", doc="The table; made if it is not there.")

    def problems(self) -> list[tuple[str, str, str]]:
        """See ``SinkSettings``."""
        if not TABLE_NAME.fullmatch(self.table):
            return [("table", f"is {self.table!r}", "lower-case letters, digits and '_'")]
        return []


class SqliteSink(Sink):
    """A table whose primary key is the job's id: a second delivery changes nothing."""

    settings_type: ClassVar[type[SinkSettings]] = SqliteSettings

    def __init__(self, settings: SqliteSettings) -> None:
        self._settings = settings
        self._db: sqlite3.Connection | None = None
        self._inode = 0
        columns = [f"{name} {_TYPES[kind]}" for name, kind in COLUMNS]
        columns[0] += " PRIMARY KEY"
        table = settings.table
        self._create = (
            f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(columns)}, document TEXT NOT NULL)",
            f"CREATE INDEX IF NOT EXISTS {table}_by_time ON {table} (received_at)",
            f"CREATE INDEX IF NOT EXISTS {table}_by_verdict ON {table} (verdict, received_at)",
        )
        marks = ", ".join("?" for _ in range(len(NAMES) + 1))
        self._insert = (
            f"INSERT INTO {table} ({', '.join(NAMES)}, document) VALUES ({marks})"  # noqa: S608 - names are checked
            " ON CONFLICT (job_id) DO NOTHING"
        )

    def deliver(self, message: Message) -> None:
        """See ``Sink``."""
        values = record(message.document, message.queued_at)
        document = encode(message.document, indent=None).decode("utf-8").rstrip("\n")
        try:
            with self._connect() as db:
                db.execute(self._insert, (*values.values(), document))
        except (sqlite3.Error, OSError) as exc:
            raise self._error("writing to", exc) from exc

    def probe(self) -> str:
        """See ``Sink``."""
        try:
            db = self._connect()
            # Takes the write lock, and gives it back.
            db.execute("BEGIN IMMEDIATE")
            db.rollback()
        except (sqlite3.Error, OSError) as exc:
            raise self._error("trying", exc) from exc
        return f"{self._settings.path} has the table {self._settings.table} and can be written to"

    def close(self) -> None:
        """See ``Sink``."""
        if self._db is not None:
            with suppress(sqlite3.Error):
                self._db.close()
            self._db = None

    def _connect(self) -> sqlite3.Connection:
        if self._db is not None:
            # A database that was removed or replaced stays open for whoever has it, and nobody sees what is written.
            with suppress(FileNotFoundError):
                if os.stat(self._settings.path).st_ino == self._inode:
                    return self._db
            self.close()
        path = self._settings.path
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        # The connection is made in one thread and may be closed in another at the end.
        self._db = sqlite3.connect(path, timeout=self._settings.timeout_s, check_same_thread=False)
        with self._db as db:
            for statement in self._create:
                db.execute(statement)
        self._inode = os.stat(path).st_ino
        return self._db

    def _error(self, action: str, exc: Exception) -> SinkError:
        self.close()
        return SinkError(
            f"{action} the database", self._settings.path, exc, hint="check path, disk, and ReadWritePaths= of the unit"
        )
