"""The daemon's life: lock, journal, model, recovery, READY, the loop over the inbox, signals, an orderly end."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import structlog

from dfwatch import __version__, logs
from dfwatch.errors import JournalDamagedError, StorageError
from dfwatch.jobs.admission import Admission
from dfwatch.jobs.dispatcher import Dispatcher
from dfwatch.journal import Journal
from dfwatch.operation.heartbeat import Heartbeat, Watchdog
from dfwatch.operation.privileges import keep_capabilities_from_children
from dfwatch.operation.reporting import Reporter
from dfwatch.operation.retention import Retention
from dfwatch.operation.vitals import Phase
from dfwatch.operation.wake import Wake
from dfwatch.pipeline import Pipeline
from dfwatch.reader import reader_processes
from dfwatch.settings.diff import diff, reloaded
from dfwatch.storage.layout import Layout
from dfwatch.storage.rootguard import RootGuard
from dfwatch.storage.rootlock import RootLock
from dfwatch.systemd import Notifier, watchdog_interval_s
from dfwatch.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dfwatch.config import Settings, SinkSettings
    from dfwatch.intake import Job
    from dfwatch.judge import Scorer
    from dfwatch.pipeline import Reader
    from dfwatch.provenance.credentials import Credentials

_log = structlog.get_logger(__name__)

_WATCHER: Final = "watcher"
# A scan of a slow network folder may take long; a hang takes longer.
_LONGEST_SCAN_S: Final = 120.0
_USUAL_ALLOWANCE_S: Final = 60.0
_LOOP_INTERVAL_S: Final = 1.0
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
        self._reporter = Reporter(self._layout, settings.metrics, self._heartbeat, self._notifier, self._dispatcher.lag)
        self._late: tuple[str, ...] = ()

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
            journal.lies_below(self._layout.root)
            self._notifier.status("loading the model")
            scorer = self._make_scorer(self._settings)
            root = RootGuard(self._layout)
            pipeline = Pipeline(
                self._layout,
                journal,
                self._settings,
                scorer=scorer,
                make_reader=self._make_reader,
                readers=reader_processes(self._settings.reader),
                observer=self,
                root=root,
                recipients=self._dispatcher.recipients,
                credentials=self._credentials,
            )
            watcher = Watcher(self._layout.inbox, self._settings.watch, self._wake)
            self._heartbeat.register(_WATCHER, _USUAL_ALLOWANCE_S)
            self._dispatcher.start()
            pipeline.start()
            admission = Admission(self._layout, journal, watcher, pipeline, self._reporter.taken_in, root=root)
            admission.take_up(self._settings)
            watcher.start()
            self._reporter.running(scorer, lambda: pipeline.load, watcher.health)
            self._announce(scorer)
            try:
                self._loop(Retention(journal, self._layout.folder("done")), admission, pipeline, watcher, root)
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
        self._heartbeat.close()
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

    # -- the loop ------------------------------------------------------------------------------------------------------

    def _loop(
        self, retention: Retention, admission: Admission, pipeline: Pipeline, watcher: Watcher, root: RootGuard
    ) -> None:
        while not self._terminations and self._failure is None:
            if self._reload_wanted:
                self._reload_wanted = False
                self._reload(pipeline, watcher)
            if watcher.wait_s() <= 0:
                self._heartbeat.busy(_WATCHER, _LONGEST_SCAN_S, "scanning the inbox")
                admission.scan()
            admission.take_in(self._settings, lambda: self._terminations > 0)
            self._tend(retention, root)
            self._heartbeat.beat(_WATCHER)
            self._tell(admission, pipeline)
            self._wake.wait(min(_LOOP_INTERVAL_S, watcher.wait_s()))
            self._wake.clear()

    def _tend(self, retention: Retention, root: RootGuard) -> None:
        try:
            root.check()
            journal_lost = root.journal_lost()
            # The root may have gone in between, and everything with it.
            root.check()
        except StorageError as error:
            if root.replaced():
                # The start knows how to begin with what it finds.
                self.failed(error)
        else:
            if journal_lost:
                # Nobody would find what is noted there, and it would be gone with this process.
                cause = "it was removed or replaced while the service runs"
                hint = "the next start builds a new one from the folders"
                self.failed(StorageError("using the journal", self._layout.journal, cause, hint=hint))
                return
            retention.tend(self._settings.retention)

    def _reload(self, pipeline: Pipeline, watcher: Watcher) -> None:
        self._notifier.reloading()
        try:
            wanted = self._reload_settings()
            pipeline.check(wanted)
            self._try_reader(wanted)
            self._dispatcher.update(wanted.sinks)
        except Exception as error:  # noqa: BLE001 - a package's sink may raise anything; the service goes on
            _log.error("the new configuration is not taken", error=error)
        else:
            for change in diff(self._settings, wanted):
                # A sink's settings may hold what the log should not: a URL is enough to post to some chats.
                new = _sinks_changed(change.old, change.new) if change.name == "sinks" else change.new
                _log.info("setting changed", setting=change.name, new=new, needs_restart=change.needs_restart)
            log_before = self._settings.log
            self._settings = reloaded(self._settings, wanted)
            if self._settings.log != log_before:
                logs.configure(self._settings.log.level, self._settings.log.format)
            pipeline.update(self._settings)
            watcher.update(self._settings.watch)
        self._notifier.ready()

    def _try_reader(self, wanted: Settings) -> None:
        """Have a reader of the new settings come up: once they are taken, nothing is judged without one.

        Raises:
            ReaderStartError: It does not.
        """
        if (wanted.reader, wanted.faces) == (self._settings.reader, self._settings.faces):
            return
        self._heartbeat.busy(_WATCHER, _LONGEST_SCAN_S, "trying the new settings")
        reader = self._make_reader(reloaded(self._settings, wanted))
        try:
            reader.start()
        finally:
            reader.close()

    def _tell(self, admission: Admission, pipeline: Pipeline) -> None:
        late = tuple(map(str, self._watchdog.feed()))
        if late and not self._late:
            _log.error("a stage makes no progress", late=late)
        self._late = late
        self._reporter.inbox = admission.inbox()
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


def _sinks_changed(old: Sequence[SinkSettings], new: Sequence[SinkSettings]) -> list[str]:
    """Which sinks came, changed and went, by name and type."""
    before, after = {sink.name: sink for sink in old}, {sink.name: sink for sink in new}
    told = [
        f"{name} ({sink.type}) {'changed' if name in before else 'added'}"
        for name, sink in after.items()
        if before.get(name) != sink
    ]
    return told + [f"{name} ({sink.type}) removed" for name, sink in before.items() if name not in after]


def _credentials(settings: Settings) -> Credentials | None:
    if not settings.provenance.enabled:
        return None
    from dfwatch.provenance.credentials import Credentials  # noqa: PLC0415 - an extra

    return Credentials(settings.provenance)
