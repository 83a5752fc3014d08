"""What a 2-hour file costs beside a 1-minute file of the same codec, in time and in memory."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.clips import Clip
from benchmarks.daemon import Daemon
from benchmarks.results import Plot, Result, Table, Target
from dfwatch.config import WatchSettings

if TYPE_CHECKING:
    from benchmarks.context import Context
    from benchmarks.results import Cell

_HIGHEST_COST_RATIO = 1.5
_HIGHEST_MEMORY_RATIO = 1.1
_NOTE = (
    "A fresh daemon for each line, the shipped model and the shipped quiet window, in which large files are hashed; "
    "median of the files after a first one of the same kind. The stages are those of the sidecar; some may run beside "
    "each other. Peak memory is that of the daemon and its readers, added up."
)
_STAGES = ("hash", "probe", "decode", "faces", "inference")


def run(context: Context) -> Result:
    """Measure."""
    short_s, long_s = (4, 20) if context.quick else (60, 7200)
    size = (320, 240) if context.quick else (1920, 1080)
    kinds: list[dict[str, Any]] = [
        {"codec": "libx264", "gop": 60, "segment_s": 4 if context.quick else 10},
        {"codec": "libx265", "segment_s": 4 if context.quick else 10, "ending": "mkv"},
        {"codec": "libvpx-vp9", "segment_s": 4 if context.quick else 10, "ending": "webm"},
    ]
    rows: list[list[Cell]] = []
    targets: list[Target] = []
    lines: dict[str, list[tuple[float, float]]] = {}
    for kind in kinds[:1] if context.quick else kinds:
        costs, peaks, sizes = [], [], []
        for seconds in (short_s, long_s):
            clip = Clip(seconds, size, **kind)
            context.say(f"making {clip.label}")
            path = context.clips.path(clip)
            context.say(f"judging {clip.label}")
            seconds_s, stages, peak = _measure(context, clip)
            costs.append(seconds_s)
            peaks.append(peak)
            sizes.append(path.stat().st_size)
            rows.append(
                [
                    clip.label,
                    sizes[-1] / 1e6,
                    seconds_s,
                    *(stages.get(stage, 0.0) / 1e3 for stage in _STAGES),
                    peak / 2**20,
                ]
            )
            lines.setdefault(clip.label.split(",")[0].split(" ", 3)[-1], []).append((seconds, seconds_s))
        name = Clip(long_s, size, **kind).label.split(" ", 3)[3].split(",")[0]
        cost, memory = costs[1] / costs[0], peaks[1] / peaks[0]
        times = long_s / short_s
        targets += [
            Target(
                f"{name}: cost of {long_s} s over {short_s} s ({times:.0f} times the playing time)",
                f"≤ {_HIGHEST_COST_RATIO}",
                f"{cost:.2f}",
                cost <= _HIGHEST_COST_RATIO,
            ),
            Target(
                f"{name}: peak memory of {long_s} s over {short_s} s",
                f"≤ {_HIGHEST_MEMORY_RATIO}",
                f"{memory:.3f}",
                memory <= _HIGHEST_MEMORY_RATIO,
            ),
        ]
    table = Table(
        "Seconds and memory for one file, by its length",
        ("clip", "MB", "dfwatch", *_STAGES, "peak MiB"),
        rows,
        (_NOTE,),
    )
    title, x, y = "A file's cost by its length", "playing time, s", "time to the verdict, s"
    plot = Plot("performance-length", title, x, y, lines, logarithmic=True)
    return Result([table], targets, [plot])


def _measure(context: Context, clip: Clip) -> tuple[float, dict[str, float], int]:
    path = context.clips.path(clip)
    with Daemon(context.folder / f"length-{path.name}", {"watch": {"quiet_s": WatchSettings().quiet_s}}) as daemon:
        daemon.judge(path)
        found = [daemon.judge(path) for _ in range(context.rounds)]
        peak = daemon.peak_bytes()
    stages = {stage: median(document["timings_ms"].get(stage, 0.0) for _, document in found) for stage in _STAGES}
    return median(seconds for seconds, _ in found), stages, peak
