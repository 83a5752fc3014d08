"""Taking files in: the scan, who is claimed and when, what stands in the way.

Decided in the service's own thread; only what waits for the disk is done by others, for several files at once.
"""

from __future__ import annotations

import math
import os
import shutil
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import structlog

from dfwatch.disposal import locate_media
from dfwatch.errors import JournalDamagedError, StorageError, UnclaimableError
from dfwatch.intake import claim, enter, is_there, lost_sources, recover
from dfwatch.jobs.obstacles import Obstacles
from dfwatch.operation.vitals import Inbox
from dfwatch.storage.stamps import new_job_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from dfwatch.config import Settings
    from dfwatch.intake import Job
    from dfwatch.journal import Journal
    from dfwatch.pipeline import Pipeline
    from dfwatch.storage.layout import Layout
    from dfwatch.storage.rootguard import RootGuard
    from dfwatch.watcher import Candidate, Watcher

_log = structlog.get_logger(__name__)

_CANDIDATES_PER_SCAN: Final = 1000
# So many files are claimed at a time.
_AT_ONCE: Final = 8
_STORAGE_RETRY_S: Final = 2.0
_TIDY_INTERVAL_S: Final = 60.0
# Room is taken to be back only well above the limit, so that intake does not flap around it.
_RESUME_FACTOR: Final = 1.1


