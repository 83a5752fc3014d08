"""Every configuration in docs/sinks.md is one that the service takes, and every kind of sink has one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dfwatch.config import SinkSettings
from dfwatch.settings import file as settings_file
from dfwatch.sinks.registry import classes

PAGE = (Path(__file__).parents[2] / "docs" / "sinks.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_is_taken(example: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(example, encoding="utf-8")
    assert settings_file.check(path) == []


def test_every_kind_has_its_chapter_and_an_example() -> None:
    for name, kind in classes().items():
        if kind.__module__.startswith("dfwatch."):
            assert f"\n## {name}\n" in PAGE
            assert any(f"type: {name}\n" in example for example in EXAMPLES)


def test_every_kind_says_its_type_and_documents_its_settings() -> None:
    for name, kind in classes().items():
        for field in kind.settings_type.__dataclass_fields__.values():
            assert field.metadata["doc"], (name, field.name)
        assert issubclass(kind.settings_type, SinkSettings)
        assert kind.settings_type.__dataclass_fields__["type"].default == name
