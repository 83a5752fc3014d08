"""YAML nodes → dataclasses: names, types, ranges and choices, each complaint with its place in the file."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import yaml

from dfwatch.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dfwatch.config import Settings

ACTION = "reading the configuration"
Kinds = Mapping[str, Mapping[str, type[Any]]]
Section = TypeVar("Section")

_TAG = "tag:yaml.org,2002:"
_MAX_INT_DIGITS = 30
_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


class _Bad:
    """What a reader returns when it has complained; the setting's default stands in until the error is raised."""


_BAD: Final = _Bad()


def settings_fields(settings: Settings) -> Iterator[tuple[str | None, dataclasses.Field[Any], Any]]:
    """Every setting as (section or None, field, value), sections in their order."""
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if dataclasses.is_dataclass(value):
            for inner in dataclasses.fields(value):
                yield item.name, inner, getattr(value, inner.name)
        else:
            yield None, item, value


class SectionReader:
    """Reads mappings into dataclasses and collects what is wrong with them.

    Attributes:
        problems: Pairs of (line, column) and error, in the order of discovery.
        marks: Where each setting that the file names has its value, by dotted name (``watch.quiet_s``).
    """

    def __init__(self, file: str, kinds: Kinds) -> None:
        self._file = file
        self._kinds = kinds
        self.problems: list[tuple[tuple[int, int], ConfigError]] = []
        self.marks: dict[str, yaml.Mark] = {}

    def complain(self, mark: yaml.Mark | None, cause: str, *, hint: str = "") -> None:
        """Note an error at ``mark`` (the file as a whole when None)."""
        place = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        where = f"{self._file}:{place[0]}:{place[1]}" if mark else self._file
        self.problems.append((place, ConfigError(ACTION, where, cause, hint=hint)))

    def section(self, node: yaml.Node, cls: type[Section], name: str) -> Section:
        """The mapping ``node`` as an instance of the dataclass ``cls``; ``name`` is its dotted name, "" for the file.

        Whatever is wrong is noted and has its default in the result. A section without content is all defaults.
        """
        known = {item.name: item for item in dataclasses.fields(cls)}  # type: ignore[arg-type]
        hints = typing.get_type_hints(cls)
        values: dict[str, Any] = {}
        seen: dict[str, yaml.Mark] = {}
        if not isinstance(node, yaml.MappingNode):
            if node.tag != _TAG + "null":
                what = f"section {name!r}" if name else "the file"
                self.complain(node.start_mark, f"{what} must hold settings (name: value), not {_describe(node)}")
            return self._build(cls, values, node, name)
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            mark = key_node.start_mark
            if key is None:
                self.complain(mark, "the name of a setting must be one word")
            elif key in seen:
                self.complain(
                    mark, f"{_dotted(name, key)!r} is set twice, first in line {seen[key].line + 1}", hint="keep one"
                )
            elif key not in known:
                seen[key] = mark
                self._complain_unknown(mark, key, name, cls)
            else:
                seen[key] = mark
                dotted = _dotted(name, key)
                self.marks[dotted] = value_node.start_mark
                value = self._value(value_node, hints[key], dotted, known[key].metadata)
                if not isinstance(value, _Bad):
                    values[key] = value
        return self._build(cls, values, node, name)

    def _build(self, cls: type[Section], values: dict[str, Any], node: yaml.Node, name: str) -> Section:
        for item in dataclasses.fields(cls):  # type: ignore[arg-type]
            required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
            if required and item.name not in values:
                values[item.name] = None
                if _dotted(name, item.name) not in self.marks:
                    self.complain(node.start_mark, f"{_dotted(name, item.name)!r} is missing; it has no default")
        return cls(**values)

    def _complain_unknown(self, mark: yaml.Mark, key: str, name: str, cls: type[Any]) -> None:
        names = [item.name for item in dataclasses.fields(cls)]
        within = f" in section {name!r}" if name else ""
        nearest = nearest_name(key, names)
        hint = f"did you mean {nearest!r}?" if nearest else f"known here: {', '.join(names)}"
        if not name and not nearest:
            for section, hinted in typing.get_type_hints(cls).items():
                if dataclasses.is_dataclass(hinted) and key in {item.name for item in dataclasses.fields(hinted)}:
                    hint = f"{key!r} belongs under {section!r}: indent it below that name"
        self.complain(mark, f"unknown setting {key!r}{within}", hint=hint)

    def _value(self, node: yaml.Node, wanted: Any, name: str, metadata: Mapping[str, Any]) -> Any:  # noqa: ANN401
        if typing.get_origin(wanted) in {types.UnionType, typing.Union}:
            if node.tag == _TAG + "null":
                return None
            (wanted,) = (part for part in typing.get_args(wanted) if part is not types.NoneType)
        if metadata.get("kinds"):
            return self._list(node, name, lambda item, place: self._of_kind(item, place, metadata["kinds"]))
        if dataclasses.is_dataclass(wanted):
            return self.section(node, typing.cast("type[Any]", wanted), name)
        arguments = typing.get_args(wanted)
        if typing.get_origin(wanted) is list:
            return self._list(node, name, lambda item, place: self._value(item, arguments[0], place, metadata))
        if typing.get_origin(wanted) is dict:
            return self._mapping(node, name, arguments[1], metadata)
        return self._scalar(node, wanted, name, metadata)

    def _list(self, node: yaml.Node, name: str, read: typing.Callable[[yaml.Node, str], Any]) -> Any:  # noqa: ANN401
        if not isinstance(node, yaml.SequenceNode):
            self.complain(
                node.start_mark,
                f"{name!r} must be a list, not {_describe(node)}",
                hint="write [one, two] or [] for none",
            )
            return _BAD
        values = [read(item, f"{name}[{index}]") for index, item in enumerate(node.value)]
        return _BAD if any(isinstance(value, _Bad) for value in values) else values

    def _mapping(self, node: yaml.Node, name: str, wanted: Any, metadata: Mapping[str, Any]) -> Any:  # noqa: ANN401
        if not isinstance(node, yaml.MappingNode):
            self.complain(node.start_mark, f"{name!r} must hold name: value pairs, not {_describe(node)}")
            return _BAD
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._scalar(key_node, str, f"a name in {name}", {})
            if isinstance(key, str) and key in values:
                self.complain(key_node.start_mark, f"{_dotted(name, key)!r} is set twice", hint="keep one")
            values[key] = self._value(value_node, wanted, _dotted(name, str(key)), metadata)
        return _BAD if any(isinstance(part, _Bad) for pair in values.items() for part in pair) else values

    def _of_kind(self, node: yaml.Node, name: str, group: str) -> Any:  # noqa: ANN401
        """One item of a list whose items differ in kind: its ``type`` names the dataclass that describes the rest."""
        kinds = self._kinds.get(group, {})
        type_node = None
        if isinstance(node, yaml.MappingNode):
            type_node = next((value for key, value in node.value if key.value == "type"), None)
        if not isinstance(type_node, yaml.ScalarNode):
            self.complain(node.start_mark, f"{name!r} must say its kind", hint=f"type: one of {', '.join(kinds)}")
            return _BAD
        if type_node.value not in kinds:
            nearest = nearest_name(type_node.value, kinds)
            hint = f"did you mean {nearest!r}?" if nearest else f"one of {', '.join(kinds) or '(none installed)'}"
            self.complain(type_node.start_mark, f"unknown type {type_node.value!r} of {name!r}", hint=hint)
            return _BAD
        before = len(self.problems)
        value = self.section(node, kinds[type_node.value], name)
        return value if len(self.problems) == before else _BAD

    def _scalar(self, node: yaml.Node, wanted: Any, name: str, metadata: Mapping[str, Any]) -> Any:  # noqa: ANN401
        kind = node.tag.removeprefix(_TAG)
        expected = _NAMES[wanted]
        if not isinstance(node, yaml.ScalarNode) or kind not in {"str", "int", "float", "bool", "null"}:
            self.complain(node.start_mark, f"{name!r} must be {expected}, not {_describe(node)}")
            return _BAD
        allowed = {"int", "float"} if wanted is float else {wanted.__name__}
        if kind not in allowed:
            self.complain(
                node.start_mark, f"{name!r} must be {expected}, not {_describe(node)}", hint=_hint(node, wanted)
            )
            return _BAD
        if wanted is str:
            return self._text(node, name, metadata)
        if wanted is bool:
            return node.value.lower() == "true"
        return self._number(node, wanted, name, metadata)

    def _text(self, node: yaml.ScalarNode, name: str, metadata: Mapping[str, Any]) -> str | _Bad:
        text = str(node.value)
        choices = metadata.get("choices")
        if choices and text not in choices:
            nearest = nearest_name(text, choices)
            hint = f"did you mean {nearest!r}?" if nearest else ""
            self.complain(node.start_mark, f"{name!r} is {text!r}, but must be one of {', '.join(choices)}", hint=hint)
            return _BAD
        if "\0" in text:
            self.complain(node.start_mark, f"{name!r} holds a NUL character")
            return _BAD
        try:
            os.fsencode(text)
        except UnicodeEncodeError:
            self.complain(node.start_mark, f"{name!r} holds half of a character", hint='write "\\U0001F600" for both')
            return _BAD
        return text

    def _number(self, node: yaml.ScalarNode, wanted: type, name: str, metadata: Mapping[str, Any]) -> float | _Bad:
        text = node.value
        if node.tag == _TAG + "int":
            if len(text) > _MAX_INT_DIGITS:
                self.complain(node.start_mark, f"{name!r} is a number of {len(text)} digits")
                return _BAD
            number: float = int(text, 16 if text.startswith("0x") else 10)
        else:
            # YAML writes .inf and .nan, Python inf and nan.
            number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        if not math.isfinite(number):
            self.complain(node.start_mark, f"{name!r} must be a finite number, not {text}")
            return _BAD
        least, most = metadata.get("minimum"), metadata.get("maximum")
        if (least is not None and number < least) or (most is not None and number > most):
            self.complain(node.start_mark, f"{name!r} is {text}, but must be {describe_range(least, most)}")
            return _BAD
        return wanted(number)  # type: ignore[no-any-return]


