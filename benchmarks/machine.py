"""The machine and the versions that a measurement belongs to."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

# More than this much of other work, and ratios of things measured one after the other mean little.
BUSY_LOAD = 1.0
_TELLING_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "sha_ni")
_PACKAGES = ("torch", "openvino", "opencv-python-headless", "av", "numpy")


def facts() -> dict[str, str]:
    """What a reader needs to know to compare figures with another machine's."""
    model, flags = _processor()
    shown = [flag for flag in _TELLING_FLAGS if flag in flags]
    missing = [flag for flag in _TELLING_FLAGS if flag not in flags]
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = [f"{name} {_version(name)}" for name in _PACKAGES]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "processor": f"{model}, {len(os.sched_getaffinity(0))} cores usable",
        "instructions": f"has {', '.join(shown) or 'none'}; lacks {', '.join(missing) or 'none'}",
        "memory": f"{memory_gib:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(versions),
    }


def load() -> float:
    """Mean number of runnable processes over the last minute."""
    return os.getloadavg()[0]


def _processor() -> tuple[str, set[str]]:
    model, flags = platform.processor() or platform.machine(), set[str]()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                model = value.strip()
            elif name.strip() == "flags":
                return model, set(value.split())
    except OSError:
        pass
    return model, flags


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"
