"""One row for each outcome, for spreadsheets and scripts."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from dfwatch.config import SinkSettings, setting
from dfwatch.sinks.appending import AppendingSettings, AppendingSink
from dfwatch.sinks.record import NAMES, record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dfwatch.sinks import Message

# A sender chooses the file's name, and spreadsheets run what begins like a formula
# (https://owasp.org/www-community/attacks/CSV_Injection).
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvSettings(AppendingSettings):
    """Settings of ``type: csv``."""

    type: str = setting("csv", doc="Kind of sink.")


class CsvSink(AppendingSink):
    """Appends rows as of RFC 4180, with a header in each file and no line ends within a row."""

    settings_type: ClassVar[type[SinkSettings]] = CsvSettings

    def __init__(self, settings: CsvSettings) -> None:
        super().__init__(settings, header=_row(NAMES))

    def line(self, message: Message) -> bytes:
        """See ``AppendingSink``."""
        return _row(record(message.document, message.queued_at).values())


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
