"""Where verdicts go. ``sidecar`` is always there and comes first; the others are fed after it is durable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Message:
    """One outcome on its way to a sink.

    Attributes:
        key: Idempotency key: the same for every delivery of the same outcome (the job's id).
        document: The sidecar document.
    """

    key: str
    document: Mapping[str, Any]


class Sink(Protocol):
    """A destination of outcomes."""

    name: str

    def deliver(self, message: Message) -> None:
        """Deliver one outcome; returning means that the destination has it for good.

        Delivering the same key again must not make a second record where the destination can tell.

        Raises:
            SinkError: It was not taken; ``retryable`` says whether trying again makes sense.
        """

    def close(self) -> None:
        """Let go of connections; called once."""
