"""How each sink gets on, configured or not, for people and for programs."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dfwatch.jobs.outbox import Outbox, SinkState
from dfwatch.journal import Journal
from dfwatch.printable import printable
from dfwatch.storage.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dfwatch.config import SinkSettings


def gather(root: str, settings: Sequence[SinkSettings]) -> list[dict[str, Any]]:
    """What the journal below ``root`` knows of each sink: those of the configuration first, then all others."""
    by_name = {sink.name: sink for sink in settings}
    states = [SinkState(name) for name in by_name]
    path = Layout(root).journal
    if os.path.exists(path):
        journal = Journal(path, read_only=True)
        try:
            states = Outbox(journal).states(list(by_name))
        finally:
            journal.close()
    return [_report(by_name.get(state.name), state) for state in states]


def _report(settings: SinkSettings | None, state: SinkState) -> dict[str, Any]:
    now = datetime.now(UTC)
    if settings is None:
        condition = "not configured"
    elif not settings.enabled:
        condition = "switched off"
    elif state.gone is not None:
        condition = "disabled"
    elif state.failures:
        condition = "failing"
    else:
        condition = "ok"
    return {
        "name": state.name,
        "type": None if settings is None else settings.type,
        "state": condition,
        "queued": state.queued,
        "oldest_queued_s": _age_s(state.oldest_queued_at, now),
        "dead": state.dead,
        "delivered": state.delivered,
        "delivered_at": state.delivered_at,
        "failures": state.failures,
        "retry_at": state.retry_at,
        "error": state.error,
        # Before the first space stands what tells the settings apart, see Dispatcher.
        "disabled_because": None if state.gone is None else state.gone.partition(" ")[2],
    }


def describe(sink: dict[str, Any]) -> list[str]:
    """One sink for a person."""
    age = "" if sink["oldest_queued_s"] is None else f", oldest for {sink['oldest_queued_s']:.0f} s"
    dead = f", {sink['dead']} dead" if sink["dead"] else ""
    kind = f" ({sink['type']})" if sink["type"] not in {None, sink["name"]} else ""
    lines = [
        f"{sink['name']}{kind}: {sink['state']}, {sink['delivered']} delivered, {sink['queued']} queued{age}{dead}"
    ]
    if sink["disabled_because"] is not None:
        lines.append(f"  {printable(sink['disabled_because'])}")
        lines.append(f"  'dfwatch sinks enable {sink['name']}' calls it again")
    elif sink["failures"]:
        lines.append(f"  {sink['failures']} failures in a row, next try at {sink['retry_at']}")
    if sink["error"] and (sink["failures"] or sink["dead"]):
        lines.append(f"  last error: {printable(sink['error'])}")
    if sink["dead"] and sink["type"] is not None:
        lines.append(f"  'dfwatch sinks replay --dead --sink {sink['name']}' sends the dead ones again")
    return lines


def _age_s(stamp: str | None, now: datetime) -> float | None:
    return None if stamp is None else max(0.0, (now - datetime.fromisoformat(stamp)).total_seconds())
