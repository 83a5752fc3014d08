"""Times and sizes for people."""

from __future__ import annotations

from datetime import UTC, datetime


def age_s(stamp: str) -> float:
    """Seconds since an ISO 8601 time, by the wall clock: between processes there is no other. For showing only."""
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(stamp)).total_seconds())


def duration(seconds: float) -> str:
    """A length of time in one unit."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86_400:.0f} days"


def bytes_text(count: int) -> str:
    """A size in binary units."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
