"""The daemon's metrics in Prometheus' text format. Needs the extra ``metrics`` (prometheus-client).

What happened (files, latencies, readers lost) is counted as it happens. What is (queues, ages, memory) is asked for at
each scrape, so that an age grows on while the thread that should have ended it hangs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dfwatch.errors import MissingExtraError
from dfwatch.operation.vitals import Phase
from dfwatch.reasons import Label, Reason, Status

try:
    import prometheus_client
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector
except ImportError as missing:  # pragma: no cover - run in a process of its own by the tests
    raise MissingExtraError(
        "serving metrics", "", "prometheus-client is not installed", hint="pip install 'dfwatch[metrics]'"
    ) from missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from dfwatch.operation.vitals import Vitals

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_NO_VERDICT: Final = "none"
# From a face search of one small frame to the slowest file that the default limits allow.
_STAGE_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_FILE_BUCKETS_S: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_READER_REASONS: Final = tuple(reason for reason in Reason if reason.value.startswith("reader_"))


class Metrics:
    """All metrics of one daemon, in a registry of its own.

    Args:
        vitals: Asked at each scrape, from any thread.
    """

    def __init__(self, vitals: Callable[[], Vitals]) -> None:
        # A second series for each counter that says when this process began; process_start_time_seconds does.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = prometheus_client.CollectorRegistry()
        self._files = prometheus_client.Counter(
            "dfwatch_files", "Files that came to their end.", ["status", "verdict"], registry=registry
        )
        self._refusals = prometheus_client.Counter(
            "dfwatch_files_without_verdict", "Files without a verdict, by reason code.", ["reason"], registry=registry
        )
        self._stages = prometheus_client.Histogram(
            "dfwatch_stage_seconds",
            "Time that one file spent in a stage; stage=total adds up all of them.",
            ["stage"],
            buckets=_STAGE_BUCKETS_S,
            registry=registry,
        )
        self._whole = prometheus_client.Histogram(
            "dfwatch_file_seconds",
            "Time from the claim of a file to its end, waiting included.",
            buckets=_FILE_BUCKETS_S,
            registry=registry,
        )
        self._bytes = prometheus_client.Counter("dfwatch_bytes", "Bytes of files judged.", registry=registry)
        self._readers = prometheus_client.Counter(
            "dfwatch_reader_restarts",
            "Reader processes that were replaced because they died, hung or broke a limit.",
            ["reason"],
            registry=registry,
        )
        self._model = prometheus_client.Gauge(
            "dfwatch_model_info",
            "The model that judges; always 1.",
            ["model", "version", "architecture", "weights_sha256"],
            registry=registry,
        )
        self._device = prometheus_client.Gauge(
            "dfwatch_device_info",
            "Where the model runs; always 1.",
            ["device", "name", "precision", "engine"],
            registry=registry,
        )
        self._build = prometheus_client.Gauge(
            "dfwatch_build_info", "The version that runs; always 1.", ["version"], registry=registry
        )
        self._last_end = prometheus_client.Gauge(
            "dfwatch_last_file_timestamp_seconds", "When the last file came to its end; 0: none yet.", registry=registry
        )
        registry.register(_VitalsCollector(vitals))
        # node_exporter has process_* series of its own, which a textfile must not repeat.
        prometheus_client.ProcessCollector(namespace="dfwatch", registry=registry)
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """A series that first appears with its first event would hide that event from rate()."""
        for label in Label:
            self._files.labels(Status.DONE, label)
        for status in (Status.FAILED, Status.REJECTED, Status.QUARANTINED):
            self._files.labels(status, _NO_VERDICT)
        for reason in Reason:
            self._refusals.labels(reason)
        for reason in _READER_REASONS:
            self._readers.labels(reason)

    def describe(
        self, *, version: str, model: Mapping[str, str] | None = None, device: Mapping[str, str] | None = None
    ) -> None:
        """Say what runs: the version at once, model and device once they are loaded.

        Args:
            version: Of dfwatch.
            model: ``model``, ``version``, ``architecture``, ``weights_sha256``.
            device: ``device``, ``name``, ``precision``, ``engine``.
        """
        self._build.labels(version).set(1)
        for gauge, labels in ((self._model, model), (self._device, device)):
            if labels is not None:
                gauge.clear()
                gauge.labels(**labels).set(1)

    def finished(self, document: Mapping[str, Any], took_s: float | None) -> None:
        """One file came to its end.

        Args:
            document: Its sidecar.
            took_s: Time since it was claimed; None where that is not known.
        """
        self._files.labels(document["status"], document["verdict"] or _NO_VERDICT).inc()
        if document["reason"] is not None:
            self._refusals.labels(document["reason"]).inc()
        for stage, value_ms in document["timings_ms"].items():
            self._stages.labels(stage).observe(value_ms / 1000.0)
        if took_s is not None:
            self._whole.observe(took_s)
        if document["verdict"] is not None:
            self._bytes.inc(document["subject"]["size"] or 0)
        self._last_end.set_to_current_time()

    def reader_lost(self, reason: str) -> None:
        """A reader process was replaced."""
        self._readers.labels(reason).inc()

    def exposition(self) -> bytes:
        """Everything as it is now, in Prometheus' text format."""
        return prometheus_client.generate_latest(self._registry)


