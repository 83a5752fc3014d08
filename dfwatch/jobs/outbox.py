"""The outbox: messages that sinks still have to take, in the journal's database.

An outcome and its messages are entered in one transaction (``enqueue`` within ``Journal.published``). The document is
kept with them, packed, until every sink has taken it: the sidecar may be moved or removed meanwhile. A message leaves
when its sink has taken it (at-least-once), or is set aside as dead.

The dispatcher uses a connection of its own that does not wait for the disk at each commit: what power loss may undo is
"was taken" and "failed", never a message, and the sink is given the same key again.
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dfwatch.storage.stamps import utc_now

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

    from dfwatch.journal import Journal

SCHEMA = """
CREATE TABLE outbox (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    sink         TEXT NOT NULL,
    job          TEXT NOT NULL,
    queued_at    TEXT NOT NULL,
    sidecar      BLOB NOT NULL,
    attempts     INTEGER NOT NULL DEFAULT 0,
    first_failed_at TEXT,
    dead_at      TEXT,
    error        TEXT
) STRICT;
CREATE INDEX outbox_by_sink ON outbox (sink, dead_at, seq);
CREATE INDEX outbox_by_job ON outbox (job);
CREATE TABLE documents (
    job  TEXT PRIMARY KEY,
    body BLOB NOT NULL
) STRICT;
CREATE TABLE sinks (
    name         TEXT PRIMARY KEY,
    delivered    INTEGER NOT NULL DEFAULT 0,
    delivered_at TEXT,
    failures     INTEGER NOT NULL DEFAULT 0,
    retry_at     TEXT,
    error        TEXT,
    gone         TEXT
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One message that waits; times are ISO 8601 in UTC. ``document`` is None where it is damaged or missing."""

    seq: int
    job: str
    queued_at: str
    sidecar: str
    attempts: int
    first_failed_at: str | None
    document: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class SinkState:
    """How a sink gets on.

    Attributes:
        name: The sink.
        queued: Messages that wait.
        dead: Messages that were set aside.
        oldest_queued_at: When the oldest of those that wait was published.
        delivered: Messages taken so far.
        delivered_at: When the last one was.
        failures: Failed deliveries in a row.
        retry_at: When the next delivery is tried; None: at once.
        error: Why the last one failed.
        gone: Why it is not called any more; None when it is.
    """

    name: str
    queued: int = 0
    dead: int = 0
    oldest_queued_at: str | None = None
    delivered: int = 0
    delivered_at: str | None = None
    failures: int = 0
    retry_at: str | None = None
    error: str | None = None
    gone: str | None = None


def enqueue(
    db: sqlite3.Connection,
    job_id: str,
    document: Mapping[str, Any],
    sinks: Iterable[str],
    *,
    sidecar: str,
    published_at: str = "",
) -> None:
    """Enter one message for each sink, within the caller's transaction; ``published_at`` is now if it is empty."""
    rows = [(sink, job_id, published_at or utc_now(), os.fsencode(sidecar)) for sink in sinks]
    if not rows:
        return
    body = zlib.compress(json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8"))
    db.execute("INSERT OR REPLACE INTO documents (job, body) VALUES (?, ?)", (job_id, body))
    db.executemany("INSERT INTO outbox (sink, job, queued_at, sidecar) VALUES (?, ?, ?, ?)", rows)


class Outbox:
    """What dispatcher and commands do with the outbox.

    Raises:
        StorageError: From every method, when SQLite or the disk below it fails.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def waiting(self, sink: str, limit: int) -> list[Entry]:
        """The messages that the sink is to take next, in the order in which they were published."""
        rows = self._journal.query(
            "SELECT o.*, d.body FROM outbox o LEFT JOIN documents d ON d.job = o.job"
            " WHERE o.sink = ? AND o.dead_at IS NULL ORDER BY o.seq LIMIT ?",
            sink,
            limit,
        )
        return [
            Entry(
                seq=row["seq"],
                job=row["job"],
                queued_at=row["queued_at"],
                sidecar=os.fsdecode(row["sidecar"]),
                attempts=row["attempts"],
                first_failed_at=row["first_failed_at"],
                document=_unpack(row["body"]),
            )
            for row in rows
        ]

    def delivered(self, sink: str, entry: Entry) -> None:
        """The sink has it for good."""
        now = utc_now()
        with self._journal.transaction() as db:
            db.execute("DELETE FROM outbox WHERE seq = ?", (entry.seq,))
            _drop_unused(db, entry.job)
            db.execute(
                "INSERT INTO sinks (name, delivered, delivered_at) VALUES (?, 1, ?) ON CONFLICT (name) DO UPDATE SET"
                " delivered = delivered + 1, delivered_at = excluded.delivered_at, failures = 0, retry_at = NULL,"
                " error = NULL",
                (sink, now),
            )

    def failed(self, sink: str, entry: Entry, *, failures: int, retry_at: str, error: str) -> None:
        """A delivery failed and is to be tried again."""
        now = utc_now()
        with self._journal.transaction() as db:
            db.execute(
                "UPDATE outbox SET attempts = attempts + 1, first_failed_at = coalesce(first_failed_at, ?), error = ?"
                " WHERE seq = ?",
                (now, error, entry.seq),
            )
            _note_failure(db, sink, failures, retry_at, error)

    def set_aside(self, sink: str, entry: Entry, *, error: str) -> None:
        """The message is dead: it waits for a person (``replay``), and the next one has its turn."""
        now = utc_now()
        with self._journal.transaction() as db:
            db.execute(
                "UPDATE outbox SET attempts = attempts + 1, first_failed_at = coalesce(first_failed_at, ?), error = ?,"
                " dead_at = ? WHERE seq = ?",
                (now, error, now, entry.seq),
            )
            _note_failure(db, sink, 0, None, error)

    def troubled(self, sink: str, *, failures: int, retry_at: str, error: str) -> None:
        """The sink itself fails, whatever the message."""
        with self._journal.transaction() as db:
            _note_failure(db, sink, failures, retry_at, error)

    def recovered(self, sink: str) -> None:
        """The sink's trouble is over, and no message is there to show it."""
        with self._journal.transaction() as db:
            db.execute("UPDATE sinks SET failures = 0, retry_at = NULL, error = NULL WHERE name = ?", (sink,))

    def gone(self, sink: str, *, cause: str) -> None:
        """The destination asks not to be called again."""
        with self._journal.transaction() as db:
            db.execute(
                "INSERT INTO sinks (name, gone) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET gone = excluded.gone",
                (sink, cause),
            )

    def enable(self, sink: str) -> None:
        """Call the destination again, at once, whatever happened before."""
        with self._journal.transaction() as db:
            db.execute("UPDATE sinks SET gone = NULL, failures = 0, retry_at = NULL WHERE name = ?", (sink,))

    def forget(self, sink: str, *, only_dead: bool = False) -> int:
        """Drop a sink's messages, dead ones too, and what is known of it; returns how many messages were dropped.

        Args:
            sink: Whose.
            only_dead: Drop the dead ones and leave the rest as it is.
        """
        which = " AND dead_at IS NOT NULL" if only_dead else ""
        with self._journal.transaction() as db:
            dropped = db.execute(f"DELETE FROM outbox WHERE sink = ?{which} RETURNING job", (sink,))  # noqa: S608
            jobs = [row["job"] for row in dropped]
            for job_id in jobs:
                _drop_unused(db, job_id)
            if not only_dead:
                db.execute("DELETE FROM sinks WHERE name = ?", (sink,))
        return len(jobs)

    def replay(
        self, sink: str, job_id: str, document: Mapping[str, Any], *, sidecar: str, published_at: str = ""
    ) -> bool:
        """Queue an outcome again; False if it is in the queue already. A dead message of it is taken up instead.

        Args:
            sink: Who is to get it.
            job_id: Its job.
            document: The sidecar document.
            sidecar: Where it was written.
            published_at: When it was published, which each delivery tells; empty: now.
        """
        with self._journal.transaction() as db:
            db.execute("DELETE FROM outbox WHERE sink = ? AND job = ? AND dead_at IS NOT NULL", (sink, job_id))
            if db.execute("SELECT 1 FROM outbox WHERE sink = ? AND job = ?", (sink, job_id)).fetchone():
                return False
            enqueue(db, job_id, document, [sink], sidecar=sidecar, published_at=published_at)
        return True

    def revive(self, sink: str, since: str = "") -> int:
        """Put dead messages back to where they stood in the queue, as if they had never failed.

        Args:
            sink: Whose.
            since: Only those of outcomes published since then (ISO 8601, UTC); empty: all of them.

        Returns:
            How many there were.
        """
        with self._journal.transaction() as db:
            return db.execute(
                "UPDATE outbox SET dead_at = NULL, attempts = 0, first_failed_at = NULL, error = NULL"
                " WHERE sink = ? AND dead_at IS NOT NULL AND queued_at >= ?",
                (sink, since),
            ).rowcount

    def document(self, job_id: str) -> dict[str, Any] | None:
        """An outcome's document while a message of it waits or is dead, else None; also None where it is damaged."""
        rows = self._journal.query("SELECT body FROM documents WHERE job = ?", job_id)
        return _unpack(rows[0]["body"]) if rows else None

    def state(self, sink: str) -> SinkState:
        """How one sink gets on; also for one that is not known yet."""
        found = self.states([sink])
        return next(state for state in found if state.name == sink)

    def condition(self, sink: str) -> SinkState:
        """As ``state``, without looking at the queue: its numbers are 0."""
        rows = self._journal.query("SELECT * FROM sinks WHERE name = ?", sink)
        return _state(sink, rows[0] if rows else None, None)

    def states(self, names: Sequence[str] = ()) -> list[SinkState]:
        """How the sinks get on: those of ``names`` first, then whoever else is known."""
        known = {row["name"]: row for row in self._journal.query("SELECT * FROM sinks")}
        queued = {
            row["sink"]: row
            for row in self._journal.query(
                # The inner query is answered by the index alone, however long the queues are.
                "SELECT counted.*, (SELECT queued_at FROM outbox WHERE seq = first) AS oldest FROM ("
                " SELECT sink, count(*) - count(dead_at) AS queued, count(dead_at) AS dead,"
                " min(CASE WHEN dead_at IS NULL THEN seq END) AS first FROM outbox GROUP BY sink) AS counted"
            )
        }
        return [
            _state(name, known.get(name), queued.get(name))
            for name in dict.fromkeys([*names, *sorted({*known, *queued})])
        ]


def _unpack(body: bytes | None) -> dict[str, Any] | None:
    """A document as ``enqueue`` packed it; None where it is not that any more."""
    try:
        document = json.loads(zlib.decompress(body or b""))
    except (zlib.error, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _state(name: str, row: sqlite3.Row | None, queue: sqlite3.Row | None) -> SinkState:
    return SinkState(
        name=name,
        queued=0 if queue is None else queue["queued"],
        dead=0 if queue is None else queue["dead"],
        oldest_queued_at=None if queue is None else queue["oldest"],
        delivered=0 if row is None else row["delivered"],
        delivered_at=None if row is None else row["delivered_at"],
        failures=0 if row is None else row["failures"],
        retry_at=None if row is None else row["retry_at"],
        error=None if row is None else row["error"],
        gone=None if row is None else row["gone"],
    )


def _drop_unused(db: sqlite3.Connection, job_id: str) -> None:
    db.execute(
        "DELETE FROM documents WHERE job = ?1 AND NOT EXISTS (SELECT 1 FROM outbox WHERE job = ?1)",
        (job_id,),
    )


def _note_failure(db: sqlite3.Connection, sink: str, failures: int, retry_at: str | None, error: str) -> None:
    db.execute(
        "INSERT INTO sinks (name, failures, retry_at, error) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET"
        " failures = excluded.failures, retry_at = excluded.retry_at, error = excluded.error",
        (sink, failures, retry_at, error),
    )
