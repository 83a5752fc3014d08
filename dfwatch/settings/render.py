"""Settings → the commented ``config.yaml`` that ships: every setting, its line of documentation, its value."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import textwrap
from typing import Any

from dfwatch.config import Settings
from dfwatch.settings.reader import describe_range

_WIDTH = 110
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_RESERVED = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}
_HEAD = """\
# Settings of dfwatch. Every setting stands here with its default; a line that is left out keeps its default.
#
# Found as --config FILE, else ./config.yaml, else /etc/dfwatch/config.yaml.
# Names say their unit: _s seconds, _px pixels, _bytes bytes. A relative path starts at the folder of this file.
# Check a change with `dfwatch check-config`; SIGHUP (`systemctl reload dfwatch`) makes a running service take it,
# apart from the settings marked [restart]. A file with a mistake in it never stops a running service.
"""


def render(settings: Settings | None = None) -> str:
    """The text of a ``config.yaml`` that gives ``settings`` (the defaults when None) when it is read back."""
    settings = settings or Settings()
    lines = [_HEAD]
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            lines += ["", *_comment(item.metadata["doc"], ""), f"{item.name}:"]
            for inner in dataclasses.fields(value):
                lines += _setting(inner, getattr(value, inner.name), "  ")
        else:
            lines += [*([""] if len(lines) > 1 else []), *_setting(item, value, "")]
    return "\n".join(lines) + "\n"


def _setting(item: dataclasses.Field[Any], value: object, indent: str) -> list[str]:
    notes = [describe_range(item.metadata.get("minimum"), item.metadata.get("maximum"))]
    if item.metadata.get("restart"):
        notes.append("restart")
    # That a size, a count or a time is not negative, or not zero, goes without saying.
    notes = [text for text in notes if text not in {"", "at least 0", "at least 1"}]
    doc = item.metadata.get("doc", "") + (f" [{'; '.join(notes)}]" if notes else "")
    return [*_comment(doc, indent), *_assignment(item.name, value, indent)]


def _comment(text: str, indent: str) -> list[str]:
    prefix = f"{indent}# "
    return textwrap.wrap(text, _WIDTH, initial_indent=prefix, subsequent_indent=prefix, break_long_words=False)


def _assignment(name: str, value: object, indent: str) -> list[str]:
    start = f"{indent}{name}:"
    if isinstance(value, list) and any(dataclasses.is_dataclass(entry) for entry in value):
        return [start, *(line for entry in value for line in _item(entry, indent + "  "))]
    if isinstance(value, dict):
        pairs = ", ".join(f"{_scalar(key)}: {_scalar(entry)}" for key, entry in value.items())
        return [f"{start} {{{pairs}}}"]
    if isinstance(value, list):
        one_line = f"{start} [{', '.join(_scalar(entry) for entry in value)}]"
        if len(one_line) <= _WIDTH:
            return [one_line]
        return [f"{start} [", *_wrapped([_scalar(entry) for entry in value], indent + "  "), f"{indent}]"]
    return [f"{start} {_scalar(value)}{_reading_help(name, value)}"]


def _item(entry: Any, indent: str) -> list[str]:  # noqa: ANN401 - any settings class
    lines = []
    for item in dataclasses.fields(entry):
        lines += _assignment(item.name, getattr(entry, item.name), indent + "  ")
    return [f"{indent}- {lines[0].lstrip()}", *lines[1:]]


def _wrapped(entries: list[str], indent: str) -> list[str]:
    lines = [""]
    for entry in entries:
        if lines[-1] and len(lines[-1]) + len(entry) + 2 > _WIDTH:
            lines.append("")
        lines[-1] += f" {entry}," if lines[-1] else f"{indent}{entry},"
    lines[-1] = lines[-1].rstrip(",")
    return lines


def _scalar(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f"{value:.1f}"
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    # Plain only where no reader of YAML, 1.1 or 1.2, could take it for anything but text.
    if _WORD.fullmatch(text) and text.lower() not in _RESERVED:
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _reading_help(name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value:
        return ""
    if name.endswith("_bytes"):
        for size, unit in ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB")):
            if value >= size:
                return f"  # {value / size:g} {unit}"
    if name.endswith("_s") and value >= 3600:
        return f"  # {value / 3600:g} h"
    return ""


if __name__ == "__main__":
    sys.stdout.write(render())
