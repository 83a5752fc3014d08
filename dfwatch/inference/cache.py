"""What a start has measured, kept for the next one."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import tempfile
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pathlib import Path

    from dfwatch.config import ModelSettings
    from dfwatch.inference.devices import DeviceChoice
    from dfwatch.models.facts import Bundle

VERSION = 2


def key(bundle: Bundle, choice: DeviceChoice, settings: ModelSettings, threads: int) -> str:
    """Changes whenever something changes that a measurement depends on."""
    facts = (
        VERSION,
        bundle.weights_sha256,
        dataclasses.astuple(bundle.input),
        dataclasses.astuple(bundle.crop),
        bundle.architecture,
        torch.__version__,
        _version("openvino"),
        str(choice.device),
        choice.name,
        torch.backends.cpu.get_cpu_capability(),
        threads,
        settings.engine,
        settings.precision,
        settings.batch_size,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def read(folder: Path | None, key: str) -> Any:  # noqa: ANN401 - whatever the file holds
    """What ``write`` was given under this key; None when there is nothing that can be read."""
    if folder is None:
        return None
    try:
        return json.loads(_path(folder, key).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write(folder: Path | None, key: str, facts: dict[str, Any]) -> None:
    """Keep ``facts``; a folder that cannot be written only costs the next start its time."""
    if folder is None:
        return
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".engine-", delete=False, encoding="utf-8") as out:
            json.dump(facts, out)
        os.replace(out.name, _path(folder, key))


def _path(folder: Path, key: str) -> Path:
    return folder / f"engine-{key}.json"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
