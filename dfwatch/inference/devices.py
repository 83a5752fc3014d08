"""Which device the model runs on, and why."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dfwatch.errors import DeviceError

if TYPE_CHECKING:
    from dfwatch.config import ModelSettings

_ACTION = "choosing the device"


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """A device that was tried and works.

    Attributes:
        device: Always with an index for accelerators, e.g. ``cuda:0``.
        name: The hardware's own name, e.g. ``NVIDIA H200`` or ``AMD EPYC 9654``.
        reason: One sentence: why this one.
    """

    device: torch.device
    name: str
    reason: str


def choose_devices(setting: str) -> tuple[DeviceChoice, ...]:
    """The devices for ``model.device``: ``auto``, ``cpu``, or an accelerator such as ``cuda``, ``cuda:1``, ``mps``.

    ``auto`` takes CUDA, else whatever other accelerator this build of torch has, else the CPU. Any other setting means
    that device and no other. Without a number, an accelerator means all of its kind that are the same model as the
    first: a video's scores must not depend on which of them was free.

    Returns:
        One or more; all of the same kind and name.

    Raises:
        DeviceError: The device that was asked for is unknown, missing or does not work.
    """
    first = _first(setting)
    if first.device.type == "cpu" or ":" in setting:
        return (first,)
    others = []
    for index in range(1, torch.accelerator.device_count()):
        device = torch.device(first.device.type, index)
        if _accelerator_name(device) == first.name and not _try_out(device):
            others.append(DeviceChoice(device, first.name, first.reason))
    return (first, *others)


def choose_device(setting: str) -> DeviceChoice:
    """The first of ``choose_devices``.

    Raises:
        DeviceError: As there.
    """
    return _first(setting)


def choose_device_for(settings: ModelSettings) -> DeviceChoice:
    """``choose_device``; who asks for OpenVINO and names no device means the CPU, even where there is a GPU.

    Raises:
        DeviceError: As there.
    """
    automatic_cpu = settings.engine == "openvino" and settings.device == "auto"
    return choose_device("cpu" if automatic_cpu else settings.device)


def _first(setting: str) -> DeviceChoice:
    if setting == "auto":
        return _automatic()
    try:
        wanted = torch.device(setting)
    except RuntimeError as exc:
        hint = "use auto, cpu, cuda, cuda:1, mps or xpu"
        raise DeviceError(_ACTION, setting, "there is no such kind of device", hint=hint) from exc
    if wanted.type == "cpu":
        return DeviceChoice(torch.device("cpu"), _cpu_name(), "the configuration asks for the CPU")
    problem = _missing(wanted.type)
    if problem:
        raise DeviceError(
            _ACTION, setting, problem, hint="set model.device to auto or cpu; dfwatch doctor shows what is there"
        )
    count = torch.accelerator.device_count()
    index = wanted.index or 0
    if index >= count:
        hint = f"the highest is {wanted.type}:{count - 1}"
        raise DeviceError(_ACTION, setting, f"this machine has {count} {wanted.type} device(s)", hint=hint)
    device = torch.device(wanted.type, index)
    failure = _try_out(device)
    if failure:
        raise DeviceError(_ACTION, setting, failure, hint="does this build of torch fit the driver and the device?")
    return DeviceChoice(device, _accelerator_name(device), f"the configuration asks for {setting}")


def _automatic() -> DeviceChoice:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return DeviceChoice(torch.device("cpu"), _cpu_name(), f"no accelerator: {_missing('cuda')}")
    device = torch.device(accelerator.type, 0)
    failure = _try_out(device)
    name = _accelerator_name(device)
    if failure:
        return DeviceChoice(torch.device("cpu"), _cpu_name(), f"{name} is there but does not work: {failure}")
    others = torch.accelerator.device_count() - 1
    more = f", the first of {others + 1}" if others else ""
    return DeviceChoice(device, name, f"it is the accelerator that torch found{more}")


def _missing(kind: str) -> str:
    """Why there is no accelerator of this kind; empty when there is one."""
    available = torch.accelerator.current_accelerator(check_available=True)
    if available is not None and available.type == kind:
        return ""
    if kind == "cuda":
        if torch.version.cuda is None and torch.version.hip is None:
            return "this build of torch is without CUDA"
        return "torch finds no working CUDA device or driver"
    built = torch.accelerator.current_accelerator(check_available=False)
    if built is None or built.type != kind:
        return f"this build of torch is without {kind}"
    return f"torch finds no working {kind} device"


def _try_out(device: torch.device) -> str:
    """Run something small; what went wrong, or nothing. Shows a driver too old or a GPU this torch has no code for."""
    try:
        result = (torch.ones(8, 8, device=device) @ torch.ones(8, 8, device=device)).sum().item()
    except RuntimeError as exc:
        return str(exc).strip().splitlines()[0]
    return "" if result == 512.0 else f"8x8 matrix product gave {result} instead of 512"


def _accelerator_name(device: torch.device) -> str:
    module = torch.get_device_module(device)
    get_name = getattr(module, "get_device_name", None)
    return str(get_name(device)) if get_name is not None else device.type.upper()


def _cpu_name() -> str:
    """The processor's model name, or its architecture where the system does not tell."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
            names = [line.split(":", 1)[1].strip() for line in stream if line.startswith("model name")]
    except OSError:
        names = []
    return f"{names[0] if names else platform.machine()} ({len(os.sched_getaffinity(0))} cores)"
