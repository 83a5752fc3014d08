"""One line of JSON for each outcome, in a file that grows, is rotated and may be followed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dfwatch.config import SinkSettings, setting
from dfwatch.document import encode
from dfwatch.sinks.appending import AppendingSettings, AppendingSink

if TYPE_CHECKING:
    from dfwatch.sinks import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonlSettings(AppendingSettings):
    """Settings of ``type: jsonl``."""

    type: str = setting("jsonl", doc="Kind of sink.")


class JsonlSink(AppendingSink):
    """Appends sidecar documents, one line each. A line's ``job_id`` is its idempotency key."""

    settings_type: ClassVar[type[SinkSettings]] = JsonlSettings

    def line(self, message: Message) -> bytes:
        """See ``AppendingSink``."""
        return encode(message.document, indent=None).rstrip(b"\n")
