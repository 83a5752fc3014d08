"""Which outcomes a sink is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dfwatch.config import SinkSettings


def wants(settings: SinkSettings, document: Mapping[str, Any]) -> bool:
    """Whether the sink's filters let an outcome through; each of them must.

    A minimum confidence asks for a confidence: outcomes without one (no face, failed files) do not pass it.
    """
    if settings.statuses and document["status"] not in settings.statuses:
        return False
    if settings.verdicts and document["verdict"] not in settings.verdicts:
        return False
    confidence = document["confidence"]
    return settings.min_confidence <= 0 or (confidence is not None and confidence >= settings.min_confidence)
