"""One row for each outcome in a PostgreSQL table."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from dfwatch.config import SinkSettings, setting
from dfwatch.document import encode
from dfwatch.errors import MissingExtraError, SinkError
from dfwatch.sinks import Sink
from dfwatch.sinks.extras import require
from dfwatch.sinks.hanging_up import HangingUp
from dfwatch.sinks.record import COLUMNS, NAMES, TABLE_NAME, record
from dfwatch.sinks.secret import FORMS, complaint, read_secret

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from dfwatch.sinks import Message

_TYPES: Final = {
    "text": "text",
    "time": "timestamptz",
    "integer": "bigint",
    "real": "double precision",
    "boolean": "boolean",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresqlSettings(SinkSettings):
    """Settings of ``type: postgresql``."""

    type: str = setting("postgresql", doc="Kind of sink.")
    conninfo: str = setting(
        MISSING, doc="Connection string of libpq, without a password: 'host=db.example.org dbname=media user=dfwatch'."
    )
    password: str = setting("", doc=f"Where the password is kept: {FORMS}.")
    table: str = setting("dfwatch_outcomes", doc="The table.")
    db_schema: str = setting("public", doc="The table's schema.")
    create_table: bool = setting(default=True, doc="Make the table and its indexes where they are missing.")

    def problems(self) -> list[tuple[str, str, str]]:
        """See ``SinkSettings``."""
        found = [
            (name, "is not a plain name", "lower-case letters, digits and '_'")
            for name in ("table", "db_schema")
            if not TABLE_NAME.fullmatch(getattr(self, name))
        ]
        if "password" in self.conninfo or "@" in self.conninfo.partition("?")[0]:
            hint = "name where the password is kept in 'password', the user as 'user=NAME'"
            found.append(("conninfo", "may hold a password", hint))
        elif not _is_connection_string(self.conninfo):
            found.append(("conninfo", "is not a connection string of libpq", "host=db.example.org dbname=media"))
        if self.password and complaint(self.password):
            found.append(("password", complaint(self.password), FORMS))
        return found


class PostgresqlSink(Sink):
    """A table whose primary key is the job's id: a second delivery changes nothing."""

    settings_type: ClassVar[type[SinkSettings]] = PostgresqlSettings
    networked: ClassVar[bool] = True

    def __init__(self, settings: PostgresqlSettings) -> None:
        self._settings = settings
        self._psycopg = require("psycopg", "postgresql")
        self._connection: Any = None
        self._line: socket.socket | None = None
        self._hanging_up = HangingUp()
        table = f'"{settings.db_schema}"."{settings.table}"'
        columns = [f"{name} {_TYPES[kind]}" for name, kind in COLUMNS]
        columns[0] += " PRIMARY KEY"
        self._create = (
            f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(columns)}, document jsonb NOT NULL)",
            f'CREATE INDEX IF NOT EXISTS "{settings.table}_by_time" ON {table} (received_at)',
            f'CREATE INDEX IF NOT EXISTS "{settings.table}_by_verdict" ON {table} (verdict, received_at)',
        )
        marks = ", ".join(["%s"] * (len(NAMES) + 1))
        self._insert = (
            f"INSERT INTO {table} ({', '.join(NAMES)}, document) VALUES ({marks})"  # noqa: S608 - names are checked
            " ON CONFLICT (job_id) DO NOTHING"
        )
        self._look = f"SELECT count(*) FROM (SELECT 1 FROM {table} LIMIT 1) AS one"  # noqa: S608 - names are checked

    def deliver(self, message: Message) -> None:
        """See ``Sink``."""
        document = _without_nul(message.document)
        values = record(document, message.queued_at)
        text = encode(document, indent=None).decode("utf-8").rstrip("\n")
        self._execute("writing to", self._insert, (*values.values(), text))

    def probe(self) -> str:
        """See ``Sink``."""
        self._execute("trying", self._look)
        return f"the table {self._settings.db_schema}.{self._settings.table} is there"

    def close(self) -> None:
        """See ``Sink``."""
        if self._connection is not None:
            with suppress(self._psycopg.Error):
                self._connection.close()
            self._connection = None
        if self._line is not None:
            self._hanging_up.forget(self._line)
            self._line = None

    def _execute(self, action: str, statement: str, values: Sequence[Any] | None = None) -> None:
        limit_s = self._settings.timeout_s
        deadline_s = time.monotonic() + limit_s
        began = False
        try:
            first = self._connect()
            # Addresses that did not answer have cost time too; the one that did must have a chance.
            deadline_s = max(deadline_s, time.monotonic() + limit_s / 2)
            with self._hanging_up.at(deadline_s):
                for made in first:
                    self._connection.execute(made)
                began = True
                self._connection.execute(statement, values)
        except self._psycopg.Error as exc:
            raise self._error(action, exc, late=time.monotonic() >= deadline_s, began=began) from exc
        if time.monotonic() >= deadline_s:
            # The answer was just in time; the connection was shut down all the same.
            self.close()

    def _connect(self) -> tuple[str, ...]:
        """Connect unless that is done; returns the statements that a new connection begins with."""
        if self._connection is not None and not self._connection.closed:
            return ()
        self.close()
        settings = self._settings
        limit_s = settings.timeout_s
        # What the server can say itself, it shall say before it is hung up on.
        wait_ms = int(limit_s * 900)
        limits = f"-c statement_timeout={wait_ms} -c lock_timeout={wait_ms}"
        told = self._psycopg.conninfo.conninfo_to_dict(settings.conninfo).get("options") or ""
        secret = {"password": read_secret(settings.password)} if settings.password else {}
        self._connection = self._psycopg.connect(
            settings.conninfo,
            autocommit=True,
            # For each address of the host; psycopg takes no less than two seconds.
            connect_timeout=max(2, int(limit_s / 2)),
            fallback_application_name="dfwatch",
            # A server that vanished without a word is noticed by the kernel, a statement that waits by the server.
            tcp_user_timeout=int(limit_s * 1000),
            keepalives=1,
            keepalives_idle=max(1, int(limit_s)),
            keepalives_interval=max(1, int(limit_s / 3)),
            keepalives_count=3,
            # Of two that set the same, the later one counts.
            options=f"{told} {limits}".strip(),
            **secret,
        )
        self._line = self._hanging_up.watch(self._connection.fileno())
        return self._create if settings.create_table else ()

    def _error(self, action: str, exc: Any, *, late: bool, began: bool) -> SinkError:  # noqa: ANN401 - psycopg's, an extra
        self.close()
        if late:
            cause = f"it did not answer within {self._settings.timeout_s:g} s"
            return SinkError(f"{action} the table", self._settings.table, cause)
        # Class 22 and 23 of SQLSTATE: this row is at fault, and will be the next time. But where somebody else makes
        # the table at the same moment, PostgreSQL says 23505 (unique_violation) of its own catalogue, before any row.
        never = began and isinstance(exc, (self._psycopg.DataError, self._psycopg.IntegrityError))
        cause = " ".join(str(exc).split()) or type(exc).__name__
        return SinkError(f"{action} the table", self._settings.table, cause, retryable=not never)


def _is_connection_string(text: str) -> bool:
    """Whether libpq can read it; also True where psycopg is not there to ask, which ends the start anyway."""
    try:
        psycopg = require("psycopg", "postgresql")
    except MissingExtraError:
        return True
    try:
        ports = psycopg.conninfo.conninfo_to_dict(text).get("port")
    except (psycopg.Error, ValueError):
        return False
    # One for each host, each of which may be left out.
    return all(not port or (port.isdecimal() and 1 <= int(port) <= 65535) for port in str(ports or "").split(","))


def _without_nul(value: Any) -> Any:  # noqa: ANN401 - whatever JSON knows
    """``value`` with U+FFFD for each NUL within a text: PostgreSQL stores all characters but this one."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, Mapping):
        return {_without_nul(key): _without_nul(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nul(item) for item in value]
    return value
