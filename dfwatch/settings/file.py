"""Read and check ``config.yaml``: strict, with file, line, column and the nearest known name in every complaint.

The YAML is composed into nodes and never constructed, so each value keeps its place in the file and no YAML type gets a
chance to surprise: the scalars are those of YAML 1.2's core schema (``on``, ``off``, ``yes``, ``no`` and ``12:30`` are
text), true is not 1, and "3" is not 3. The types, ranges and choices come from the dataclasses of ``dfwatch.config``.

Relative paths (settings declared with ``path=True``) start at the folder of the file they stand in, so that the service
and every command mean the same place wherever they are started; without a file they start at the working directory.
"""

from __future__ import annotations

import os
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from dfwatch.config import Settings
from dfwatch.errors import ConfigError
from dfwatch.settings.checks import cross_checks
from dfwatch.settings.reader import ACTION, Kinds, SectionReader, settings_fields
from dfwatch.sinks.registry import Kinds as InstalledSinks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dfwatch.config import SinkSettings

SEARCH_PATH = ("config.yaml", "/etc/dfwatch/config.yaml")
_MAX_BYTES = 1024 * 1024


class Loaded(NamedTuple):
    """Settings and where they came from.

    Attributes:
        settings: Complete, checked, with absolute paths.
        path: The file that was read; None when the defaults hold because there is none.
        notice: A sentence for the person at the terminal or the log; says which file was taken, or that none was.
    """

    settings: Settings
    path: Path | None
    notice: str


class _Loader(yaml.SafeLoader):
    """PyYAML's parser with the scalars of YAML 1.2's core schema (https://yaml.org/spec/1.2.2/#1032-tag-resolution)."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - replaces PyYAML's YAML 1.1 table, which is a class attribute


for _tag, _pattern, _first in (
    ("null", r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)$|0x[0-9a-fA-F]+$", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$",
        list("-+.0123456789"),
    ),
):
    # The order counts: the first pattern that matches wins, and every int looks like a float too. A number with
    # leading zeros is neither: YAML 1.1 reads it as octal, YAML 1.2 as decimal, and a person may mean either.
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(r"(?![-+]?0[0-9])" + f"(?:{_pattern})"), _first
    )


def find(explicit: str | os.PathLike[str] | None = None, search: Sequence[str] = SEARCH_PATH) -> Path | None:
    """The configuration file to use: ``explicit`` if given, else the first of ``search`` that is there, else None.

    Raises:
        ConfigError: ``explicit`` names no file.
    """
    if explicit is not None:
        if not os.path.isfile(explicit):
            cause = "it is not a file" if os.path.exists(explicit) else "there is no such file"
            raise ConfigError(ACTION, explicit, cause, hint="name the file with --config")
        return Path(os.path.abspath(explicit))
    return next((Path(os.path.abspath(name)) for name in search if os.path.isfile(name)), None)


def load(path: str | os.PathLike[str], kinds: Kinds | None = None) -> Settings:
    """Read ``path`` into complete, checked settings with absolute paths.

    Args:
        path: A YAML file in UTF-8. What it leaves out has its default; an empty file is all defaults.
        kinds: For each setting that lists things of several kinds (``sinks``): the kinds' names and their dataclasses;
            None: those that are installed.

    Raises:
        ConfigError: The first thing that is wrong with the file, in the order of its lines.
    """
    settings, problems = _read(Path(path), kinds)
    if problems:
        raise problems[0]
    return settings


def check(path: str | os.PathLike[str], kinds: Kinds | None = None) -> list[ConfigError]:
    """Everything that is wrong with ``path``, in the order of its lines; empty when it is fine."""
    try:
        _, problems = _read(Path(path), kinds)
    except ConfigError as error:
        return [error]
    return problems


def load_found(
    explicit: str | os.PathLike[str] | None = None, kinds: Kinds | None = None, search: Sequence[str] = SEARCH_PATH
) -> Loaded:
    """Find and read the configuration; without any file the defaults hold and the notice says so.

    Raises:
        ConfigError: As ``find`` and ``load``.
    """
    path = find(explicit, search)
    if path is None:
        searched = " or ".join(f"./{name}" if not os.path.isabs(name) else name for name in search)
        notice = f"no configuration file ({searched}); the defaults hold"
        return Loaded(absolute_paths(Settings(), os.getcwd()), None, notice)
    return Loaded(load(path, kinds), path, f"configuration: {path}")


def absolute_paths(settings: Settings, folder: str | os.PathLike[str]) -> Settings:
    """``settings`` with each relative path (metadata ``path``) joined to ``folder``; empty ones stay empty."""
    changed: dict[str, object] = {}
    for section, item, value in settings_fields(settings):
        if item.metadata.get("kinds"):
            changed[item.name] = [_with_absolute_paths(entry, folder) for entry in value]
            continue
        if not item.metadata.get("path") or not isinstance(value, str) or not value:
            continue
        names = item.metadata.get("names")
        if names and value.startswith(names):
            continue
        full = _absolute(value, folder)
        if section is None:
            changed[item.name] = full
        else:
            holder = changed.get(section, getattr(settings, section))
            changed[section] = replace(holder, **{item.name: full})  # type: ignore[type-var]
    return replace(settings, **changed)  # type: ignore[arg-type]


def _with_absolute_paths(entry: SinkSettings, folder: str | os.PathLike[str]) -> SinkSettings:
    values = {item.name: getattr(entry, item.name) for item in fields(entry) if item.metadata.get("path")}
    changed: dict[str, Any] = {name: _absolute(value, folder) for name, value in values.items() if value}
    return replace(entry, **changed)


def _absolute(path: str, folder: str | os.PathLike[str]) -> str:
    return os.path.abspath(os.path.join(folder, os.path.expanduser(path)))


def _read(path: Path, kinds: Kinds | None) -> tuple[Settings, list[ConfigError]]:
    reader = SectionReader(str(path), {"sinks": InstalledSinks()} if kinds is None else kinds)
    root = _compose(path)
    settings = Settings() if root is None else reader.section(root, Settings, "")
    settings = absolute_paths(settings, path.resolve().parent)
    if not reader.problems:
        for name, cause, hint in cross_checks(settings):
            reader.complain(reader.marks.get(name), cause, hint=hint)
    reader.problems.sort(key=lambda problem: problem[0])
    return settings, [error for _, error in reader.problems]


def _compose(path: Path) -> yaml.Node | None:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(ACTION, path, error.strerror or error) from error
    if len(data) > _MAX_BYTES:
        raise ConfigError(ACTION, path, f"it is larger than {_MAX_BYTES} bytes", hint="is this the right file?")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(ACTION, f"{path}:{line}", "the file is not UTF-8 text", hint="save it as UTF-8") from error
    try:
        return yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        cause = " ".join(part for part in (error.problem, error.context) if part)
        hint = "YAML indents with spaces, not tabs" if r"'\t'" in cause else ""
        raise ConfigError(ACTION, where, f"not valid YAML: {cause}", hint=hint) from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        where = f"{path}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"
        raise ConfigError(ACTION, where, f"the character {error.character!r} may not stand in YAML") from error
    except RecursionError as error:
        raise ConfigError(ACTION, path, "it is nested too deeply") from error
    except (ValueError, OverflowError) as error:
        # PyYAML turns escapes and version numbers into figures without a look at how large they are.
        raise ConfigError(ACTION, path, f"not valid YAML: {error}", hint='see escapes such as "\\U0001F600"') from error
