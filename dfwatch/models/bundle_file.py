"""``bundle.yaml``: read strictly, written for a human reader. Facts only; no torch unless a state dict is written."""

from __future__ import annotations

import dataclasses
import difflib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dfwatch.errors import BundleError
from dfwatch.models.facts import (
    BUNDLE_FILE,
    WEIGHTS_FILE,
    Bundle,
    Calibration,
    InputSpec,
    OutputSpec,
    Thresholds,
    TrainingRecord,
    file_sha256,
)
from dfwatch.reading import CropSpec

FORMAT_VERSION = 1

# What stands above each section of a written bundle.yaml.
_SECTION_COMMENTS = {
    "architecture": "The network; docs/models.md lists the names.",
    "weights": "The weights file in this folder.",
    "input": "How a crop becomes the network's input: pixels / 255, then (x - mean) / std in channel_order.",
    "crop": "How a face is cut out: margin on each side as a fraction of the face box's longer side.",
    "output": "softmax: a logit for each label, in this order; sigmoid: one logit, of the second label's probability.",
    "calibration": "Raw p(fake) of a crop to a probability: none, temperature or platt.",
    "thresholds": "On the calibrated p(fake): REAL at or below real, FAKE at or above fake, else INCONCLUSIVE.",
    "metrics": "What was measured, and on what.",
    "training": "What the weights were trained on.",
}
_REQUIRED = object()
_Json = dict[str, Any]


class _Section:
    """One mapping of the file, read key by key; what is left over at the end is unknown."""

    def __init__(self, value: object, key: str, path: Path, lines: Mapping[str, int]) -> None:
        self.path, self.key, self.lines = path, key, lines
        if not isinstance(value, dict):
            raise self.error(key, f"is {_describe(value)}, not a mapping")
        self.values: dict[Any, Any] = value
        self.taken: list[str] = []

    def full(self, key: str) -> str:
        return f"{self.key}.{key}" if self.key else key

    def error(self, key: str, cause: str, hint: str = "") -> BundleError:
        line = self.lines.get(key)
        return BundleError("reading", f"{self.path}:{line}" if line else self.path, f"{key} {cause}", hint=hint)

    def take(self, key: str, kind: str, default: Any = _REQUIRED) -> Any:  # noqa: ANN401 - the kind decides
        self.taken.append(key)
        if key not in self.values:
            if default is _REQUIRED:
                close = difflib.get_close_matches(key, [str(name) for name in self.values], n=1)
                hint = f"did you write it as {close[0]}?" if close else "docs/models.md says what it means"
                raise self.error(self.full(key), "is missing", hint)
            return default
        value = self.values[key]
        reader = _KINDS[kind]
        try:
            return reader(value)
        except (TypeError, ValueError):
            raise self.error(self.full(key), f"is {_describe(value)}, not {kind}") from None

    def section(self, key: str, *, optional: bool = False) -> _Section:
        return _Section(
            self.take(key, "a mapping", {} if optional else _REQUIRED), self.full(key), self.path, self.lines
        )

    def finish(self) -> None:
        for key in self.values:
            if key not in self.taken:
                close = difflib.get_close_matches(str(key), self.taken, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(self.taken)}"
                raise self.error(self.full(str(key)), "is not a known key", hint)


def _describe(value: object) -> str:
    return "empty" if value is None else f"{type(value).__name__} {value!r}"[:80]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return float(value)


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _mapping(value: object) -> _Json:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise TypeError
    return value


def _numbers(value: object) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise TypeError
    return tuple(_number(item) for item in value)


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError
    return tuple(_text(item) for item in value)


_KINDS: dict[str, Any] = {
    "text": _text,
    "a number": _number,
    "a number or null": lambda value: None if value is None else _number(value),
    "a whole number": _whole,
    "true or false": _flag,
    "a mapping": _mapping,
    "a list of numbers": _numbers,
    "a list of texts": _texts,
    "a mapping of numbers": lambda value: {key: _number(item) for key, item in _mapping(value).items()},
}


