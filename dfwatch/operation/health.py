"""What the running daemon says of itself, in a small file that ``dfwatch status`` and others read."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Health:
    """The daemon's state a moment ago.

    Attributes:
        pid: Its process.
        version: Of dfwatch.
        started_at: ISO 8601, UTC.
        updated_at: When this was written.
        model: Bundle id and version.
        device: Where the model runs.
        device_reason: Why there.
        precision: Of the model's arithmetic.
        inbox_ready: Files found complete and not yet claimed.
        inbox_waiting: Files that are not complete yet.
        oldest_wait_s: Age of the oldest of those.
        running: Jobs in work.
        delayed: Jobs that wait for another attempt.
        paused: Why nothing new is taken in; empty when it is.
        blocked: Files that cannot be moved out of the inbox, and why (at most 20, then how many more).
        deaf: Why file events do not reach the daemon; empty when they do or are not wanted.
        trouble: What of the disk or the machine keeps the work from going on; empty while all is well.
        late: Stages that have made no progress for too long.
        last: The last outcome: name, status, verdict, p_fake, at.
        watch: How well the watching works.
        scan_age_s: Time since the inbox was last looked at; None before the first look.
        oldest_ready_s: How long the oldest complete file has waited to be claimed.
        queues: Videos between two stages, by queue.
        reader_restarts: Reader processes that were replaced because they died, hung or broke a limit.
        disk_free_bytes: Room under the root; None when it cannot be told.
        device_memory_bytes: Memory of the accelerator by kind; empty for a CPU.
        stages: ``median_ms`` and ``slowest_ms`` of each stage over the last files.
        sinks: How far behind each sink is: sink, pending, dead, oldest_s.
    """

    pid: int
    version: str
    started_at: str
    updated_at: str
    model: str
    device: str
    device_reason: str
    precision: str
    inbox_ready: int = 0
    inbox_waiting: int = 0
    oldest_wait_s: float = 0.0
    running: int = 0
    delayed: int = 0
    paused: str = ""
    blocked: tuple[str, ...] = ()
    deaf: str = ""
    trouble: str = ""
    late: tuple[str, ...] = ()
    last: dict[str, Any] | None = None
    watch: dict[str, Any] = field(default_factory=dict)
    scan_age_s: float | None = None
    oldest_ready_s: float = 0.0
    queues: dict[str, int] = field(default_factory=dict)
    reader_restarts: int = 0
    disk_free_bytes: int | None = None
    device_memory_bytes: dict[str, int] = field(default_factory=dict)
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    sinks: tuple[dict[str, Any], ...] = ()


def write(path: str, health: Health) -> None:
    """Replace the file, atomically; a disk that does not take it is no reason to stop."""
    temporary = f"{path}.tmp"
    text = json.dumps(asdict(health))
    try:
        with open(temporary, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(temporary, path)
    except OSError:
        # A full disk has no room for a second file, but the first one has its block: what is wrong can still be told.
        with suppress(OSError):
            os.unlink(temporary)
        with suppress(OSError), open(path, "r+", encoding="utf-8") as stream:
            stream.write(text)
            stream.truncate()


def read(path: str, *, of: int = 0) -> dict[str, Any] | None:
    """What the daemon last wrote; None where there is nothing readable.

    Args:
        path: The file.
        of: Process that must have written it, because another run may have left it there; 0: whichever.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            loaded = json.load(stream)
    except (OSError, ValueError):
        return None
    if not isinstance(loaded, dict) or (of and loaded.get("pid") != of):
        return None
    return loaded
