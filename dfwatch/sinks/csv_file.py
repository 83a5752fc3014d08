"""One row for each outcome, for spreadsheets and scripts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from dfwatch.config import SinkSettings, setting
from dfwatch.printable import printable
from dfwatch.sinks.appending import AppendingSettings, AppendingSink
from dfwatch.sinks.record import NAMES, record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dfwatch.sinks import Message

# A sender chooses the file's name, and spreadsheets run what begins like a formula
# (https://owasp.org/www-community/attacks/CSV_Injection). For one that separates at semicolons our quotes stand in the
# midst of a cell and mean nothing: a new cell begins after each semicolon.
_FORMULA: Final = re.compile(r'(^|;)(?=[ "]*[=+\-@＝＋－＠])')
# What no program takes for a separator, a quote or the end of a cell. All else is quoted.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.:+-]+")


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


def _row(values: Iterable[object]) -> bytes:
    return ",".join(map(_cell, values)).encode("utf-8")


def _cell(value: object) -> str:
    """One cell. What is missing is empty and an empty text is a pair of quotes, which databases tell apart."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return str(value)
    # A line end within quotes is legal, but a reader that follows the file counts lines.
    text = _FORMULA.sub(r"\1'", printable(" ".join(value.splitlines())))
    return text if _PLAIN.fullmatch(text) else '"{}"'.format(text.replace('"', '""'))
