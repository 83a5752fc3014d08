"""Prunes what was kept for long enough: files in ``done/``, sidecars with their evidence, closed jobs of the journal.

Only what the journal knows is touched, oldest first, and never anything of a job that is not closed or that a sink has
yet to take. A file that is no longer the one that was put there is left alone and forgotten. Ages come from the wall
clock; while that clock has jumped since the start, nothing is pruned by age.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from dfwatch.errors import StorageError
from dfwatch.evidence.folder import folder_name
from dfwatch.reasons import Status

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
        clock: The module ``time``, or what a test puts in its place.
    """

    def __init__(self, journal: Journal, clock: Clock = time) -> None:
        self._journal = journal
        self._clock = clock
        self._offset_s = clock.time() - clock.monotonic()
        self._due_s = clock.monotonic()
        self._distrusted = False

    def tend(self, settings: RetentionSettings) -> None:
        """Sweep if it is time to; a disk or journal that fails is tried again later."""
        now_s = self._clock.monotonic()
        if now_s < self._due_s:
            return
        self._due_s = now_s + INTERVAL_S
        try:
            swept = self.sweep(settings)
        except (OSError, StorageError) as error:
            _log.warning("nothing could be pruned", cause=str(error))
            return
        if swept.total:
            _log.info("pruned", files=swept.files, sidecars=swept.sidecars, jobs=swept.jobs)
        if swept.total >= MOST_AT_ONCE:
            self._due_s = now_s + _SOON_S

    def sweep(self, settings: RetentionSettings) -> Swept:
        """Remove what the settings no longer keep, ``MOST_AT_ONCE`` things at most.

        Raises:
            OSError: Something cannot be removed.
            StorageError: The journal failed.
        """
        done = _Limits(settings.done_max_age_days, settings.done_max_files, settings.done_max_bytes)
        results = _Limits(settings.results_max_age_days, settings.results_max_files, settings.results_max_bytes)
        journal = _Limits(settings.journal_max_age_days, settings.journal_max_jobs)
        files = sidecars = jobs = 0
        for row in self._beyond(done, "media", f"status = '{Status.DONE}'", MOST_AT_ONCE):
            files += _remove(os.fsdecode(row["media"]), row["size_bytes"])
            self._forget(row["id"], "media")
        left = MOST_AT_ONCE - files
        for row in self._beyond(results, "sidecar", "1", left):
            # The sidecar first: it must not name pictures that are gone.
            sidecars += _remove(os.fsdecode(row["sidecar"]), None)
            _remove_folder(_evidence_of(row))
            self._forget(row["id"], "sidecar")
        # A row is the only handle on what is still to be pruned, so it outlives its file and its sidecar.
        file_seen_to = f"(media IS NULL OR status != '{Status.DONE}')" if done else "1"
        sidecar_seen_to = "sidecar IS NULL" if results else "1"
        for row in self._beyond(journal, "id", "1", left - sidecars, f"{file_seen_to} AND {sidecar_seen_to}"):
            self._journal.forget(row["id"])
            jobs += 1
        return Swept(files, sidecars, jobs)

    def _beyond(self, limits: _Limits, column: str, which: str, most: int, may_go: str = "1") -> Iterator[sqlite3.Row]:
        """Closed and delivered jobs beyond one of the limits, the oldest first.

        Args:
            limits: What is kept.
            column: Holds what is counted; jobs without it do not count.
            which: SQL condition for those that count.
            most: At most so many.
            may_go: SQL condition for those that may be removed.
        """
        if not limits or most <= 0:
            return
        before = self._before(limits.age_days) if limits.age_days else None
        found: list[sqlite3.Row] = []
        total_bytes = 0
        rows = self._journal.query(
            f"SELECT id, name, {column}, size_bytes, updated_at, {_DELIVERED} AND {may_go} AS may_go FROM jobs"  # noqa: S608
            f" WHERE state = 'closed' AND {column} IS NOT NULL AND {which} ORDER BY updated_at DESC, id DESC"
        )
        for count, row in enumerate(rows, 1):
            if limits.bytes:
                total_bytes += _size_of(row, column)
            too_old = before is not None and row["updated_at"] < before
            too_many = 0 < limits.count < count or 0 < limits.bytes < total_bytes
            if (too_old or too_many) and row["may_go"]:
                found.append(row)
        yield from reversed(found[-most:])

    def _before(self, max_age_days: float) -> str | None:
        """The stamp of the oldest thing to keep; None while the wall clock is not to be trusted."""
        drift_s = self._clock.time() - self._clock.monotonic() - self._offset_s
        distrusted = abs(drift_s) > _LARGEST_CLOCK_DRIFT_S
        if distrusted and not self._distrusted:
            _log.warning("the clock has jumped; nothing is pruned by age until the next start", by_s=round(drift_s))
        self._distrusted = distrusted
        if distrusted:
            return None
        now = datetime.fromtimestamp(self._clock.time(), UTC)
        # As ``stamps.utc_now`` writes it, so that texts compare like times.
        return (now - timedelta(days=max_age_days)).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def _forget(self, job_id: str, column: str) -> None:
        with self._journal.transaction() as db:
            db.execute(f"UPDATE jobs SET {column} = NULL WHERE id = ?", (job_id,))  # noqa: S608 - one of two names


def _size_of(row: sqlite3.Row, column: str) -> int:
    if column == "media":
        return int(row["size_bytes"] or 0)
    total = 0
    with suppress(OSError):
        total += os.lstat(os.fsdecode(row[column])).st_size
    with suppress(OSError), os.scandir(_evidence_of(row)) as entries:
        total += sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    return total


def _evidence_of(row: sqlite3.Row) -> str:
    """Where the evidence lies, if there is any; no other job's has this name."""
    folder = os.path.dirname(os.fsdecode(row["sidecar"]))
    return os.path.join(folder, folder_name(os.fsdecode(row["name"]), row["id"]))


def _remove(path: str, size_bytes: int | None) -> bool:
    """Remove a file if it is (still) the one; says whether it was removed."""
    try:
        info = os.lstat(path)
        if not stat.S_ISREG(info.st_mode) or (size_bytes is not None and info.st_size != size_bytes):
            _log.warning("left alone: it is no longer what was put there", path=path)
            return False
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
