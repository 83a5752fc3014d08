"""The journal: which stage each job has passed, in SQLite (WAL, synced at every commit, commits made in groups).

It is written by the daemon alone and may be read by others while the daemon runs. The folders are enough to carry on
without it: what it adds is the attempt counter, the list of finished jobs and the memory of files that were kept in the
inbox.
"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from dfwatch.errors import JournalDamagedError, StorageError
from dfwatch.jobs import outbox
from dfwatch.reasons import Reason, Status
from dfwatch.storage.database import Database
from dfwatch.storage.layout import DroppedName
from dfwatch.storage.stamps import utc_now

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE jobs (
    id          TEXT PRIMARY KEY,
    state       TEXT NOT NULL,
    status      TEXT,
    folder      BLOB NOT NULL,
    name        BLOB NOT NULL,
    size_bytes  INTEGER,
    sha256      TEXT,
    received_at TEXT NOT NULL,
    updated_at  TEXT NOT NULL,
    attempts    INTEGER NOT NULL DEFAULT 0,
    alone       INTEGER NOT NULL DEFAULT 0,
    evidence    TEXT NOT NULL DEFAULT '[]',
    verdict     TEXT,
    p_fake      REAL,
    reason      TEXT,
    detail      TEXT,
    sidecar     BLOB,
    media       BLOB
) STRICT;
CREATE INDEX jobs_by_state ON jobs (state, updated_at);
CREATE TABLE kept (
    folder   BLOB NOT NULL,
    name     BLOB NOT NULL,
    inode    INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    job      TEXT NOT NULL,
    PRIMARY KEY (folder, name)
) STRICT;
"""

_LATER_SCHEMA = """
CREATE TABLE IF NOT EXISTS result_sizes (job TEXT PRIMARY KEY, bytes INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS root (path BLOB NOT NULL) STRICT;
"""


class State(StrEnum):
    """Which stage a job has passed."""

    QUEUED = "queued"
    READING = "reading"
    PUBLISHED = "published"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class JobRow:
    """One job as the journal knows it; times are ISO 8601 in UTC."""

    id: str
    state: State
    status: Status | None
    dropped: DroppedName
    size_bytes: int | None
    sha256: str | None
    received_at: str
    updated_at: str
    attempts: int
    alone: bool
    evidence: tuple[str, ...]
    verdict: str | None
    p_fake: float | None
    reason: str | None
    detail: str | None
    sidecar: str | None
    media: str | None


