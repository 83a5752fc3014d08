"""Model bundles: the data types, and how a bundle is loaded and written.

A bundle is a folder with ``bundle.yaml``, a weights file (safetensors) and usually a card. Nothing here imports torch:
commands that only show or check a bundle stay quick.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfwatch import resources
from dfwatch.errors import BundleError
from dfwatch.models import bundle_file
from dfwatch.models.facts import (
    BUNDLE_FILE,
    CARD_FILE,
    WEIGHTS_FILE,
    Bundle,
    Calibration,
    InputSpec,
    OutputSpec,
    Thresholds,
    TrainingRecord,
    file_sha256,
    group_hash,
)
from dfwatch.models.profiles import bundle_for_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

SHIPPED = "shipped:"

__all__ = [
    "BUNDLE_FILE",
    "CARD_FILE",
    "SHIPPED",
    "WEIGHTS_FILE",
    "Bundle",
    "Calibration",
    "InputSpec",
    "OutputSpec",
    "Thresholds",
    "TrainingRecord",
    "file_sha256",
    "group_hash",
    "load_bundle",
    "write_bundle",
]


def load_bundle(path: str | Path) -> Bundle:
    """The bundle in a folder, one that ships (``shipped:NAME``), or the built-in profile of a bare ``df_model.pt``.

    Reads facts only; the weights are read and checked by ``dfwatch.models.checkpoints``.

    Raises:
        BundleError: There is no bundle, it may not be read, a key is unknown, missing or contradicts another, or a bare
            checkpoint is of no family that a built-in profile exists for.
        CheckpointError: A bare checkpoint is truncated or no checkpoint at all.
    """
    action = "loading the model bundle"
    path = _shipped(path, action) if str(path).startswith(SHIPPED) else Path(path)
    try:
        return _load(path, action)
    except OSError as exc:
        hint = "its folder, and all above it, must be open to the user who runs dfwatch"
        raise BundleError(action, path, exc.strerror or exc, hint=hint) from exc


def _load(path: Path, action: str) -> Bundle:
    if path.is_dir():
        file = path / BUNDLE_FILE
        if not file.is_file():
            hint = "dfwatch model import CHECKPOINT makes a bundle; docs/models.md explains every key"
            raise BundleError(action, path, f"the folder holds no {BUNDLE_FILE}", hint=hint)
        return bundle_file.read(file)
    if not path.is_file():
        raise BundleError(action, path, "there is no such file or folder", hint="set model.path to a bundle folder")
    return bundle_file.read(path) if path.name == BUNDLE_FILE else bundle_for_checkpoint(path)


def _shipped(path: str | Path, action: str) -> Path:
    known = resources.shipped_bundles()
    name = str(path).removeprefix(SHIPPED)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
        hint = f"did you mean {SHIPPED}{close[0]}? " if close else ""
        hint += f"known: {', '.join(known)}"
        raise BundleError(action, path, "no bundle of this name ships with dfwatch", hint=hint)
    return known[name]


def write_bundle(folder: str | Path, bundle: Bundle, weights: Mapping[str, Any] | Path) -> Bundle:
    """Write ``bundle.yaml`` and the weights into a folder; returns the bundle as it now lies there.

    Args:
        folder: Made where missing. Other files in it (card, group list) are left alone.
        bundle: ``folder``, ``weights_file`` and ``weights_sha256`` are filled in here.
        weights: A state dict (name to torch tensor), or the path of a safetensors file that is copied.

    Raises:
        BundleError: The folder or a file in it could not be written.
    """
    return bundle_file.write(Path(folder), bundle, weights)
