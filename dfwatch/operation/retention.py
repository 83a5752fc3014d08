"""Prunes what was kept for long enough: files in ``done/``, sidecars with their evidence, closed jobs of the journal.

Only what the journal knows is touched, oldest first, and never anything of a job that is not closed or that a sink has
yet to take, nor a file that was kept in the inbox. What is older is told by the order in which jobs came in; ages come
from the wall clock, and while that clock has jumped since the start, nothing is pruned.

A file that is no longer the one that was put there is left alone and forgotten. It is that one as long as it has its
size and nothing about it changed since its job was closed; if something did (a backup was restored, another program
touched it), its bytes are compared, one file at a time and by a thread of its own, for that may take long.

What cannot be removed is told once, keeps nothing else from being removed, and is tried again after all others.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from dfwatch.errors import StorageError
from dfwatch.evidence.folder import folder_names
from dfwatch.inbox.beneath import UNTRUSTED_FILE
from dfwatch.inbox.completeness import Fingerprint
from dfwatch.reasons import Status
from dfwatch.sinks import sidecar
from dfwatch.storage.digest import Digest
from dfwatch.storage.stamps import stamp

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from dfwatch.config import RetentionSettings
    from dfwatch.journal import Journal

_log = structlog.get_logger(__name__)

INTERVAL_S: Final = 60.0
"""Time between two sweeps."""
MOST_AT_ONCE: Final = 200
"""So many removals in one sweep at most, so that the service's loop goes on; the next sweep follows soon."""
MEASURED_AT_ONCE: Final = 1000
"""So many sidecars are measured in one sweep at most."""
_SOON_S: Final = 1.0
_LARGEST_CLOCK_DRIFT_S: Final = 300.0
_DELIVERED = "NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.job = jobs.id)"


