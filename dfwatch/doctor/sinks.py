"""The destinations of outcomes: what keeps one from being made, and how each gets on. None of them is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dfwatch.doctor.finding import Finding, fail, ok, warn
from dfwatch.errors import ConfigError, MissingExtraError, SinkError
from dfwatch.printable import printable
from dfwatch.sinks.registry import build, classes
from dfwatch.sinks.report import gather

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dfwatch.config import SinkSettings

_NAME = "sink"
_CREDENTIAL = "credential:"


def sinks(root: str, settings: Sequence[SinkSettings], unit_lacks_network: Callable[[], bool]) -> Iterator[Finding]:
    """One finding for each sink that is configured or has messages.

    Args:
        root: The service's root.
        settings: The sinks of the configuration.
        unit_lacks_network: Whether systemd keeps the service from the network; asked where that may be why one fails.

    Raises:
        StorageError: The journal cannot be read.
    """
    by_name = {sink.name: sink for sink in settings}
    for report in gather(root, settings):
        wanted = by_name.get(report["name"])
        found = _cannot_be_made(wanted) if wanted is not None and wanted.enabled else None
        if found is None and report["state"] == "failing" and _networked(wanted) and unit_lacks_network():
            found = warn(
                _NAME,
                f"{report['name']} fails, and the service's unit has no network",
                "dfwatch install-units --network, then systemctl daemon-reload && systemctl restart dfwatch",
            )
        yield found or judge(report)


def judge(report: dict[str, Any]) -> Finding:
    """A finding from what the journal knows of a sink (see ``sinks.report``)."""
    name, state = report["name"], report["state"]
    counts = f"{report['delivered']} delivered, {report['queued']} queued, {report['dead']} dead"
    if state == "not configured":
        return warn(
            _NAME,
            f"{name} is not in the configuration any more: {counts}",
            f"dfwatch sinks forget {name} drops what is left of it",
        )
    if state == "switched off":
        return ok(_NAME, f"{name} is switched off: {counts}")
    if state == "disabled":
        return warn(
            _NAME,
            f"{name} asked not to be called any more: {printable(report['disabled_because'])}",
            f"ask who runs it; dfwatch sinks enable {name} calls it again",
        )
    last = f"; last error: {printable(report['error'])}" if report["error"] else ""
    if state == "failing":
        return warn(
            _NAME,
            f"{name} fails, {report['failures']} times in a row: {counts}{last}",
            f"dfwatch sinks test {name} tries it now; nothing is lost, and nothing else waits for it",
        )
    if report["dead"]:
        return warn(
            _NAME,
            f"{name} works, but messages were given up: {counts}{last}",
            f"dfwatch sinks replay --dead --sink {name} sends them again",
        )
    return ok(_NAME, f"{name}: {counts}")


def _networked(settings: SinkSettings | None) -> bool:
    return settings is not None and classes()[settings.type].networked


def _cannot_be_made(settings: SinkSettings) -> Finding | None:
    try:
        build(settings).close()
    except (MissingExtraError, ConfigError) as error:
        # The service would not start.
        return fail(_NAME, f"{settings.name}: {error.cause}", error.hint or "change it in the configuration")
    except SinkError as error:
        if error.subject.startswith(_CREDENTIAL):
            # Only the service itself can read it, and its journal tells how that went.
            return None
        return warn(
            _NAME,
            f"{settings.name}: {error.action} {error.subject}: {printable(error.cause)}",
            error.hint or f"dfwatch sinks test {settings.name} tries it again",
        )
    except Exception as error:  # noqa: BLE001 - a package's sink may raise anything; its text may hold a secret
        return warn(
            _NAME,
            f"{settings.name} cannot be made: {type(error).__name__}",
            f"ask who made sinks of type {settings.type}; dfwatch sinks test {settings.name} tries it again",
        )
    return None