class Admission:
    """The door between the inbox and the pipeline.

    Args:
        layout: The service's folders.
        journal: The service's journal.
        watcher: Finds what is complete.
        pipeline: Takes what is claimed.
        taken_in: Is told the id of each job that begins.
        root: Tells whether the folders are there.
    """

    def __init__(
        self,
        layout: Layout,
        journal: Journal,
        watcher: Watcher,
        pipeline: Pipeline,
        taken_in: Callable[[str], None],
        *,
        root: RootGuard,
    ) -> None:
        self._layout = layout
        self._root = root
        self._journal = journal
        self._watcher = watcher
        self._pipeline = pipeline
        self._taken_in = taken_in
        self._candidates: deque[Candidate] = deque()
        self._claimed: list[Job] = []
        # They wait for the disk, which serves all who wait at once.
        self._hands = _started_threads(_AT_ONCE)
        self._kept: dict[str, tuple[int, int, int]] | None = journal.kept()
        self._kept_seen: set[str] = set()
        self._kept_tidied_s = time.monotonic()
        self._inbox: os.stat_result | None = None
        self._obstacles = Obstacles()
        self._storage_trouble = ""
        self._storage_retry_s = 0.0
        self._full = ""
        self._more_ready = 0
        self._waiting = 0
        self._oldest_wait_s = 0.0

    def take_up(self, settings: Settings) -> None:
        """Hand the pipeline what an earlier run left.

        Raises:
            StorageError: The disk or the journal failed.
        """
        jobs = recover(self._layout, self._journal)
        for row in lost_sources(self._layout, self._journal):
            # By its sidecar, not its state: another attempt may have begun only to put the file away.
            if row.sidecar is not None:
                self._journal.closed(row.id, media=locate_media(self._layout, row, settings.outcome))
            else:
                _log.warning("a job's file is gone from work/", job=row.id, name=row.dropped.shown)
                self._journal.vanished(row.id)
        for job in jobs:
            # Unless it is another file's: one that was sent under the same name while no service ran.
            if not self._is_in_inbox(job.dropped.relative):
                self._remove_marker(job.dropped.relative)
            self._hand_on(job)
        if jobs:
            _log.info("taking up jobs of an earlier run", jobs=len(jobs), alone=sum(job.alone for job in jobs))

    def scan(self) -> None:
        """Look at the inbox anew.

        Raises:
            JournalDamagedError: The journal must be built anew.
        """
        self._kept_seen.clear()
        self._load_kept()
        result = self._watcher.scan(known=self._needs_nothing, limit=_CANDIDATES_PER_SCAN)
        self._candidates = deque(result.ready)
        self._more_ready = result.beyond_limit
        self._waiting = result.waiting
        self._oldest_wait_s = result.oldest_wait_s
        if not result.problem:
            self._obstacles.looked_through(result.may_hide)
            self._tidy_kept(result.may_hide)

    def take_in(self, settings: Settings, stopping: Callable[[], bool]) -> None:
        """Claim what there is room for; a disk that is full or fails is waited for, and said to be.

        Raises:
            JournalDamagedError: The journal must be built anew.
        """
        self._look_at_disk(settings.watch.min_free_bytes)
        if self._full or time.monotonic() < self._storage_retry_s:
            return
        try:
            self._root.check()
            self._claim_ready(stopping)
        except JournalDamagedError:
            raise
        except StorageError as error:
            self._storage_failed(error)
            self._candidates.clear()
        else:
            if self._storage_trouble:
                _log.info("files can be taken in again")
            self._storage_trouble = ""

    def inbox(self) -> Inbox:
        """What is to be told of the inbox."""
        return Inbox(
            ready=len(self._candidates) + self._more_ready,
            oldest_ready_since_s=min((candidate.ready_since_s for candidate in self._candidates), default=None),
            waiting=self._waiting,
            oldest_wait_s=self._oldest_wait_s,
            blocked=self._obstacles.told(),
            blocked_count=self._obstacles.count,
            paused=self._full or self._storage_trouble,
        )

    def _needs_nothing(self, candidate: Candidate) -> bool:
        """Whether a ready file is to be left alone: it was judged and kept, or cannot be claimed for the moment."""
        if self._obstacles.hold(candidate.name):
            return True
        self._load_kept()
        if self._kept is None:
            # Everything may have been kept.
            return True
        kept = self._kept.get(candidate.name)
        if kept is None:
            return False
        self._kept_seen.add(candidate.name)
        fingerprint = candidate.fingerprint
        return kept == (fingerprint.inode, fingerprint.size_bytes, fingerprint.mtime_ns)

    def _load_kept(self) -> None:
        """Learn which files were kept; a file is entered before it is put back, and found before its job is closed."""
        try:
            self._kept = self._journal.kept()
        except JournalDamagedError:
            raise
        except StorageError as error:
            self._kept = None
            self._storage_failed(error)

    def _tidy_kept(self, may_hide: Callable[[str], bool]) -> None:
        """Forget the kept files that a scan would have shown, and that are gone."""
        now_s = time.monotonic()
        if not self._kept or now_s - self._kept_tidied_s < _TIDY_INTERVAL_S:
            return
        self._kept_tidied_s = now_s
        unseen = [name for name in self._kept if name not in self._kept_seen and not may_hide(name)]
        try:
            self._root.check()
            inbox = os.stat(self._layout.inbox)
            if not os.path.samestat(inbox, self._inbox or inbox):
                # Of another folder in its place, nothing is to be concluded.
                return
            self._inbox = inbox
            gone = {name: self._kept[name] for name in unseen if not is_there(os.path.join(self._layout.inbox, name))}
            if gone:
                self._journal.unkeep_gone(gone)
        except JournalDamagedError:
            raise
        except (OSError, StorageError) as error:
            _log.warning("files that were kept and are gone could not be forgotten", cause=str(error))

    def _claim_ready(self, stopping: Callable[[], bool]) -> None:
        self._enter_claimed()
        while self._candidates and not stopping() and (room := self._pipeline.room) > 0:
            count = min(room, len(self._candidates), _AT_ONCE)
            batch = [self._candidates.popleft() for _ in range(count)]
            # Ids are given here, so that jobs stand in the order of their files however the disk serves them.
            attempts = [
                self._hands.submit(claim, self._layout, each.name, each.fingerprint, each.evidence, job_id=new_job_id())
                for each in batch
            ]
            trouble: StorageError | None = None
            for candidate, attempt in zip(batch, attempts, strict=True):
                trouble = self._take(candidate, attempt) or trouble
            self._enter_claimed()
            if trouble is not None:
                raise trouble

    def _take(self, candidate: Candidate, attempt: Future[Job | None]) -> StorageError | None:
        """Note how a claim went; the trouble of the machine that it met."""
        try:
            job = attempt.result()
        except UnclaimableError as error:
            self._obstacles.met(candidate.name, error)
            return None
        except StorageError as error:
            return error
        self._obstacles.overcome(candidate.name)
        self._watcher.forget(candidate.name)
        if job is not None:
            self._claimed.append(replace(job, digest=candidate.digest))
            self._remove_marker(candidate.name)
        return None

    def _enter_claimed(self) -> None:
        """Hand on what was claimed; a job whose entry failed is entered when the disk works again."""
        entries = [self._hands.submit(enter, self._layout, self._journal, job) for job in self._claimed]
        trouble: BaseException | None = None
        claimed, self._claimed = self._claimed, []
        for job, entry in zip(claimed, entries, strict=True):
            failure = entry.exception()
            if failure is None:
                self._hand_on(job)
            else:
                trouble = failure
                self._claimed.append(job)
        if trouble is not None:
            raise trouble

    def _hand_on(self, job: Job) -> None:
        self._taken_in(job.id)
        self._pipeline.add(job)

    def _is_in_inbox(self, name: str) -> bool:
        """Whether there is, or may be, a file of this name."""
        try:
            return is_there(os.path.join(self._layout.inbox, name))
        except OSError:
            return True

    def _remove_marker(self, name: str) -> None:
        try:
            self._watcher.remove_marker(name)
        except OSError as error:
            _log.warning("a marker file could not be removed", name=name, cause=error.strerror)

    def _look_at_disk(self, least_bytes: int) -> None:
        """Take nothing in while the disk is nearly full: what is in work still needs some of it."""
        resume_bytes = least_bytes * _RESUME_FACTOR
        try:
            free_bytes = shutil.disk_usage(self._layout.root).free
        except OSError as error:
            free_bytes, cause = -1, f"the root cannot be looked at: {error.strerror}"
        else:
            cause = f"{free_bytes // 1024**2} MiB free, {math.ceil(resume_bytes / 1024**2)} MiB wanted"
        low = free_bytes < (resume_bytes if self._full else least_bytes)
        if low and not self._full:
            _log.error("intake paused: the disk is nearly full", cause=cause)
        elif not low and self._full:
            _log.info("intake resumed", free_bytes=free_bytes)
        self._full = cause if low else ""

    def _storage_failed(self, error: StorageError) -> None:
        if not self._storage_trouble:
            _log.error("files cannot be taken in", error=error)
        self._storage_trouble = str(error)
        self._storage_retry_s = time.monotonic() + _STORAGE_RETRY_S


def _started_threads(count: int) -> ThreadPoolExecutor:
    """Threads that run already.

    Where they are started as they are needed, that may be refused, and the pool does later what it said it cannot do.
    """
    threads = ThreadPoolExecutor(count, thread_name_prefix="claim")
    # Nobody is idle before all are there.
    together = threading.Barrier(count)
    try:
        for _ in range(count):
            threads.submit(together.wait)
    except RuntimeError:
        together.abort()
        raise
    return threads
