"""Every configuration in docs/sinks.md is one that the service takes, and every kind of sink has one."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

from dfwatch.config import SinkSettings
from dfwatch.errors import MissingExtraError
from dfwatch.settings import file as settings_file
from dfwatch.sinks.registry import build, classes

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


@pytest.mark.parametrize(
    ("kind", "module"),
    [
        ("webhook", "urllib3"),
        ("mqtt", "paho.mqtt.client"),
        ("redis", "redis"),
        ("s3", "boto3"),
        ("notify", "apprise"),
        ("postgresql", "psycopg"),
    ],
)
def test_a_missing_extra_names_the_command_that_brings_it(
    kind: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(next(text for text in EXAMPLES if f"type: {kind}\n" in text), encoding="utf-8")
    settings = next(sink for sink in settings_file.load(str(path)).sinks if sink.type == kind)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError) as caught:
        build(settings)
    assert caught.value.hint == f"pip install 'dfwatch[{kind}]'"
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert any(re.match(module.partition(".")[0], wanted) for wanted in project["optional-dependencies"][kind])
    assert f"`dfwatch[{kind}]`" in PAGE