def read(path: Path) -> Bundle:
    """The bundle that a ``bundle.yaml`` describes; BundleError names file, line and key."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise BundleError("reading", path, exc) from exc
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = _line_numbers(node, path)
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as exc:
        # To YAML, a text without quotes may look like a date or a number, and be none.
        hint = "put what is meant as text into quotes: '2026-11-31'" if isinstance(exc, ValueError) else ""
        raise BundleError("reading", path, f"it is not valid YAML: {' '.join(str(exc).split())}", hint=hint) from exc
    try:
        return _parse(document, path, lines)
    except BundleError as exc:
        if exc.action == "reading":
            raise
        # Raised by the data types, which know the key but not the file.
        line = lines.get(exc.subject) or lines.get(exc.subject.split(".")[0])
        where = f"{path}:{line}" if line else path
        raise BundleError("reading", where, f"{exc.subject} {exc.cause}", hint=exc.hint) from exc


def _line_numbers(node: yaml.Node | None, path: Path) -> dict[str, int]:
    """Line of every key, by its dotted name; a key given twice is an error that PyYAML does not see."""
    lines: dict[str, int] = {}

    def walk(current: yaml.Node | None, prefix: str) -> None:
        if not isinstance(current, yaml.MappingNode):
            return
        for key_node, value_node in current.value:
            key = f"{prefix}{key_node.value}"
            line = key_node.start_mark.line + 1
            if key in lines:
                raise BundleError("reading", f"{path}:{line}", f"{key} is given twice, first in line {lines[key]}")
            lines[key] = line
            walk(value_node, f"{key}.")

    walk(node, "")
    return lines


def _parse(document: object, path: Path, lines: Mapping[str, int]) -> Bundle:
    top = _Section(document, "", path, lines)
    version = top.take("format", "a whole number")
    if version != FORMAT_VERSION:
        raise top.error("format", f"is {version}; this dfwatch reads {FORMAT_VERSION}", "update dfwatch")
    facts: _Json = {key: top.take(key, "text") for key in ("id", "version", "licence")}
    facts["description"] = top.take("description", "text", "")
    facts["card"] = top.take("card", "text", "")
    facts["known_failures"] = top.take("known_failures", "a list of texts", ())
    facts["metrics"] = top.take("metrics", "a mapping", {})

    section = top.section("architecture")
    facts["architecture"] = section.take("name", "text")
    facts["architecture_options"] = section.take("options", "a mapping", {})
    section.finish()

    section = top.section("weights")
    facts["weights_file"] = section.take("file", "text")
    facts["weights_sha256"] = section.take("sha256", "text").lower()
    if len(facts["weights_sha256"]) != 64 or not set(facts["weights_sha256"]) <= set("0123456789abcdef"):
        raise section.error("weights.sha256", "is not 64 hexadecimal digits", "sha256sum prints them")
    section.finish()

    section = top.section("input")
    size_px = section.take("size_px", "a whole number")
    facts["input"] = InputSpec(
        size_px=size_px,
        channel_order=section.take("channel_order", "text"),
        mean=section.take("mean", "a list of numbers"),
        std=section.take("std", "a list of numbers"),
    )
    section.finish()

    section = top.section("crop")
    facts["crop"] = CropSpec(
        size_px=size_px,
        margin=section.take("margin", "a number"),
        square=section.take("square", "true or false"),
        shift_y=section.take("shift_y", "a number"),
    )
    section.finish()

    section = top.section("output")
    facts["output"] = OutputSpec(
        kind=section.take("kind", "text"), label_order=section.take("label_order", "a list of texts")
    )
    section.finish()

    section = top.section("calibration")
    facts["calibration"] = Calibration(
        method=section.take("method", "text"),
        parameters=section.take("parameters", "a mapping of numbers"),
        fitted_on=section.take("fitted_on", "text"),
    )
    section.finish()

    section = top.section("thresholds")
    facts["thresholds"] = Thresholds(
        real=section.take("real", "a number"),
        fake=section.take("fake", "a number"),
        false_positive_rate=section.take("false_positive_rate", "a number or null"),
        chosen_on=section.take("chosen_on", "text"),
    )
    section.finish()

    section = top.section("training", optional=True)
    facts["training"] = TrainingRecord(
        data=section.take("data", "a list of texts", ()),
        recipe=section.take("recipe", "text", ""),
        groups=section.take("groups", "a list of texts", ()),
        groups_file=section.take("groups_file", "text", ""),
    )
    section.finish()
    top.finish()
    return Bundle(**facts, folder=path.parent)


class _Dumper(yaml.SafeDumper):
    """Short lists on one line, long ones below each other; strings folded only where they must be."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: FBT001, FBT002
        # Lists are set in from their key, as people write them.
        super().increase_indent(flow, False)  # noqa: FBT003


