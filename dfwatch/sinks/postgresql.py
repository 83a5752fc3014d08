"""One row for each outcome in a PostgreSQL table."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from dfwatch.config import SinkSettings, setting
from dfwatch.document import encode
from dfwatch.errors import SinkError
from dfwatch.sinks import Sink
from dfwatch.sinks.extras import require
from dfwatch.sinks.record import COLUMNS, NAMES, TABLE_NAME, record
from dfwatch.sinks.secret import FORMS, complaint, read_secret

if TYPE_CHECKING:
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
        values = record(message.document, message.queued_at)
        document = encode(message.document, indent=None).decode("utf-8").rstrip("\n")
        try:
            self._connect().execute(self._insert, (*values.values(), document))
        except self._psycopg.Error as exc:
            raise self._error("writing to", exc) from exc

    def probe(self) -> str:
        """See ``Sink``."""
        try:
            self._connect().execute(self._look)
        except self._psycopg.Error as exc:
            raise self._error("trying", exc) from exc
        return f"the table {self._settings.db_schema}.{self._settings.table} is there"

    def close(self) -> None:
        """See ``Sink``."""
        if self._connection is not None:
            with suppress(self._psycopg.Error):
                self._connection.close()
            self._connection = None

    def _connect(self) -> Any:  # noqa: ANN401 - psycopg's, which need not be installed
        if self._connection is not None and not self._connection.closed:
            return self._connection
        settings = self._settings
        limit_ms = int(settings.timeout_s * 1000)
        secret = {"password": read_secret(settings.password)} if settings.password else {}
        self._connection = self._psycopg.connect(
            settings.conninfo,
            autocommit=True,
            connect_timeout=max(2, int(settings.timeout_s)),
            application_name="dfwatch",
            # A server that vanished without a word is noticed by the kernel, a statement that waits by the server.
            tcp_user_timeout=limit_ms,
            options=f"-c statement_timeout={limit_ms} -c lock_timeout={limit_ms}",
            **secret,
        )
        if settings.create_table:
            for statement in self._create:
                self._connection.execute(statement)
        return self._connection

    def _error(self, action: str, exc: Any) -> SinkError:  # noqa: ANN401 - psycopg's, which need not be installed
        self.close()
        # Class 22 and 23 of SQLSTATE: this row is at fault, and will be the next time.
        never = isinstance(exc, (self._psycopg.DataError, self._psycopg.IntegrityError))
        cause = " ".join(str(exc).split()) or type(exc).__name__
        return SinkError(f"{action} the table", self._settings.table, cause, retryable=not never)
