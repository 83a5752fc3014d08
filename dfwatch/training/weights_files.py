"""A run's best weights as one file, or in half precision as parts small enough to travel."""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING

from dfwatch.errors import TrainingError
from dfwatch.models.checkpoints import half_precision

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

BEST_NAME = "best.safetensors"
PART_LIMIT_BYTES = 15 * 1024**2  # under 16 MiB, header and all
_TOGETHER = "together"  # in the header of a part: a digest of all parts
_PART = re.compile(r"best-(\d{3})-of-(\d{3})\.safetensors")


def save_best(folder: str, state: dict[str, Tensor]) -> None:
    """Write weights as they are, in place of the folder's."""
    path = os.path.join(folder, BEST_NAME)
    _write(f"{path}.part", state)
    os.replace(f"{path}.part", path)


def save_parts(folder: str, state: dict[str, Tensor], limit_bytes: int = PART_LIMIT_BYTES) -> list[str]:
    """Write weights in half precision as parts, in place of the folder's; each is a safetensors file of its own.

    A tensor is never divided, so a part is larger than ``limit_bytes`` only where a single tensor is.

    Returns:
        The parts' names.
    """
    os.makedirs(folder, exist_ok=True)
    parts: list[dict[str, Tensor]] = [{}]
    room = limit_bytes
    for name, tensor in half_precision({key: value.cpu() for key, value in state.items()}).items():
        size = tensor.numel() * tensor.element_size()
        if size > room and parts[-1]:
            parts.append({})
            room = limit_bytes
        parts[-1][name] = tensor
        room -= size
    names = [f"best-{number:03d}-of-{len(parts):03d}.safetensors" for number in range(1, len(parts) + 1)]
    # Whatever is carried away while this goes on: parts of two moments must not pass for one network.
    together = {_TOGETHER: _digest(parts)}
    paths = [os.path.join(folder, name) for name in names]
    for path, part in zip(paths, parts, strict=True):
        _write(f"{path}.part", part, together)
    for path in paths:
        os.replace(f"{path}.part", path)
    for name in os.listdir(folder):
        if _PART.fullmatch(name) and name not in names:
            os.unlink(os.path.join(folder, name))
    return names


def read_best(folder: str) -> dict[str, Tensor] | None:
    """Read the weights of a run's folder, whole or in parts; None where there are none.

    Raises:
        TrainingError: When a part is missing, damaged or of other weights than the rest.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    names = [BEST_NAME] if os.path.exists(os.path.join(folder, BEST_NAME)) else _parts(folder)
    state: dict[str, Tensor] = {}
    together: set[str | None] = set()
    for name in names:
        path = os.path.join(folder, name)
        try:
            with safe_open(path, "pt") as stored:
                together.add((stored.metadata() or {}).get(_TOGETHER))
                state.update({key: stored.get_tensor(key) for key in stored.keys()})  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError) as error:
            raise TrainingError("reading the weights", path, error, hint="copy the file again") from error
    if len(together) > 1:
        raise TrainingError(
            "reading the weights", folder, "its parts are of different weights", hint="copy all parts of one moment"
        )
    return state or None


def _parts(folder: str) -> list[str]:
    found = [match for match in map(_PART.fullmatch, sorted(os.listdir(folder))) if match]
    totals = {int(match[2]) for match in found}
    if len(totals) > 1 or (totals and [int(match[1]) for match in found] != list(range(1, max(totals) + 1))):
        raise TrainingError(
            "reading the weights",
            folder,
            f"parts are missing: there are {', '.join(match[0] for match in found)}",
            hint="copy all parts of one run",
        )
    return [match[0] for match in found]


def _digest(parts: Iterable[dict[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for key, value in (pair for part in parts for pair in part.items()):
        digest.update(key.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _write(path: str, state: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    from safetensors.torch import save_file  # noqa: PLC0415

    save_file({key: value.cpu().contiguous() for key, value in state.items()}, path, metadata=metadata)