def _represent_list(dumper: _Dumper, values: list[Any]) -> yaml.Node:
    scalars = all(isinstance(value, str | int | float) for value in values)
    short = scalars and sum(len(str(value)) + 2 for value in values) < 60
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=short)


_Dumper.add_representer(list, _represent_list)


def _plain(value: Any) -> Any:  # noqa: ANN401 - any YAML value
    """Mappings and sequences as plain dicts and lists, numpy scalars as numbers."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if hasattr(value, "item") else value


def _document(bundle: Bundle) -> _Json:
    training = {key: value for key, value in dataclasses.asdict(bundle.training).items() if value}
    architecture: _Json = {"name": bundle.architecture}
    if bundle.architecture_options:
        architecture["options"] = bundle.architecture_options
    crop = dataclasses.asdict(bundle.crop)
    crop.pop("size_px")
    document: _Json = {
        "format": FORMAT_VERSION,
        "id": bundle.id,
        "version": bundle.version,
        "description": bundle.description,
        "licence": bundle.licence,
        "card": bundle.card,
        "architecture": architecture,
        "weights": {"file": bundle.weights_file, "sha256": bundle.weights_sha256},
        "input": dataclasses.asdict(bundle.input),
        "crop": crop,
        "output": dataclasses.asdict(bundle.output),
        "calibration": {
            "method": bundle.calibration.method,
            "parameters": bundle.calibration.parameters,
            "fitted_on": bundle.calibration.fitted_on,
        },
        "thresholds": dataclasses.asdict(bundle.thresholds),
        "metrics": bundle.metrics,
        "known_failures": bundle.known_failures,
        "training": training,
    }
    optional = ("description", "card", "metrics", "known_failures", "training")
    return {key: _plain(value) for key, value in document.items() if value or key not in optional}


def render(bundle: Bundle) -> str:
    """The text of ``bundle.yaml``; reading it back gives the same facts."""
    parts = ["# A dfwatch model bundle; docs/models.md explains every key.\n"]
    for key, value in _document(bundle).items():
        if isinstance(value, dict | list) or key in _SECTION_COMMENTS:
            parts.append("\n")
        if key in _SECTION_COMMENTS:
            parts.append(f"# {_SECTION_COMMENTS[key]}\n")
        parts.append(
            yaml.dump(
                {key: value}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=False
            )
        )
    return "".join(parts)


def write(folder: Path, bundle: Bundle, weights: Mapping[str, Any] | Path) -> Bundle:
    """See ``dfwatch.models.bundle.write_bundle``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / WEIGHTS_FILE
        if not (isinstance(weights, Path) and target.exists() and weights.samefile(target)):
            with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as scratch:
                fresh = Path(scratch) / WEIGHTS_FILE
                if isinstance(weights, Mapping):
                    from safetensors.torch import save  # noqa: PLC0415 - the only need of torch here

                    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in weights.items()}
                    # Not save_file: its files are readable by their owner alone, and the service is another user.
                    fresh.write_bytes(save(tensors))
                else:
                    shutil.copyfile(weights, fresh)
                os.replace(fresh, target)
        written = dataclasses.replace(
            bundle, folder=folder, weights_file=WEIGHTS_FILE, weights_sha256=file_sha256(target), profile=""
        )
        fresh_yaml = folder / f".{BUNDLE_FILE}.part"
        fresh_yaml.write_text(render(written), encoding="utf-8")
        os.replace(fresh_yaml, folder / BUNDLE_FILE)
    except OSError as exc:
        raise BundleError("writing the model bundle", folder, exc) from exc
    return written
