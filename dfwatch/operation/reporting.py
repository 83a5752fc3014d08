"""Telling the world how the daemon is: health file, status line, metrics, health checks. One place that knows them all.

``Reporter.vitals`` may be called from any thread; everything else belongs to the thread that its text names.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import structlog

from dfwatch import __version__
from dfwatch.inference.memory import device_memory_bytes
from dfwatch.operation import health
from dfwatch.operation.vitals import Inbox, Phase, SinkLag, StageTimes, Vitals
from dfwatch.storage.stamps import utc_now

if TYPE_CHECKING:
    from collections.abc import Callable

    from dfwatch.config import MetricsSettings
    from dfwatch.inbox.watching import WatchHealth
    from dfwatch.judge import Scorer
    from dfwatch.operation.heartbeat import Heartbeat
    from dfwatch.operation.http import Listener
    from dfwatch.operation.metrics import Metrics
    from dfwatch.operation.textfile import Textfile
    from dfwatch.storage.layout import Layout
    from dfwatch.systemd import Notifier

_log = structlog.get_logger(__name__)

_HEALTH_INTERVAL_S: Final = 1.0


class Reporter:
    """What one daemon tells of itself.

    Args:
        layout: The service's folders.
        settings: The section ``metrics``.
        heartbeat: Knows which stage is late.
        notifier: systemd.
        sink_lag: How far behind the sinks are; called from any thread, must not wait for a sink.

    Raises:
        MissingExtraError: Metrics are wanted and the extra is not installed.
    """

    def __init__(
        self,
        layout: Layout,
        settings: MetricsSettings,
        heartbeat: Heartbeat,
        notifier: Notifier,
        sink_lag: Callable[[], tuple[SinkLag, ...]] = tuple,
    ) -> None:
        self.inbox = Inbox()
        self.phase = Phase.STARTING
        self.trouble = ""
        self._layout = layout
        self._heartbeat = heartbeat
        self._notifier = notifier
        self._sink_lag = sink_lag
        self._scorer: Scorer | None = None
        self._load: Callable[[], dict[str, int]] = dict
        self._watch: Callable[[], WatchHealth] | None = None
        self._started_at = utc_now()
        self._last: dict[str, Any] | None = None
        self._stages = StageTimes()
        self._readers_lost = 0
        self._begun: dict[str, float] = {}
        self._due_s = 0.0
        self._metrics: Metrics | None = None
        self._outlets: list[Listener | Textfile] = []
        if settings.listen or settings.textfile:
            self._open(settings)

    def _open(self, settings: MetricsSettings) -> None:
        from dfwatch.operation.metrics import CONTENT_TYPE, Metrics  # noqa: PLC0415 - an extra

        self._metrics = metrics = Metrics(self.vitals)
        metrics.describe(version=__version__)
        if settings.listen:
            from dfwatch.operation.http import Listener  # noqa: PLC0415 - only where it is wanted

            self._outlets.append(Listener(settings.listen, self.vitals, metrics.exposition, CONTENT_TYPE))
        if settings.textfile:
            from dfwatch.operation.textfile import Textfile  # noqa: PLC0415 - only where it is wanted

            self._outlets.append(Textfile(settings.textfile, settings.textfile_interval_s, metrics.exposition))

    # -- the main thread -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Answer questions from now on."""
        for outlet in self._outlets:
            outlet.start()

    def running(self, scorer: Scorer, load: Callable[[], dict[str, int]], watch: Callable[[], WatchHealth]) -> None:
        """The model is loaded and files are taken in.

        Args:
            scorer: The detector.
            load: Jobs in hand and the length of queues; called from any thread.
            watch: How well the watching works; called from any thread.
        """
        self._scorer, self._load, self._watch = scorer, load, watch
        bundle, device = scorer.bundle, scorer.device
        if self._metrics is not None:
            self._metrics.describe(
                version=__version__,
                model={
                    "model": bundle.id,
                    "version": bundle.version,
                    "architecture": bundle.architecture,
                    "weights_sha256": bundle.weights_sha256,
                },
                device={
                    "device": device.device,
                    "name": device.name,
                    "precision": device.precision,
                    "engine": device.engine,
                },
            )
        self.phase = Phase.RUNNING

    def taken_in(self, job_id: str) -> None:
        """A job was claimed, or taken over from an earlier run."""
        self._begun[job_id] = time.monotonic()

    def tell(self) -> None:
        """Write the health file and the status line, once a second at most."""
        now_s = time.monotonic()
        if now_s < self._due_s or self._scorer is None or self._watch is None:
            return
        self._due_s = now_s + _HEALTH_INTERVAL_S
        bundle, device, vitals = self._scorer.bundle, self._scorer.device, self.vitals()
        state = health.Health(
            pid=os.getpid(),
            version=__version__,
            started_at=self._started_at,
            updated_at=utc_now(),
            model=f"{bundle.id} {bundle.version}",
            device=device.device,
            device_reason=device.reason,
            precision=device.precision,
            inbox_ready=vitals.inbox.ready,
            scan_age_s=None if vitals.scan_age_s is None else round(vitals.scan_age_s, 1),
            oldest_ready_s=round(vitals.oldest_ready_s, 1),
            inbox_waiting=vitals.inbox.waiting,
            oldest_wait_s=round(vitals.inbox.oldest_wait_s, 1),
            running=vitals.jobs["running"] + vitals.jobs["waiting"],
            delayed=vitals.jobs["delayed"],
            queues=dict(vitals.queues),
            paused=vitals.inbox.paused,
            blocked=vitals.inbox.blocked,
            trouble=vitals.trouble,
            deaf=vitals.deaf,
            late=vitals.late,
            last=self._last,
            reader_restarts=self._readers_lost,
            disk_free_bytes=vitals.disk_free_bytes,
            device_memory_bytes=dict(vitals.device_memory_bytes),
            stages=self._stages.summary(),
            sinks=tuple(asdict(lag) for lag in vitals.sinks),
            watch=asdict(self._watch()),
        )
        health.write(self._layout.health, state)
        self._notifier.status(status_line(state))

    def close(self) -> None:
        """Stop answering."""
        self.phase = Phase.STOPPED
        for outlet in self._outlets:
            outlet.close()

    # -- the pipeline's threads ----------------------------------------------------------------------------------------

    def finished(self, job_id: str, shown: str, document: dict[str, Any]) -> None:
        """A job came to its end."""
        began_s = self._begun.pop(job_id, None)
        self._last = {
            "name": shown,
            "status": document["status"],
            "verdict": document["verdict"],
            "p_fake": document["p_fake"],
            "reason": document["reason"],
            "at": utc_now(),
        }
        self._stages.add(document["timings_ms"])
        if self._metrics is not None:
            self._metrics.finished(document, None if began_s is None else time.monotonic() - began_s)

    def reader_lost(self, reason: str) -> None:
        """A reader process was replaced because it died, hung or broke a limit."""
        self._readers_lost += 1
        if self._metrics is not None:
            self._metrics.reader_lost(reason)

    # -- any thread ----------------------------------------------------------------------------------------------------

    def vitals(self) -> Vitals:
        """How things are at this moment."""
        now_s, inbox, load = time.monotonic(), self.inbox, self._load()
        watch = None if self._watch is None else self._watch()
        return Vitals(
            phase=self.phase,
            inbox=inbox,
            oldest_ready_s=0.0 if inbox.oldest_ready_since_s is None else max(0.0, now_s - inbox.oldest_ready_since_s),
            jobs={state: load.get(state, 0) for state in ("running", "waiting", "delayed")},
            queues={queue: load.get(queue, 0) for queue in ("to_score", "to_publish")},
            scans=0 if watch is None else watch.scans,
            scan_age_s=None if watch is None or watch.last_scan_at_s is None else now_s - watch.last_scan_at_s,
            last_scan_s=0.0 if watch is None else watch.last_scan_ms / 1000.0,
            deaf="" if watch is None else watch.deaf_reason,
            event_restarts=0 if watch is None else watch.restarts,
            trouble=self.trouble,
            problems=() if watch is None else watch.problems,
            late=tuple(map(str, self._heartbeat.late())),
            disk_free_bytes=_free_bytes(self._layout.root),
            device_memory_bytes={} if self._scorer is None else device_memory_bytes(self._scorer.device.device),
            sinks=self._sink_lag(),
        )


def _free_bytes(path: str) -> int | None:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def status_line(state: health.Health) -> str:
    """One line for ``systemctl status``, with what keeps the work from going on at its beginning."""
    parts = [f"intake paused: {state.paused}"] if state.paused else []
    parts += [f"work waits: {state.trouble}"] if state.trouble else []
    inbox = state.inbox_ready + state.inbox_waiting
    parts.append(f"{inbox} in the inbox, {state.running} in work on {state.device}")
    if state.last:
        parts.append(f"last: {state.last['name']} {state.last['verdict'] or state.last['status']}")
    return "; ".join(parts)