class Journal:
    """One connection to the journal, shared by the daemon's threads; no write returns before it is committed.

    Args:
        path: The database.
        read_only: Only read.
        synced: Wait for the disk at each commit; without it, power loss may undo the last commits, in order.

    Raises:
        JournalDamagedError: From every method: the file is no database, or a broken one.
        StorageError: From every method, when SQLite or the disk below it fails.
    """

    def __init__(self, path: str, *, read_only: bool = False, synced: bool = True) -> None:
        self._path = path
        # What was kept when it was last read, and which change was the last one then.
        self._kept_change = object()
        self._kept: tuple[object, dict[str, tuple[int, int, int]]] | None = None
        with self._failing_as_storage("opening"):
            self._db = Database(path, read_only=read_only)
            try:
                if not read_only:
                    self._prepare(synced=synced)
                self._check_version()
            except BaseException:
                self._db.close()
                raise

    def _prepare(self, *, synced: bool) -> None:
        # Damage that is found now costs a new journal; found later, it costs the job in hand as well.
        found = self._db.read("PRAGMA quick_check(1)")[0][0]
        if found != "ok":
            raise JournalDamagedError("opening the journal", self._path, found)
        self._db.read("PRAGMA journal_mode = WAL")
        self._db.read(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
        if self._version() == 0:
            self._db.script(
                f"BEGIN IMMEDIATE; {_SCHEMA} {outbox.SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )

        # Younger than the format, and nothing that older versions would miss.
        self._db.script(_LATER_SCHEMA)

    def _version(self) -> int:
        return int(self._db.read("PRAGMA user_version")[0][0])

    def _check_version(self) -> None:
        version = self._version()
        if version != SCHEMA_VERSION:
            raise StorageError(
                "opening the journal",
                self._path,
                f"it has format {version}, this version of dfwatch writes format {SCHEMA_VERSION}",
                hint="use the version of dfwatch that wrote it",
                retryable=False,
            )

    @contextmanager
    def _failing_as_storage(self, action: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            if getattr(exc, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
                raise JournalDamagedError(
                    f"{action} the journal", self._path, exc, hint="the next start sets it aside and builds a new one"
                ) from exc
            raise StorageError(
                f"{action} the journal", self._path, exc, hint="check the disk; 'dfwatch doctor' tells more"
            ) from exc

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A connection whose changes are made together, or not at all when the block raises."""
        with self._write() as db:
            yield db

    def query(self, text: str, *parameters: object) -> list[sqlite3.Row]:
        """The rows that a query finds."""
        return self._read(text, *parameters)

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._failing_as_storage("writing to"), self._db.write() as db:
            yield db

    def _read(self, query: str, *parameters: object) -> list[sqlite3.Row]:
        with self._failing_as_storage("reading"):
            return self._db.read(query, *parameters)

    def close(self) -> None:
        """Close the connection; further calls fail."""
        self._db.close()

    def lies_below(self, root: str) -> None:
        """Let what is known to lie below the root lie below it where it is now.

        It may have been moved to another disk, copied, or be called otherwise than in the last run. Files of another
        root, which a copy was made of, are not ours to prune.
        """
        now = os.fsencode(os.path.join(root, ""))
        with self._write() as db:
            known = db.execute("SELECT path FROM root").fetchone()
            if known is None:
                db.execute("INSERT INTO root VALUES (?)", (now,))
            elif (before := known["path"]) != now:
                for table, column in (("jobs", "sidecar"), ("jobs", "media"), ("outbox", "sidecar")):
                    db.execute(
                        f"UPDATE {table} SET {column} = CAST(? || substr({column}, ?) AS BLOB)"  # noqa: S608
                        f" WHERE substr({column}, 1, ?) = ?",
                        (now, len(before) + 1, len(before), before),
                    )
                db.execute("UPDATE root SET path = ?", (now,))

    # -- a job's way ---------------------------------------------------------------------------------------------------

    def add(
        self, job_id: str, dropped: DroppedName, *, received_at: str, size_bytes: int | None, evidence: tuple[str, ...]
    ) -> None:
        """Enter a claimed job as ``queued``; a job that is known already is left as it is."""
        with self._write() as db:
            db.execute(
                "INSERT INTO jobs (id, state, folder, name, size_bytes, received_at, updated_at, evidence)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
                (
                    job_id,
                    State.QUEUED,
                    os.fsencode(dropped.folder),
                    os.fsencode(dropped.name),
                    size_bytes,
                    received_at,
                    utc_now(),
                    json.dumps(evidence),
                ),
            )

    def begin_attempt(self, job_id: str) -> int:
        """Raise the attempt counter, durably, before the work; returns the number of this attempt, from 1."""
        with self._write() as db:
            row = db.execute(
                "UPDATE jobs SET state = ?, attempts = attempts + 1, updated_at = ? WHERE id = ? RETURNING attempts",
                (State.READING, utc_now(), job_id),
            ).fetchone()
            return int(row["attempts"])

    def requeue(self, job_id: str, *, refund: bool = False, alone: bool = False) -> None:
        """Put a job back to ``queued``; one that was published stays that, and a closed one is left as it is.

        Args:
            job_id: Which one.
            refund: Take the last attempt back, because the file was not to blame.
            alone: Let it run with no other job beside it.
        """
        with self._write() as db:
            db.execute(
                "UPDATE jobs SET state = CASE state WHEN 'published' THEN state ELSE ? END,"
                " attempts = max(0, attempts - ?), alone = max(alone, ?), updated_at = ?"
                " WHERE id = ? AND state != 'closed'",
                (State.QUEUED, int(refund), int(alone), utc_now(), job_id),
            )

    def published(
        self,
        job_id: str,
        status: Status,
        *,
        sidecar: str,
        sha256: str | None,
        verdict: str | None,
        p_fake: float | None,
        reason: str | None,
        detail: str | None,
        size_bytes: int | None = None,
        document: Mapping[str, Any] | None = None,
        sinks: Sequence[str] = (),
    ) -> None:
        """Note that the sidecar is durable; the source still lies in ``work/``.

        The file may have grown since its claim: ``size_bytes`` is what was judged, None where it was never opened.
        In the same transaction one message for each of ``sinks`` enters the outbox, with the ``document``; not a second
        time for a job that was published before.
        """
        with self._write() as db:
            known = db.execute(
                "SELECT 1 FROM jobs WHERE id = ? AND (sidecar IS NOT NULL OR status IS NOT NULL)", (job_id,)
            ).fetchone()
            if document is not None and sinks and not known:
                outbox.enqueue(db, job_id, document, sinks, sidecar=sidecar)
            db.execute(
                "UPDATE jobs SET state = ?, status = ?, sidecar = ?, sha256 = ?, verdict = ?, p_fake = ?, reason = ?,"
                " detail = ?, size_bytes = coalesce(?, size_bytes), updated_at = ? WHERE id = ?",
                (
                    State.PUBLISHED,
                    status,
                    os.fsencode(sidecar),
                    sha256,
                    verdict,
                    p_fake,
                    reason,
                    detail,
                    size_bytes,
                    utc_now(),
                    job_id,
                ),
            )

    def closed(self, job_id: str, *, media: str | None) -> None:
        """Note that the source is where it stays: ``media``, or None when it was deleted."""
        with self._write() as db:
            db.execute(
                "UPDATE jobs SET state = ?, media = ?, updated_at = ? WHERE id = ?",
                (State.CLOSED, None if media is None else os.fsencode(media), utc_now(), job_id),
            )

    def vanished(self, job_id: str) -> None:
        """Note that an unfinished job's source was taken out of ``work/`` by somebody else."""
        with self._write() as db:
            db.execute(
                "UPDATE jobs SET state = ?, status = ?, reason = ?, updated_at = ? WHERE id = ?",
                (State.CLOSED, Status.FAILED, Reason.VANISHED, utc_now(), job_id),
            )

    def superseded(self, job_id: str, *, sidecar: str | None) -> None:
        """Note that a closed job's file was handed back for another try and its sidecar, if it has one, set aside."""
        with self._write() as db:
            db.execute(
                "UPDATE jobs SET sidecar = ?, media = NULL, detail = 'handed back for another try', updated_at = ?"
                " WHERE id = ?",
                (None if sidecar is None else os.fsencode(sidecar), utc_now(), job_id),
            )

    def forget(self, job_id: str) -> None:
        """Drop a job whose file went back to the inbox untouched."""
        with self._write() as db:
            db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
            db.execute("DELETE FROM result_sizes WHERE job = ?", (job_id,))

    # -- files kept in the inbox ---------------------------------------------------------------------------------------

    def keep(
        self, dropped: DroppedName, *, inode: int, size_bytes: int, mtime_ns: int, job_id: str
    ) -> sqlite3.Row | None:
        """Remember that this file of the inbox was judged and is not to be taken again.

        Returns:
            What was remembered of another job's file of this name, for ``unkeep``.
        """
        key = (os.fsencode(dropped.folder), os.fsencode(dropped.name))
        with self._write() as db:
            before: sqlite3.Row | None = db.execute(
                "SELECT * FROM kept WHERE folder = ? AND name = ? AND job != ?", (*key, job_id)
            ).fetchone()
            db.execute(
                "INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?, ?, ?)", (*key, inode, size_bytes, mtime_ns, job_id)
            )
        self._kept_change = object()
        return before

    def kept(self) -> dict[str, tuple[int, int, int]]:
        """Files kept in the inbox: relative path to (inode, size in bytes, mtime in ns); not to be changed.

        Asked again, it costs nothing unless this connection has changed them; no other one does.
        """
        change = self._kept_change
        if self._kept is None or self._kept[0] is not change:
            rows = self._read("SELECT folder, name, inode, size_bytes, mtime_ns FROM kept")
            self._kept = (
                change,
                {
                    os.path.join(os.fsdecode(row["folder"]), os.fsdecode(row["name"])): (
                        row["inode"],
                        row["size_bytes"],
                        row["mtime_ns"],
                    )
                    for row in rows
                },
            )
        return self._kept[1]

    def unkeep(self, dropped: DroppedName, *, job_id: str, before: sqlite3.Row | None) -> None:
        """Undo ``keep``, which returned ``before``; what another job remembered since stays."""
        with self._write() as db:
            undone = db.execute(
                "DELETE FROM kept WHERE folder = ? AND name = ? AND job = ?",
                (os.fsencode(dropped.folder), os.fsencode(dropped.name), job_id),
            ).rowcount
            if undone and before is not None:
                db.execute("INSERT INTO kept VALUES (?, ?, ?, ?, ?, ?)", tuple(before))
        self._kept_change = object()

    def unkeep_gone(self, gone: Mapping[str, tuple[int, int, int]]) -> None:
        """Forget kept files that are gone, as ``kept`` told of them; not those that are only about to be put back."""
        with self._write() as db:
            db.executemany(
                "DELETE FROM kept WHERE folder = ? AND name = ? AND inode = ? AND size_bytes = ? AND mtime_ns = ?"
                " AND job NOT IN (SELECT id FROM jobs WHERE state != 'closed')",
                [(*map(os.fsencode, os.path.split(relative)), *known) for relative, known in gone.items()],
            )
        self._kept_change = object()

    # -- questions -----------------------------------------------------------------------------------------------------

    def job(self, job_id: str) -> JobRow | None:
        """One job, or None."""
        rows = self._read("SELECT * FROM jobs WHERE id = ?", job_id)
        return _job(rows[0]) if rows else None

    def put_there_last(self, media: str) -> str | None:
        """Which job's file was put there last; None if none was."""
        rows = self._read("SELECT id FROM jobs WHERE media = ? ORDER BY updated_at DESC LIMIT 1", os.fsencode(media))
        return rows[0]["id"] if rows else None

    def unfinished(self) -> list[JobRow]:
        """Jobs that are not closed, in order of receipt."""
        return [_job(row) for row in self._read("SELECT * FROM jobs WHERE state != ? ORDER BY id", State.CLOSED)]

    def ended(self, *statuses: Status, limit: int | None = None) -> list[JobRow]:
        """Closed jobs of these statuses, newest first."""
        marks = ", ".join("?" for _ in statuses)
        return [
            _job(row)
            for row in self._read(
                f"SELECT * FROM jobs WHERE state = ? AND status IN ({marks})"  # noqa: S608 - only question marks
                " ORDER BY updated_at DESC, id DESC LIMIT ?",
                State.CLOSED,
                *statuses,
                -1 if limit is None else limit,
            )
        ]

    def published_since(self, stamp: str) -> list[JobRow]:
        """Jobs with a sidecar that were published or closed since then (ISO 8601, UTC), oldest first."""
        return [
            _job(row)
            for row in self._read(
                "SELECT * FROM jobs WHERE state IN ('published', 'closed') AND sidecar IS NOT NULL AND updated_at >= ?"
                " ORDER BY updated_at, id",
                stamp,
            )
        ]

    def counts(self) -> dict[str, int]:
        """Number of jobs by state (``queued``, ``reading``, ``published``) and, once closed, by status."""
        rows = self._read(
            "SELECT CASE state WHEN 'closed' THEN status ELSE state END AS what, count(*) AS n FROM jobs GROUP BY what"
        )
        return {row["what"]: row["n"] for row in rows}

    def verdict_counts(self) -> dict[str, int]:
        """Number of closed jobs by verdict."""
        rows = self._read(
            "SELECT verdict, count(*) AS n FROM jobs WHERE state = 'closed' AND verdict IS NOT NULL GROUP BY verdict"
        )
        return {row["verdict"]: row["n"] for row in rows}


def _job(row: sqlite3.Row) -> JobRow:
    return JobRow(
        id=row["id"],
        state=State(row["state"]),
        status=None if row["status"] is None else Status(row["status"]),
        dropped=DroppedName(os.fsdecode(row["folder"]), os.fsdecode(row["name"])),
        size_bytes=row["size_bytes"],
        sha256=row["sha256"],
        received_at=row["received_at"],
        updated_at=row["updated_at"],
        attempts=row["attempts"],
        alone=bool(row["alone"]),
        evidence=tuple(json.loads(row["evidence"])),
        verdict=row["verdict"],
        p_fake=row["p_fake"],
        reason=row["reason"],
        detail=row["detail"],
        sidecar=None if row["sidecar"] is None else os.fsdecode(row["sidecar"]),
        media=None if row["media"] is None else os.fsdecode(row["media"]),
    )
