"""One line of JSON for each outcome, in a file that grows, is rotated and may be followed."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, ClassVar

from dfwatch.config import SinkSettings, setting
from dfwatch.document import encode
from dfwatch.sinks import Sink
from dfwatch.sinks.appending import AppendedFile

if TYPE_CHECKING:
    from dfwatch.sinks import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonlSettings(SinkSettings):
    """Settings of ``type: jsonl``."""

    type: str = setting("jsonl", doc="Kind of sink.")
    path: str = setting(MISSING, doc="The file; its folder is made.", path=True)
    max_bytes: int = setting(64 * 1024**2, doc="Rotate before the file gets larger; 0: never.", minimum=0)
    keep: int = setting(5, doc="Rotated files that stay: path.1 (the newest) and on.", minimum=0, maximum=1000)


class JsonlSink(Sink):
    """Appends sidecar documents, one line each. A line's ``job_id`` is its idempotency key."""

    settings_type: ClassVar[type[SinkSettings]] = JsonlSettings

    def __init__(self, settings: JsonlSettings) -> None:
        self._path = settings.path
        self._file = AppendedFile(settings.path, max_bytes=settings.max_bytes, keep=settings.keep)

    def deliver(self, message: Message) -> None:
        """See ``Sink``."""
        self._file.append(encode(message.document, indent=None).rstrip(b"\n"))

    def probe(self) -> str:
        """See ``Sink``."""
        self._file.probe()
        return f"{self._path} can be written to"

    def close(self) -> None:
        """See ``Sink``."""
        self._file.close()