class Clock(Protocol):
    """What is used of the module ``time``."""

    def monotonic(self) -> float:
        """Seconds that only go forward."""

    def time(self) -> float:
        """Seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Swept:
    """How many things one sweep removed; a sidecar and its evidence are one."""

    files: int = 0
    sidecars: int = 0
    jobs: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.files + self.sidecars + self.jobs


@dataclass(frozen=True, slots=True)
class _Limits:
    """What is kept; 0: no such limit."""

    age_days: float
    count: int
    bytes: int = 0

    def __bool__(self) -> bool:
        return bool(self.age_days or self.count or self.bytes)


class Retention:
    """Sweeps from time to time; for one thread.

    Args:
        journal: The service's journal.
        done: The folder ``done/``.
        clock: The module ``time``, or what a test puts in its place.
    """

    def __init__(self, journal: Journal, done: str, clock: Clock = time) -> None:
        self._journal = journal
        below = os.fsencode(os.path.join(done, ""))
        # Files of jobs that are done may also have been kept in the inbox, where they are somebody's own.
        self._in_done = f"(status = '{Status.DONE}' AND substr(media, 1, {len(below)}) = X'{below.hex()}')"
        self._clock = clock
        self._offset_s = clock.time() - clock.monotonic()
        self._due_s = clock.monotonic()
        self._distrusted = False
        self._comparing: tuple[str, Digest] | None = None
        self._stuck: set[str] = set()
        self._unmeasured = False

    def tend(self, settings: RetentionSettings) -> None:
        """Sweep if it is time to; a disk or journal that fails is tried again later."""
        now_s = self._clock.monotonic()
        if now_s < self._due_s:
            return
        self._due_s = now_s + INTERVAL_S
        try:
            swept = self.sweep(settings)
        except StorageError as error:
            _log.warning("nothing could be pruned", cause=str(error))
            return
        if swept.total:
            _log.info("pruned", files=swept.files, sidecars=swept.sidecars, jobs=swept.jobs)
        if swept.total >= MOST_AT_ONCE or self._comparing is not None or self._unmeasured:
            self._due_s = now_s + _SOON_S

    def sweep(self, settings: RetentionSettings) -> Swept:
        """Remove what the settings no longer keep, ``MOST_AT_ONCE`` things at most.

        Raises:
            StorageError: The journal failed.
        """
        self._unmeasured = False
        if self._clock_jumped():
            return Swept()
        done = _Limits(settings.done_max_age_days, settings.done_max_files, settings.done_max_bytes)
        results = _Limits(settings.results_max_age_days, settings.results_max_files, settings.results_max_bytes)
        journal = _Limits(settings.journal_max_age_days, settings.journal_max_jobs)
        files = sidecars = jobs = 0
        rows = self._beyond(done, "media", self._in_done, MOST_AT_ONCE)
        if self._comparing is not None and self._comparing[0] not in {row["id"] for row in rows}:
            # Other settings keep it, or it is gone.
            self._comparing[1].give_up()
            self._comparing = None
        for row in rows:
            with self._passing_over(row):
                path = os.fsdecode(row["media"])
                is_it = self._is_it(path, row)
                if is_it is None:
                    continue
                files += _remove(path, is_it=is_it)
                self._forget(row["id"], "media")
        left = MOST_AT_ONCE - files
        for row in self._beyond(results, "sidecar", "1", left):
            with self._passing_over(row):
                # The sidecar first: it must not name pictures that are gone.
                path = os.fsdecode(row["sidecar"])
                sidecars += _remove(path, is_it=sidecar.is_of(path, row["id"]))
                _remove_folder(_evidence_of(row))
                self._forget(row["id"], "sidecar")
        # A row is the only handle on what is still to be pruned, so it outlives its file and its sidecar.
        file_seen_to = f"(media IS NULL OR NOT {self._in_done})" if done else "1"
        sidecar_seen_to = "sidecar IS NULL" if results else "1"
        for row in self._beyond(journal, "id", "1", left - sidecars, f"{file_seen_to} AND {sidecar_seen_to}"):
            self._journal.forget(row["id"])
            jobs += 1
        return Swept(files, sidecars, jobs)

    def _beyond(self, limits: _Limits, column: str, which: str, most: int, may_go: str = "1") -> list[sqlite3.Row]:
        """Closed and delivered jobs beyond one of the limits, the oldest first, but those that are stuck last.

        Args:
            limits: What is kept.
            column: Holds what is counted; jobs without it do not count.
            which: SQL condition for those that count.
            most: At most so many.
            may_go: SQL condition for those that may be removed.
        """
        if not limits or most <= 0:
            return []
        # In the order in which they came in; an index would have to be sorted first.
        counted = f"FROM jobs NOT INDEXED WHERE state = 'closed' AND {column} IS NOT NULL AND {which}"
        before = self._before(limits.age_days) if limits.age_days else ""
        rows = self._journal.query(
            f"SELECT id, name, {column}, size_bytes, sha256, updated_at {counted}"
            f" AND (updated_at < ? OR rowid <= ?) AND {_DELIVERED} AND {may_go} ORDER BY rowid LIMIT ?",
            before,
            max(self._last_too_many(limits, counted), self._last_too_large(limits, column, counted)),
            most + len(self._stuck),
        )
        return sorted(rows, key=lambda row: row["id"] in self._stuck)[:most]

    def _last_too_many(self, limits: _Limits, counted: str) -> int:
        """Row of the newest job that is one too many; 0: there is none."""
        if not limits.count:
            return 0
        rows = self._journal.query(f"SELECT rowid {counted} ORDER BY rowid DESC LIMIT 1 OFFSET ?", limits.count)
        return int(rows[0][0]) if rows else 0

    def _last_too_large(self, limits: _Limits, column: str, counted: str) -> int:
        """Row of the newest job that, with all newer ones, is larger than allowed; 0: there is none."""
        if not limits.bytes:
            return 0
        size = "size_bytes"
        if column == "sidecar":
            self._measure_results()
            size = "(SELECT bytes FROM result_sizes WHERE job = jobs.id)"
        rows = self._journal.query(
            f"SELECT MAX(place) FROM (SELECT rowid AS place, SUM({size}) OVER (ORDER BY rowid DESC) AS total {counted})"  # noqa: S608
            " WHERE total > ?",
            limits.bytes,
        )
        return int(rows[0][0] or 0)

    def _measure_results(self) -> None:
        """Note how large sidecars and their evidence are, some at a time; those not measured yet count nothing."""
        rows = self._journal.query(
            "SELECT id, name, sidecar FROM jobs NOT INDEXED WHERE state = 'closed' AND sidecar IS NOT NULL"
            " AND NOT EXISTS (SELECT 1 FROM result_sizes WHERE job = jobs.id) ORDER BY rowid DESC LIMIT ?",
            MEASURED_AT_ONCE,
        )
        self._unmeasured = len(rows) == MEASURED_AT_ONCE
        sizes = [(row["id"], _size_of(row)) for row in rows]
        with self._journal.transaction() as db:
            db.executemany("INSERT INTO result_sizes (job, bytes) VALUES (?, ?)", sizes)

    @contextmanager
    def _passing_over(self, row: sqlite3.Row) -> Iterator[None]:
        """Go on with the next job where something of this one cannot be removed."""
        try:
            yield
        except OSError as error:
            if row["id"] not in self._stuck:
                _log.warning("could not be pruned, will be tried again", job=row["id"], cause=str(error))
            self._stuck.add(row["id"])
        else:
            self._stuck.discard(row["id"])

    def _clock_jumped(self) -> bool:
        drift_s = self._clock.time() - self._clock.monotonic() - self._offset_s
        distrusted = abs(drift_s) > _LARGEST_CLOCK_DRIFT_S
        if distrusted and not self._distrusted:
            _log.warning("the clock has jumped; nothing is pruned until the next start", by_s=round(drift_s))
        self._distrusted = distrusted
        return distrusted

    def _before(self, max_age_days: float) -> str:
        """The stamp of the oldest thing to keep."""
        now = datetime.fromtimestamp(self._clock.time(), UTC)
        return stamp(now - timedelta(days=max_age_days))

    def _is_it(self, path: str, row: sqlite3.Row) -> bool | None:
        """Whether the file is still the one that was put there; None while that is being found out."""
        try:
            info = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if not stat.S_ISREG(info.st_mode) or (row["size_bytes"] is not None and info.st_size != row["size_bytes"]):
            return False
        # The stamp is cut to milliseconds.
        if info.st_ctime <= datetime.fromisoformat(row["updated_at"]).timestamp() + 0.001:
            return True
        return row["sha256"] is not None and self._has_bytes(path, row["id"], row["sha256"])

    def _has_bytes(self, path: str, job_id: str, sha256: str) -> bool | None:
        if self._comparing is None:
            try:
                fd = os.open(path, UNTRUSTED_FILE)
            except PermissionError:
                return False
            try:
                self._comparing = (job_id, Digest(fd))
            finally:
                os.close(fd)
        comparing, digest = self._comparing
        if comparing != job_id or not digest.done:
            return None
        self._comparing = None
        return digest.result() == sha256 and digest.fingerprint == Fingerprint.from_stat(os.lstat(path))

    def _forget(self, job_id: str, column: str) -> None:
        with self._journal.transaction() as db:
            db.execute(f"UPDATE jobs SET {column} = NULL WHERE id = ?", (job_id,))  # noqa: S608 - one of two names


def _size_of(row: sqlite3.Row) -> int:
    """Size of a sidecar and its evidence, in bytes."""
    total = 0
    with suppress(OSError):
        total += os.lstat(os.fsdecode(row["sidecar"])).st_size
    with suppress(OSError), os.scandir(_evidence_of(row)) as entries:
        total += sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    return total


def _evidence_of(row: sqlite3.Row) -> str:
    """Where the evidence lies, if there is any; no other job's has this name."""
    folder = os.path.dirname(os.fsdecode(row["sidecar"]))
    paths = [os.path.join(folder, name) for name in folder_names(os.fsdecode(row["name"]), row["id"])]
    return next(filter(os.path.lexists, paths), paths[0])


def _remove(path: str, *, is_it: bool) -> bool:
    """Remove a file if it is (still) the one; says whether it was removed."""
    if not is_it:
        if os.path.lexists(path):
            _log.warning("left alone: it is no longer what was put there", path=path)
        return False
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _remove_folder(path: str) -> None:
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            _log.warning("left alone: it is no longer what was put there", path=path)
            return
    except (FileNotFoundError, NotADirectoryError):
        return
    shutil.rmtree(path)
