"""Where verdicts go. ``sidecar`` is always there and comes first; the others are fed after it is durable.

A sink is a class with a settings class. Third parties add theirs in a package of their own, through an entry point of
the group ``dfwatch.sinks`` that names the sink class; ``dfwatch.sinks.testing`` holds the tests that every sink passes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dfwatch.config import SinkSettings


@dataclass(frozen=True, slots=True)
class Message:
    """One outcome on its way to a sink.

    Attributes:
        key: Idempotency key: the same for every delivery of the same outcome (the job's id).
        document: The sidecar document.
        queued_at: When the outcome was published (ISO 8601, UTC); the same for every attempt to deliver it.
        sidecar: Where its sidecar was written; the file may have been moved or removed since. Empty where unknown.
    """

    key: str
    document: Mapping[str, Any]
    queued_at: str = ""
    sidecar: str = ""


class Sink(ABC):
    """A destination of outcomes.

    ``__init__`` takes the settings, imports what it needs (``extras.require``) and checks what can be checked without
    reaching the destination. All other methods are called from one thread, the sink's own.

    Attributes:
        settings_type: Its settings, a subclass of ``dfwatch.config.SinkSettings`` with the same rules for its fields.
        networked: Whether it usually needs a network, which the unit of systemd has only if it is given one.
    """

    settings_type: ClassVar[type[SinkSettings]]
    networked: ClassVar[bool] = False

    @abstractmethod
    def deliver(self, message: Message) -> None:
        """Deliver one outcome; returning means that the destination has it for good.

        It must return or raise within the sink's time limit. Delivering the same key again must not make a second
        record where the destination can tell; where it cannot, the record carries the key.

        Raises:
            SinkError: It was not taken; ``retryable`` says whether trying the same message again makes sense.
            SinkGoneError: The destination asks not to be called again.
        """

    @abstractmethod
    def probe(self) -> str:
        """Try the destination without leaving an outcome there; returns one line that says what was done.

        Raises:
            SinkError: It would not take an outcome.
        """

    def close(self) -> None:  # noqa: B027 - most sinks hold nothing
        """Let go of connections. The sink may be used again afterwards and then connects anew."""
