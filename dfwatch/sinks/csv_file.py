"""One row for each outcome, for spreadsheets and scripts."""

from __future__ import annotations

import csv
import io
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from dfwatch.config import SinkSettings, setting
from dfwatch.sinks import Sink
from dfwatch.sinks.appending import AppendedFile
from dfwatch.sinks.record import NAMES, record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dfwatch.sinks import Message

# A sender chooses the file's name, and spreadsheets run what begins like a formula
# (https://owasp.org/www-community/attacks/CSV_Injection).
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvSettings(SinkSettings):
    """Settings of ``type: csv``."""

    type: str = setting("csv", doc="Kind of sink.")
    path: str = setting(MISSING, doc="The file; its folder is made.", path=True)
    max_bytes: int = setting(64 * 1024**2, doc="Rotate before the file gets larger; 0: never.", minimum=0)
    keep: int = setting(5, doc="Rotated files that stay: path.1 (the newest) and on.", minimum=0, maximum=1000)


class CsvSink(Sink):
    """Appends rows as of RFC 4180, with a header in each file and no line ends within a row."""

    settings_type: ClassVar[type[SinkSettings]] = CsvSettings

    def __init__(self, settings: CsvSettings) -> None:
        self._path = settings.path
        self._file = AppendedFile(settings.path, max_bytes=settings.max_bytes, keep=settings.keep, header=_row(NAMES))

    def deliver(self, message: Message) -> None:
        """See ``Sink``."""
        self._file.append(_row(record(message.document, message.queued_at).values()))

    def probe(self) -> str:
        """See ``Sink``."""
        self._file.probe()
        return f"{self._path} can be written to"

    def close(self) -> None:
        """See ``Sink``."""
        self._file.close()


def _row(values: Iterable[Any]) -> bytes:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="").writerow([_cell(value) for value in values])
    return stream.getvalue().encode("utf-8")


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return value
    # A line end within quotes is legal, but a reader that follows the file counts lines.
    value = " ".join(value.splitlines())
    return f"'{value}" if value.startswith(_FORMULA_STARTS) else value
