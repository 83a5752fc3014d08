"""The processor: how many threads are worth starting, and what it computes by itself."""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable_threads(physical_cores: int) -> int:
    """As many as there are physical cores, but no more than this process may use."""
    return max(1, min(physical_cores, len(os.sched_getaffinity(0)), _quota()))


def has_bfloat16(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Whether the processor multiplies bfloat16 itself; emulated, it is many times slower than float32.

    torch's own answer (``mkldnn._is_mkldnn_bf16_supported``) is yes on every CPU with AVX-512, emulated or not.
    """
    try:
        text = Path(cpuinfo).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    rows = (row.partition(":") for row in text.splitlines())
    # "flags" on x86, "Features" on ARM; all cores have the same.
    flags = next((value.split() for name, _, value in rows if name.strip() in {"flags", "Features"}), [])
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


def _quota() -> int:
    """Whole cores of the control group's quota, as containers and systemd's CPUQuota set it."""
    try:
        group = Path("/proc/self/cgroup").read_text(encoding="ascii").strip().rsplit("::", 1)[-1]
        quota, period = Path(f"/sys/fs/cgroup{group}/cpu.max").read_text(encoding="ascii").split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):
        return 1 << 16