def describe_range(least: float | None, most: float | None) -> str:
    """A range in words: "from 0 to 1", "at least 1", "at most 9", "" when open at both ends."""
    if least is not None and most is not None:
        return f"from {_figure(least)} to {_figure(most)}"
    if least is not None:
        return f"at least {_figure(least)}"
    return f"at most {_figure(most)}" if most is not None else ""


def _figure(value: float) -> str:
    return f"{value:g}" if value < 1e6 else f"{value:.0f}"


def nearest_name(name: str, names: typing.Iterable[str]) -> str | None:
    """The known name that ``name`` was most likely meant to be, or None."""
    candidates = list(names)
    plain = name.lower().replace("-", "_").replace(" ", "_")
    if plain in candidates:
        return plain
    starts = [candidate for candidate in candidates if candidate.startswith(plain + "_")]
    if len(starts) == 1:
        return starts[0]
    return next(iter(difflib.get_close_matches(plain, candidates, n=1, cutoff=0.6)), None)


def _dotted(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name


def _describe(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a section"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    kind = node.tag.removeprefix(_TAG)
    shown = repr(node.value) if len(node.value) <= 60 else repr(node.value[:60] + "…")
    words = {
        "null": "nothing",
        "bool": str(node.value),
        "int": f"the number {node.value[:60]}",
        "float": f"the number {node.value[:60]}",
        "str": f"the text {shown}",
    }
    return words.get(kind, f"something tagged {node.tag}")


def _hint(node: yaml.ScalarNode, wanted: type) -> str:
    if node.tag == _TAG + "null":
        return "leave the line out to get the default" if wanted is not str else 'leave the line out, or write ""'
    if wanted is str:
        return f'put it in quotes: "{node.value}"'
    if wanted is bool and node.value.lower() in {"yes", "no", "on", "off", "y", "n", "1", "0"}:
        return "write true" if node.value.lower() in {"yes", "on", "y", "1"} else "write false"
    if node.style in {'"', "'"} and wanted is not bool:
        return "take the quotes away"
    return ""
