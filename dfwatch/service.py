"""The daemon's life: lock, journal, model, recovery, READY, the loop over the inbox, signals, an orderly end."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import structlog

from dfwatch import __version__
from dfwatch.disposal import locate_media
from dfwatch.errors import (
    ConfigError,
    JournalDamagedError,
    MissingExtraError,
    StorageError,
    UnclaimableError,
)
from dfwatch.intake import claim, enter, lost_sources, recover
from dfwatch.jobs.dispatcher import Dispatcher
from dfwatch.jobs.obstacles import Obstacles
from dfwatch.journal import Journal, State
from dfwatch.operation.heartbeat import Heartbeat, Watchdog
from dfwatch.operation.privileges import keep_capabilities_from_children
from dfwatch.operation.reporting import Reporter
from dfwatch.operation.retention import Retention
from dfwatch.operation.vitals import Inbox, Phase
from dfwatch.operation.wake import Wake
from dfwatch.pipeline import Pipeline
from dfwatch.reader import reader_processes
from dfwatch.settings.diff import diff, reloaded
from dfwatch.storage.layout import Layout
from dfwatch.storage.rootlock import RootLock
from dfwatch.systemd import Notifier, watchdog_interval_s
from dfwatch.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dfwatch.config import Settings
    from dfwatch.intake import Job
    from dfwatch.judge import Scorer
    from dfwatch.pipeline import Reader
    from dfwatch.provenance.credentials import Credentials
    from dfwatch.watcher import Candidate

_log = structlog.get_logger(__name__)

_WATCHER: Final = "watcher"
# A scan of a slow network folder may take long; a hang takes longer.
_LONGEST_SCAN_S: Final = 120.0
_USUAL_ALLOWANCE_S: Final = 60.0
_LOOP_INTERVAL_S: Final = 1.0
_CANDIDATES_PER_SCAN: Final = 1000
_STORAGE_RETRY_S: Final = 2.0
# Room is taken to be back only well above the limit, so that intake does not flap around it.
_RESUME_FACTOR: Final = 1.1
_LONGEST_LAST_DELIVERY_S: Final = 10.0


class Service:
    """One daemon on one root.

    Args:
        settings: The configuration, with absolute paths.
        make_scorer: Loads the detector; called once, in ``run``.
        make_reader: Makes a reader for the given settings.
        reload_settings: Reads the configuration again, for SIGHUP.
        notifier: Speaks to systemd.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        make_scorer: Callable[[Settings], Scorer],
        make_reader: Callable[[Settings], Reader],
        reload_settings: Callable[[], Settings],
        notifier: Notifier | None = None,
    ) -> None:
        self._settings = settings
        self._layout = Layout(settings.root)
        self._make_scorer = make_scorer
        self._make_reader = make_reader
        self._reload_settings = reload_settings
        self._notifier = Notifier.from_environment() if notifier is None else notifier
        self._heartbeat = Heartbeat()
        self._watchdog = Watchdog(self._heartbeat, self._notifier, watchdog_interval_s())
        self._wake = Wake()
        self._credentials = _credentials(settings)
        self._dispatcher = Dispatcher(self._layout.journal, settings.sinks)
        self._terminations = 0
        self._reload_wanted = False
        self._failure: BaseException | None = None
        self._candidates: deque[Candidate] = deque()
        self._claimed: deque[Job] = deque()
        self._kept: dict[str, tuple[int, int, int]] = {}
        self._obstacles = Obstacles()
        self._storage_trouble = ""
        self._storage_retry_s = 0.0
        self._paused = ""
        self._reporter = Reporter(self._layout, settings.metrics, self._heartbeat, self._notifier, self._dispatcher.lag)
        self._late: tuple[str, ...] = ()
        self._waiting = 0
        self._oldest_wait_s = 0.0

    # -- life ----------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; returns the process's exit status.

        Raises:
            DfwatchError: The service could not start, or cannot go on.
        """
        keep_capabilities_from_children()
        self._layout.create()
        lock = RootLock(self._layout.lock)
        try:
            with self._signals():
                self._reporter.start()
                return self._run()
        finally:
            self._reporter.close()
            lock.release()

    def _run(self) -> int:
        journal = self._open_journal()
        try:
            self._notifier.status("loading the model")
            scorer = self._make_scorer(self._settings)
            pipeline = Pipeline(
                self._layout,
                journal,
                self._settings,
                scorer=scorer,
                make_reader=self._make_reader,
                readers=reader_processes(self._settings.reader),
                observer=self,
                recipients=self._dispatcher.recipients,
                credentials=self._credentials,
            )
            watcher = Watcher(self._layout.inbox, self._settings.watch, self._wake)
            self._heartbeat.register(_WATCHER, _USUAL_ALLOWANCE_S)
            self._dispatcher.start()
            pipeline.start()
            self._recover(journal, pipeline, watcher)
            self._kept = journal.kept()
            watcher.start()
            self._reporter.running(scorer, lambda: pipeline.load, watcher.health)
            self._announce(scorer)
            try:
                self._loop(journal, pipeline, watcher)
            finally:
                self._end(pipeline, watcher)
        finally:
            journal.close()
        if self._failure is not None:
            raise self._failure
        return 0

    def _announce(self, scorer: Scorer) -> None:
        device = scorer.device
        _log.info(
            "ready",
            version=__version__,
            inbox=self._layout.inbox,
            results=self._layout.results,
            model=f"{scorer.bundle.id} {scorer.bundle.version}",
            device=device.device,
            device_reason=device.reason,
            precision=device.precision,
        )
        self._notifier.ready(f"watching {self._layout.inbox} on {device.device}")

    def _end(self, pipeline: Pipeline, watcher: Watcher) -> None:
        self._notifier.stopping("finishing what is in work")
        self._reporter.phase = Phase.STOPPING
        watcher.stop()
        timeout_s = 0.0 if self._failure is not None else self._settings.jobs.stop_timeout_s
        self._notifier.extend_timeout(timeout_s + 15.0)
        began_s = time.monotonic()
        if self._terminations > 1:
            pipeline.hurry()
        left = self._watch_over(lambda: pipeline.stop(timeout_s), pipeline)
        self._watch_over(lambda: self._dispatcher.stop(min(timeout_s, _LONGEST_LAST_DELIVERY_S)), pipeline)
        _log.info("stopped", handed_to_next_start=left, took_s=round(time.monotonic() - began_s, 2))

    def _watch_over(self, stop: Callable[[], int], pipeline: Pipeline) -> int:
        """Run ``stop`` beside this thread, so that a second signal is heard and the watchdog fed meanwhile."""
        result: list[int] = []
        thread = threading.Thread(target=lambda: result.append(stop()), name="stop", daemon=True)
        thread.start()
        while thread.is_alive():
            if self._terminations > 1:
                pipeline.hurry()
            self._watchdog.feed()
            thread.join(0.1)
        return result[0] if result else 0

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def terminate(_number: int, _frame: object) -> None:
            self._terminations += 1
            self._wake.set()

        def hang_up(_number: int, _frame: object) -> None:
            self._reload_wanted = True
            self._wake.set()

        handlers = {signal.SIGTERM: terminate, signal.SIGINT: terminate, signal.SIGHUP: hang_up}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _open_journal(self) -> Journal:
        """The journal; a damaged one is set aside, because the folders are enough to carry on."""
        path = self._layout.journal
        try:
            return Journal(path)
        except JournalDamagedError as error:
            aside = f"{path}.damaged-{int(time.time())}"
            _log.error("the journal is damaged and was set aside; starting a new one", error=error, aside=aside)
            for suffix in ("", "-wal", "-shm"):
                if os.path.exists(path + suffix):
                    os.replace(path + suffix, aside + suffix)
            return Journal(path)

    def _recover(self, journal: Journal, pipeline: Pipeline, watcher: Watcher) -> None:
        jobs = recover(self._layout, journal)
        for row in lost_sources(self._layout, journal):
            if row.state is State.PUBLISHED:
                journal.closed(row.id, media=locate_media(self._layout, row, self._settings.outcome))
            else:
                _log.warning("a job's file is gone from work/", job=row.id, name=row.dropped.shown)
                journal.vanished(row.id)
        for job in jobs:
            self._remove_marker(watcher, job.dropped.relative)
            self._reporter.taken_in(job.id)
            pipeline.add(job)
        if jobs:
            _log.info("taking up jobs of an earlier run", jobs=len(jobs), alone=sum(job.alone for job in jobs))

    # -- the loop ------------------------------------------------------------------------------------------------------

    def _loop(self, journal: Journal, pipeline: Pipeline, watcher: Watcher) -> None:
        retention = Retention(journal)
        while not self._terminations and self._failure is None:
            if self._reload_wanted:
                self._reload_wanted = False
                self._reload(pipeline, watcher)
            if watcher.wait_s() <= 0:
                self._scan(journal, watcher)
            self._check_disk()
            if not self._paused:
                self._take_in(journal, pipeline, watcher)
            retention.tend(self._settings.retention)
            self._heartbeat.beat(_WATCHER)
            self._tell(pipeline)
            self._wake.wait(min(_LOOP_INTERVAL_S, watcher.wait_s()))
            self._wake.clear()

    def _scan(self, journal: Journal, watcher: Watcher) -> None:
        self._heartbeat.busy(_WATCHER, _LONGEST_SCAN_S, "scanning the inbox")
        result = watcher.scan(known=self._needs_nothing, limit=_CANDIDATES_PER_SCAN)
        self._candidates = deque(result.ready)
        self._waiting = result.waiting
        self._oldest_wait_s = result.oldest_wait_s
        if self._kept:
            try:
                self._kept = journal.kept()
            except StorageError as error:
                # What was known a moment ago is nearly right, and the files in question stay where they are.
                self._storage_failed(error)

    def _needs_nothing(self, candidate: Candidate) -> bool:
        """Whether a ready file is to be left alone: it was judged and kept, or cannot be claimed for the moment."""
        if self._obstacles.hold(candidate.name):
            return True
        kept = self._kept.get(candidate.name)
        fingerprint = candidate.fingerprint
        return kept == (fingerprint.inode, fingerprint.size_bytes, fingerprint.mtime_ns)

    def _take_in(self, journal: Journal, pipeline: Pipeline, watcher: Watcher) -> None:
        """Claim what there is room for; a disk that fails is tried again after a while, and says so until then."""
        if time.monotonic() < self._storage_retry_s:
            return
        try:
            self._claim_ready(journal, pipeline, watcher)
        except JournalDamagedError:
            raise
        except StorageError as error:
            self._storage_failed(error)
            self._candidates.clear()
        else:
            if self._storage_trouble:
                _log.info("files can be taken in again")
            self._storage_trouble = ""

    def _storage_failed(self, error: StorageError) -> None:
        if not self._storage_trouble:
            _log.error("files cannot be taken in", error=error)
        self._storage_trouble = str(error)
        self._storage_retry_s = time.monotonic() + _STORAGE_RETRY_S

    def _claim_ready(self, journal: Journal, pipeline: Pipeline, watcher: Watcher) -> None:
        self._enter_claimed(journal, pipeline)
        room = pipeline.room
        while room > 0 and self._candidates and not self._terminations:
            candidate = self._candidates.popleft()
            try:
                job = claim(self._layout, candidate.name, candidate.fingerprint, candidate.evidence)
            except UnclaimableError as error:
                self._obstacles.met(candidate.name, error)
                continue
            self._obstacles.overcome(candidate.name)
            watcher.forget(candidate.name)
            if job is None:
                continue
            self._claimed.append(job)
            self._remove_marker(watcher, candidate.name)
            self._enter_claimed(journal, pipeline)
            room -= 1

    def _enter_claimed(self, journal: Journal, pipeline: Pipeline) -> None:
        """Hand on what was claimed; a job whose entry failed is entered when the disk works again."""
        while self._claimed:
            job = self._claimed[0]
            enter(self._layout, journal, job)
            self._claimed.popleft()
            self._reporter.taken_in(job.id)
            pipeline.add(job)

    def _remove_marker(self, watcher: Watcher, name: str) -> None:
        try:
            watcher.remove_marker(name)
        except OSError as error:
            _log.warning("a marker file could not be removed", name=name, cause=error.strerror)

    def _check_disk(self) -> None:
        """Stop taking files in while the disk is nearly full; what is in work still needs some of it."""
        least = self._settings.watch.min_free_bytes
        try:
            free = shutil.disk_usage(self._layout.root).free
        except OSError as error:
            free, cause = -1, f"the root cannot be looked at: {error.strerror}"
        else:
            cause = f"{free // 1024**2} MiB free, {least // 1024**2} MiB wanted"
        low = free < (least * _RESUME_FACTOR if self._paused else least)
        if low and not self._paused:
            _log.error("intake paused: the disk is nearly full", cause=cause)
            self._notifier.status(f"intake paused: {cause}")
        elif not low and self._paused:
            _log.info("intake resumed", free_bytes=free)
        self._paused = cause if low else ""

    def _reload(self, pipeline: Pipeline, watcher: Watcher) -> None:
        self._notifier.reloading()
        try:
            wanted = self._reload_settings()
            self._dispatcher.update(wanted.sinks)
        except (ConfigError, MissingExtraError, OSError) as error:
            _log.error("the new configuration is not taken", error=error)
        else:
            for change in diff(self._settings, wanted):
                _log.info("setting changed", setting=change.name, new=change.new, needs_restart=change.needs_restart)
            self._settings = reloaded(self._settings, wanted)
            pipeline.update(self._settings)
            watcher.update(self._settings.watch)
        self._notifier.ready()

    def _tell(self, pipeline: Pipeline) -> None:
        late = tuple(map(str, self._watchdog.feed()))
        if late and not self._late:
            _log.error("a stage makes no progress", late=late)
        self._late = late
        self._reporter.inbox = Inbox(
            ready=len(self._candidates),
            oldest_ready_since_s=min((candidate.ready_since_s for candidate in self._candidates), default=None),
            waiting=self._waiting,
            oldest_wait_s=self._oldest_wait_s,
            blocked=self._obstacles.told(),
            paused=self._paused or self._storage_trouble,
        )
        self._reporter.trouble = pipeline.trouble
        self._reporter.tell()

    # -- what the pipeline tells (from its threads) --------------------------------------------------------------------

    def beat(self, stage: str) -> None:
        """See ``ticket.Observer``."""
        try:
            self._heartbeat.beat(stage)
        except KeyError:
            self._heartbeat.register(stage, _USUAL_ALLOWANCE_S)

    def busy(self, stage: str, limit_s: float) -> None:
        """See ``ticket.Observer``."""
        self.beat(stage)
        self._heartbeat.busy(stage, limit_s)

    def finished(self, job: Job, document: dict[str, Any], sidecar: str, media: str | None) -> None:
        """See ``ticket.Observer``. The one canonical log line of a file."""
        video, sampling = document["video"] or {}, document["sampling"] or {}
        _log.info(
            "finished",
            name=job.dropped.relative,
            status=document["status"],
            verdict=document["verdict"],
            p_fake=document["p_fake"],
            confidence=document["confidence"],
            reason=document["reason"],
            tracks=len(document["tracks"]),
            frames=sampling.get("decoded"),
            duration_s=video.get("duration_s"),
            size_bytes=document["subject"]["size"],
            job=job.id,
            attempt=document["attempt"],
            timings_ms=document["timings_ms"],
            sidecar=sidecar,
            media=media,
        )
        self._dispatcher.wake()
        self._reporter.finished(job.id, job.dropped.shown, document)
        if media is not None and media.startswith(self._layout.inbox + os.sep):
            # Whoever dropped it may have taken it away again.
            with suppress(OSError):
                info = os.lstat(media)
                self._kept[job.dropped.relative] = (info.st_ino, info.st_size, info.st_mtime_ns)

    def event(self, event: str, **fields: Any) -> None:  # noqa: ANN401 - log fields
        """See ``ticket.Observer``."""
        _log.warning(event, **fields)

    def reader_lost(self, reason: str) -> None:
        """See ``ticket.Observer``."""
        self._reporter.reader_lost(reason)

    def failed(self, error: BaseException) -> None:
        """See ``ticket.Observer``."""
        _log.error("a stage failed; the service ends", error=error)
        self._failure = error
        self._wake.set()

    def slot_free(self) -> None:
        """See ``ticket.Observer``."""
        self._wake.set()


def _credentials(settings: Settings) -> Credentials | None:
    if not settings.provenance.enabled:
        return None
    from dfwatch.provenance.credentials import Credentials  # noqa: PLC0415 - an extra

    return Credentials(settings.provenance)
