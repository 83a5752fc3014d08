"""The daemon on a folder of mixed clips, against reading alone and scoring alone on the same cores."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

from benchmarks import bare
from benchmarks.clips import Clip
from benchmarks.daemon import Daemon
from benchmarks.results import Plot, Result, Table, Target

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.context import Context
    from benchmarks.results import Cell

_WANTED = 0.85
_NOTES = (
    (
        "On a CPU both stages want the same cores, so that no pipeline can do better than both one after the other: "
        "that line is the machine's limit. The slower of the two is the limit where the model has a device of its own."
    ),
    (
        "Reading is opening, decoding and face search in the reader's own processes. The daemon also hashes each file, "
        "syncs journal and sidecar, and moves the file."
    ),
)
# What people send: mostly short and H.264.
_MIX = (
    *[Clip(10)] * 6,
    *[Clip(16, (942, 500))] * 4,
    *[Clip(60, gop=60, segment_s=10)] * 2,
    Clip(60, segment_s=30),
    *[Clip(10, codec="libx265")] * 2,
    *[Clip(10, codec="libvpx-vp9", ending="webm")] * 2,
    Clip(10, codec="libsvtav1"),
    Clip(10, codec="mpeg4", gop=12, ending="avi"),
    Clip(10, codec="mjpeg", gop=1, ending="avi"),
)
_QUICK_MIX = (Clip(2, (320, 240)), Clip(2, (320, 240), "mpeg4", 12, ending="avi"))
# A part of the folder is enough to compare numbers of readers.
_SHARE_FOR_READERS = 5


def run(context: Context) -> Result:
    """Measure."""
    cores = len(os.sched_getaffinity(0))
    name, model = next(iter(context.models.items()))
    files, megabytes = _folder(context, "read alone", context.files)
    # A process for each core is the quickest way to read many files (docs/performance.md).
    context.say(f"reading {len(files)} clips with {cores} processes, and nothing else")
    read_s, crops = bare.read_all(files, model, cores)
    context.say(f"scoring {len(crops)} crops, and nothing else")
    scored = bare.score_all(crops, model, context.folder)
    scoring_s = float(scored["seconds"])
    shutil.rmtree(files[0].parent)
    with Daemon(context.folder / "throughput", {"model": {"path": str(model)}}) as daemon:
        daemon.judge(context.clips.path((_QUICK_MIX if context.quick else _MIX)[0]))
        folder = _folder(context, "all", context.files)[0][0].parent
        context.say(f"the daemon judges {len(files)} clips")
        began_cpu_s = daemon.cpu_s()
        taken_s = daemon.judge_folder(folder)
        cpu_s = daemon.cpu_s() - began_cpu_s
    by_readers = _by_readers(context, model, cores)
    slower_s, sum_s = max(read_s, scoring_s), read_s + scoring_s
    count = len(files)
    device = scored["device"]
    table = Table(
        f"A folder of {count} mixed clips ({megabytes:.0f} MB), {name}",
        ("what", "seconds", "clips a second", "daemon's rate over it"),
        [
            [f"reading alone, {cores} reader processes", read_s, count / read_s, read_s / taken_s],
            [
                f"scoring alone: {len(crops)} crops, {device['engine']}, {device['precision']}",
                scoring_s,
                count / scoring_s,
                scoring_s / taken_s,
            ],
            ["the slower of the two", slower_s, count / slower_s, slower_s / taken_s],
            ["both, one after the other on all cores", sum_s, count / sum_s, sum_s / taken_s],
            [f"the daemon, {cpu_s / taken_s:.2f} cores busy", taken_s, count / taken_s, 1.0],
        ],
        _NOTES,
    )
    rows: list[list[Cell]] = [[readers, found_s, files_ / found_s] for readers, (found_s, files_) in by_readers.items()]
    sweep = Table(f"The daemon by number of readers, {name}", ("readers", "seconds", "clips a second"), rows)
    targets = [
        Target(
            f"throughput over the slower of reading and scoring alone, {count} clips",
            f"≥ {_WANTED}",
            f"{slower_s / taken_s:.2f}",
            slower_s / taken_s >= _WANTED,
        ),
        Target(
            f"throughput over what {cores} cores allow for both, {count} clips",
            f"≥ {_WANTED}",
            f"{sum_s / taken_s:.2f}",
            sum_s / taken_s >= _WANTED,
        ),
    ]
    line = [(float(readers), files_ / found_s) for readers, (found_s, files_) in by_readers.items()]
    plot = Plot(
        "performance-readers",
        f"Throughput by readers ({cores} cores)",
        "reader processes",
        "clips a second",
        {f"dfwatch, {name}": line},
    )
    return Result([table, sweep], targets, [plot])


def _by_readers(context: Context, model: Path, cores: int) -> dict[int, tuple[float, int]]:
    found: dict[int, tuple[float, int]] = {}
    for readers in range(1, 2 if context.quick else cores + 2):
        folder = _folder(context, f"readers {readers}", max(2, context.files // _SHARE_FOR_READERS))[0][0].parent
        count = sum(1 for _ in folder.iterdir())
        changes: dict[str, dict[str, Any]] = {"model": {"path": str(model)}, "reader": {"processes": readers}}
        with Daemon(context.folder / f"readers-{readers}", changes) as daemon:
            daemon.judge(context.clips.path((_QUICK_MIX if context.quick else _MIX)[0]))
            context.say(f"the daemon judges {count} clips with {readers} readers")
            found[readers] = daemon.judge_folder(folder), count
    return found


def _folder(context: Context, name: str, count: int) -> tuple[list[Path], float]:
    """A folder of copies: a clip that is linked twice would change under one job when another is done with it."""
    folder = context.folder / name
    folder.mkdir()
    mix = _QUICK_MIX if context.quick else _MIX
    sources = {clip: context.clips.path(clip) for clip in mix}
    files = []
    for number in range(count):
        # Stepping through the mix by a number without common divisor: neighbours differ.
        source = sources[mix[number * 7 % len(mix)]]
        files.append(folder / f"{number:04d}{source.suffix}")
        shutil.copyfile(source, files[-1])
    return files, sum(path.stat().st_size for path in files) / 1e6
