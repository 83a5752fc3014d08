"""What dfwatch adds to decoding and inference: to one file's way, and to each of very many."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import bare
from benchmarks.clips import Clip
from benchmarks.daemon import Daemon
from benchmarks.results import Result, Table, Target

if TYPE_CHECKING:
    from benchmarks.context import Context
    from benchmarks.results import Cell

_TINY = Clip(1, (320, 240))
_LATENCY_MS = 100.0
_OVERHEAD_MS = 5.0
_MEMORY = Path("/dev/shm")
_SCRIPTED = ("tests.service.scripted",)
# With real decoding, so many tell as much as ten thousand.
_REAL_FILES = 200


def run(context: Context) -> Result:
    """Measure."""
    latency, late_target = _latency(context)
    scripted, added_ms = _scripted(context)
    real = _real(context)
    target = Target(
        f"overhead for each of {context.tiny_files} files, on disk",
        f"< {_OVERHEAD_MS:g} ms",
        f"{added_ms:.2f} ms",
        added_ms < _OVERHEAD_MS,
    )
    return Result([latency, scripted, real], [late_target, target])


def _latency(context: Context) -> tuple[Table, Target]:
    # With stages that take no time: those of a real clip run beside each other, so their sum is not to be taken off.
    clip = context.folder / "latency.mp4"
    clip.write_bytes(b"fake")
    rows: list[list[Cell]] = []
    worst_ms = 0.0
    with Daemon(context.folder / "latency", module=_SCRIPTED) as daemon:
        daemon.judge(clip)
        for name, copied in (("renamed or linked in", False), ("written, then closed", True)):
            context.say(f"latency of a file that is {name}")
            late_ms = []
            for _ in range(3 if context.quick else 10 * context.rounds):
                time.sleep(random.uniform(0.0, 0.5))
                seconds, _ = daemon.judge(clip, copied=copied)
                late_ms.append(1e3 * seconds)
            late_ms.sort()
            rows.append([name, len(late_ms), median(late_ms), late_ms[int(0.95 * (len(late_ms) - 1))], late_ms[-1]])
            worst_ms = max(worst_ms, median(late_ms))
    table = Table(
        "Milliseconds from a complete file to its sidecar, less the quiet window; reader and model answer at once",
        ("file", "number", "median", "95 %", "most"),
        rows,
    )
    what = "from a complete file to its sidecar, beyond quiet window and processing"
    return table, Target(what, f"< {_LATENCY_MS:g} ms", f"{worst_ms:.0f} ms", worst_ms < _LATENCY_MS)


def _scripted(context: Context) -> tuple[Table, float]:
    rows: list[list[Cell]] = []
    added_ms = 0.0
    places = {"disk": context.folder}
    if os.access(_MEMORY, os.W_OK):
        places["memory"] = _MEMORY
    for place, parent in places.items():
        with tempfile.TemporaryDirectory(prefix="dfwatch-benchmark-", dir=parent) as name:
            folder = Path(name)
            with Daemon(folder / "scripted", module=_SCRIPTED) as daemon:
                many = folder / "many"
                many.mkdir()
                for number in range(context.tiny_files):
                    (many / f"{number:06d}.mp4").write_bytes(b"fake")
                context.say(f"{context.tiny_files} files on {place}, with a reader and a model that take no time")
                before_s = daemon.cpu_s()
                taken_s = daemon.judge_folder(many)
                spent_s = daemon.cpu_s() - before_s
        each_ms = 1e3 * taken_s / context.tiny_files
        rows.append([place, context.tiny_files, taken_s, each_ms, 1e3 * spent_s / context.tiny_files])
        added_ms = added_ms or each_ms
    table = Table(
        "Overhead alone: a reader and a model that answer at once",
        ("root on", "files", "seconds", "ms for each file", "processor ms for each"),
        rows,
        ("All the rest is the real service: scan, claim, hash, journal, sidecar, move; all of it synced.",),
    )
    return table, added_ms


def _real(context: Context) -> Table:
    count = min(_REAL_FILES, context.tiny_files)
    name, model = next(iter(context.models.items()))
    source = context.clips.path(_TINY)
    many = context.folder / "tiny"
    many.mkdir()
    for number in range(count):
        shutil.copyfile(source, many / f"{number:06d}.mp4")
    context.say(f"{count} tiny clips: reading alone, scoring alone, the daemon")
    reading_s, crops = bare.read_all(sorted(many.iterdir()), model, 1)
    scoring_s = float(bare.score_all(crops, model, context.folder)["seconds"])
    with Daemon(context.folder / "tiny-daemon", {"model": {"path": str(model)}, "reader": {"processes": 1}}) as daemon:
        daemon.judge(source)
        taken_s = daemon.judge_folder(many)
    both_s = reading_s + scoring_s
    rows: list[list[Cell]] = [
        ["reading alone, one reader", reading_s, 1e3 * reading_s / count],
        [f"scoring alone, {len(crops)} crops", scoring_s, 1e3 * scoring_s / count],
        ["the daemon, one reader", taken_s, 1e3 * taken_s / count],
        ["the daemon less the slower of the two", None, 1e3 * (taken_s - max(reading_s, scoring_s)) / count],
        ["the daemon less both", None, 1e3 * (taken_s - both_s) / count],
    ]
    return Table(f"{count} real clips of 1 s and 320×240, {name}", ("what", "seconds", "ms for each clip"), rows)