class _VitalsCollector(Collector):
    def __init__(self, vitals: Callable[[], Vitals]) -> None:
        self._vitals = vitals

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        vitals = self._vitals()
        inbox = vitals.inbox
        yield _gauge(
            "phase", "1 for where in its life the service is.", "phase", {p: int(p is vitals.phase) for p in Phase}
        )
        yield _gauge(
            "inbox_files",
            "Files in the inbox: incomplete, ready to be claimed, or impossible to claim.",
            "state",
            {"incomplete": inbox.waiting, "ready": inbox.ready, "blocked": inbox.blocked_count},
        )
        yield _gauge(
            "jobs", "Claimed files: in a stage, waiting for a reader, or for another try.", "state", vitals.jobs
        )
        yield _gauge("queue_depth", "Videos between two stages.", "queue", vitals.queues)
        yield _plain(
            "oldest_ready_seconds", "How long the oldest complete file waits to be claimed.", vitals.oldest_ready_s
        )
        yield _plain("oldest_incomplete_seconds", "Age of the oldest file that is not complete.", inbox.oldest_wait_s)
        if vitals.scan_age_s is not None:
            yield _plain("scan_age_seconds", "Time since the inbox was last looked at.", vitals.scan_age_s)
        yield _plain("last_scan_seconds", "Time that the last look at the inbox took.", vitals.last_scan_s)
        yield _counter("scans", "Looks at the inbox.", vitals.scans)
        yield _counter("event_restarts", "Times that listening for file events was begun anew.", vitals.event_restarts)
        yield _plain("deaf", "1 while file events do not arrive and only scans find files.", int(bool(vitals.deaf)))
        yield _plain("intake_paused", "1 while nothing new is taken in.", int(bool(inbox.paused)))
        yield _plain("trouble", "1 while disk or machine keep the work from going on.", int(bool(vitals.trouble)))
        yield _plain("late_stages", "Stages that make no progress.", len(vitals.late))
        if vitals.disk_free_bytes is not None:
            yield _plain("disk_free_bytes", "Room under the root.", vitals.disk_free_bytes)
        yield _gauge("device_memory_bytes", "Memory of the accelerator.", "kind", vitals.device_memory_bytes)
        sinks = vitals.sinks
        yield _gauge("sink_pending", "Messages that a sink has not taken.", "sink", {s.sink: s.pending for s in sinks})
        yield _gauge("sink_dead", "Messages that were given up.", "sink", {s.sink: s.dead for s in sinks})
        yield _gauge(
            "sink_lag_seconds", "Age of a sink's oldest pending message.", "sink", {s.sink: s.oldest_s for s in sinks}
        )


def _gauge(name: str, text: str, label: str, values: Mapping[Any, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"dfwatch_{name}", text, labels=[label])
    for key, value in values.items():
        family.add_metric([str(key)], value)
    return family


def _plain(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"dfwatch_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"dfwatch_{name}", text, value=value)
