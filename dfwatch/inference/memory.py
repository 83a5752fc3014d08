"""How full the accelerator's memory is."""

from __future__ import annotations

import sys
from contextlib import suppress


def device_memory_bytes(device: str) -> dict[str, int]:
    """Memory of a device by kind, in bytes: ``total``, ``free`` (for everybody), ``allocated``, ``reserved`` (by us).

    Empty for the CPU, and wherever torch cannot tell. Never loads torch: where it is not loaded, nothing uses a device.

    Args:
        device: torch's name of it, such as ``cuda:0``.
    """
    torch = sys.modules.get("torch")
    if torch is None or device.partition(":")[0] == "cpu":
        return {}
    found: dict[str, int] = {}
    with suppress(RuntimeError, AttributeError, ImportError, ValueError):
        module = torch.get_device_module(device)
        for kind, function in (("allocated", "memory_allocated"), ("reserved", "memory_reserved")):
            if hasattr(module, function):
                found[kind] = int(getattr(module, function)(device))
        if hasattr(module, "mem_get_info"):
            free, total = module.mem_get_info(device)
            found |= {"free": int(free), "total": int(total)}
    return found
