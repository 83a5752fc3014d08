"""What the pages for operators tell people to type is what the program takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from dfwatch.cli import build_parser
from dfwatch.settings import file as settings_file

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("operations.md", "sinks.md")
# What may stand before a command of dfwatch's.
_BEFORE = (
    re.compile(r"sudo -u \w+ "),
    re.compile(r"docker compose .* exec dfwatch "),
    re.compile(r"systemd-run (?:-\S+ )+"),
    re.compile(r"\S+/bin/(?=dfwatch )"),
)


def code_of(text: str) -> Iterator[str]:
    """Lines of a page's blocks for a shell, without their explanations, and code within its paragraphs."""
    fence = None
    for line in text.splitlines():
        if line.startswith("```"):
            fence = line.removeprefix("```") if fence is None else None
        elif fence is None:
            yield from re.findall(r"`([^`]+)`", line)
        elif fence in {"", "sh"}:
            yield line.partition(" #")[0].strip().partition("   ")[0]


def typed(page: str) -> set[str]:
    """Arguments of every command of dfwatch on a page."""
    found = set()
    for line in code_of((DOCS / page).read_text(encoding="utf-8")):
        for command in re.split(r"&&|;|\|", line):
            rest = command.strip()
            for before in _BEFORE:
                rest = before.sub("", rest)
            if rest.startswith("dfwatch "):
                found.add(rest.removeprefix("dfwatch "))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one(page: str) -> None:
    commands = typed(page)
    assert len(commands) > 5
    for command in sorted(commands):
        words = shlex.split(command)
        # A paragraph may name a command without what it is to be given.
        named_only = all(re.fullmatch(r"[a-z-]+", word) for word in words)
        assert _is_taken(words) or (named_only and _is_taken([*words, "--help"])), command


def _is_taken(words: list[str]) -> bool:
    try:
        build_parser().parse_args(words)
    except SystemExit as end:
        return end.code == 0
    return True


def test_every_setting_in_the_page_for_operators_is_one(tmp_path: Path) -> None:
    text = (DOCS / "operations.md").read_text(encoding="utf-8")
    examples = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert examples
    for example in examples:
        (tmp_path / "config.yaml").write_text(example, encoding="utf-8")
        assert settings_file.check(tmp_path / "config.yaml") == []
    shown = yaml.safe_load((DOCS.parent / "config.yaml").read_text())
    sections = "|".join(name for name, value in shown.items() if isinstance(value, dict))
    named = set(re.findall(rf"`((?:{sections})\.[a-z_]+)", text))
    assert len(named) > 5
    assert [name for name in named if name.partition(".")[2] not in shown[name.partition(".")[0]]] == []
