"""A run's best weights as one file, or in half precision as parts small enough to travel."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from dfwatch.errors import TrainingError
from dfwatch.models.checkpoints import half_precision

if TYPE_CHECKING:
    from torch import Tensor

BEST_NAME = "best.safetensors"
PART_LIMIT_BYTES = 15 * 1024**2  # under 16 MiB, header and all
_PART = re.compile(r"best-(\d{3})-of-(\d{3})\.safetensors")


def save_best(folder: str, state: dict[str, Tensor]) -> None:
    """Write weights as they are, in place of the folder's."""
    _save(os.path.join(folder, BEST_NAME), state)


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
    for name, part in zip(names, parts, strict=True):
        _save(os.path.join(folder, name), part)
    for name in os.listdir(folder):
        if _PART.fullmatch(name) and name not in names:
            os.unlink(os.path.join(folder, name))
    return names


def read_best(folder: str) -> dict[str, Tensor] | None:
    """Read the weights of a run's folder, whole or in parts; None where there are none.

    Raises:
        TrainingError: When a part is missing or damaged.
    """
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    names = [BEST_NAME] if os.path.exists(os.path.join(folder, BEST_NAME)) else _parts(folder)
    state: dict[str, Tensor] = {}
    for name in names:
        path = os.path.join(folder, name)
        try:
            state.update(load_file(path))
        except (OSError, SafetensorError) as error:
            raise TrainingError("reading the weights", path, error, hint="copy the file again") from error
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


def _save(path: str, state: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file  # noqa: PLC0415

    save_file({key: value.cpu().contiguous() for key, value in state.items()}, f"{path}.part")
    os.replace(f"{path}.part", path)
