"""Which ways of running a network may be tried on a machine, the most promising first."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dfwatch.errors import DeviceError, MissingExtraError
from dfwatch.inference.processor import has_bfloat16

if TYPE_CHECKING:
    from dfwatch.config import ModelSettings

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way of running a network.

    Attributes:
        engine: ``torch`` or ``openvino``.
        precision: ``float32``, ``bfloat16`` or ``float16``.
        graph: Recorded as a CUDA graph.
    """

    engine: str
    precision: str
    graph: bool = False

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}{' graph' if self.graph else ''}"


REFERENCE = Candidate("torch", "float32")


def candidates(device: torch.device, settings: ModelSettings) -> tuple[Candidate, ...]:
    """What ``model.engine`` and ``model.precision`` leave, graphs aside; what is good, measurement decides.

    Raises:
        DeviceError: OpenVINO is asked for on a device that is not the CPU.
        MissingExtraError: OpenVINO is asked for and not installed.
    """
    engines = _engines(device, settings.engine)
    precisions = _precisions(device) if settings.precision == "auto" else (settings.precision,)
    return tuple(Candidate(engine, precision) for precision in precisions for engine in engines)


def without_openvino(device: torch.device, settings: ModelSettings) -> str:
    """Why OpenVINO was not tried although it might have been; empty otherwise."""
    missing = device.type == "cpu" and settings.engine == "auto" and not _has_openvino()
    return "openvino is not installed" if missing else ""


def _engines(device: torch.device, setting: str) -> tuple[str, ...]:
    if setting == "torch":
        return ("torch",)
    if setting == "auto":
        return ("openvino", "torch") if device.type == "cpu" and _has_openvino() else ("torch",)
    if device.type != "cpu":
        hint = "set model.device to cpu, or model.engine to auto"
        raise DeviceError("choosing the engine", "openvino", f"it runs on the CPU, not on {device}", hint=hint)
    if not _has_openvino():
        raise MissingExtraError(
            "choosing the engine",
            "openvino",
            "the Python package openvino is missing",
            hint="pip install 'dfwatch[openvino]', or set model.engine to auto",
        )
    return ("openvino",)


def _precisions(device: torch.device) -> tuple[str, ...]:
    if device.type == "cpu":
        return ("bfloat16", "float32") if has_bfloat16() else ("float32",)
    if device.type == "cuda":
        half = ("float16", "bfloat16") if torch.cuda.is_bf16_supported(including_emulation=False) else ("float16",)
        return (*half, "float32")
    return ("float16", "float32") if device.type == "mps" else ("bfloat16", "float16", "float32")


def _has_openvino() -> bool:
    return importlib.util.find_spec("openvino") is not None
