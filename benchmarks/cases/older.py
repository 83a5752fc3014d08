"""A warm daemon against the older pipeline, clip by clip, side by side."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.baseline import baseline
from benchmarks.clips import Clip
from benchmarks.daemon import Daemon
from benchmarks.results import Plot, Result, Table, Target

if TYPE_CHECKING:
    from benchmarks.baseline import Cost
    from benchmarks.context import Context
    from benchmarks.results import Cell

# Longer clips are read by the baseline once: it takes minutes, in which chance evens out.
_ONCE_FROM_S = 60
_COLUMNS = (
    "clip",
    "older: decoding",
    "faces, MTCNN",
    "faces, YuNet",
    "loading",
    "inference",
    "dfwatch",
    "strategy",
    "ratio with MTCNN",
    "with YuNet",
    "wanted",
)
_NOTE = (
    "dfwatch: a warm daemon, from the complete file to its sidecar, less the quiet window. Medians of {rounds}; the "
    "older pipeline reads clips of {once} s and more once."
)


@dataclass(frozen=True, slots=True)
class Contest:
    """One clip, and how many times faster dfwatch is to be."""

    clip: Clip
    wanted: float | None = None
    on_curve: bool = False


CONTESTS = (
    Contest(Clip(10), 5.0, on_curve=True),
    Contest(Clip(16, (942, 500)), 10.0),
    Contest(Clip(60, segment_s=30), 30.0, on_curve=True),
    Contest(Clip(600, segment_s=30), 300.0, on_curve=True),
    Contest(Clip(60, gop=60, segment_s=10)),
    Contest(Clip(60, codec="libx265", segment_s=10)),
    Contest(Clip(60, codec="libvpx-vp9", segment_s=10, ending="webm")),
    Contest(Clip(60, codec="libsvtav1", segment_s=10)),
    Contest(Clip(60, codec="mpeg4", gop=12, segment_s=10, ending="avi")),
    Contest(Clip(60, codec="mjpeg", gop=1, segment_s=10, ending="avi")),
)
QUICK = (Contest(Clip(2, (320, 240)), on_curve=True), Contest(Clip(4, (320, 240), segment_s=2), on_curve=True))


def run(context: Context) -> Result:
    """Measure."""
    contests = QUICK if context.quick else CONTESTS
    for contest in contests:
        context.clips.path(contest.clip)
    costs: dict[Clip, list[Cost]] = {contest.clip: [] for contest in contests}
    ours: dict[tuple[Clip, str], list[float]] = {}
    strategies: dict[Clip, str] = {}
    with contextlib.ExitStack() as stack:
        older = stack.enter_context(baseline())
        daemons = {
            name: stack.enter_context(Daemon(context.folder / f"older-{name}", {"model": {"path": str(path)}}))
            for name, path in context.models.items()
        }
        warm = context.clips.path(contests[0].clip)
        for daemon in daemons.values():
            daemon.judge(warm)
        for turn in range(context.rounds):
            for contest in contests:
                clip, path = contest.clip, context.clips.path(contest.clip)
                if turn == 0 or clip.seconds < _ONCE_FROM_S:
                    context.say(f"round {turn + 1}: the older pipeline reads {clip.label}")
                    costs[clip].append(older.judge(path, context.models))
                for name, daemon in daemons.items():
                    seconds, document = daemon.judge(path)
                    ours.setdefault((clip, name), []).append(seconds)
                    strategies[clip] = document["sampling"]["strategy"]
    return _tell(context, contests, costs, ours, strategies)


def _tell(
    context: Context,
    contests: tuple[Contest, ...],
    costs: dict[Clip, list[Cost]],
    ours: dict[tuple[Clip, str], list[float]],
    strategies: dict[Clip, str],
) -> Result:
    tables, targets, lines = [], [], dict[str, list[tuple[float, float]]]()
    for name in context.models:
        rows: list[list[Cell]] = []
        for contest in contests:
            clip, measured = contest.clip, costs[contest.clip]
            now_s = median(ours[clip, name])
            totals_s = {"YuNet": median(cost.total_s(name, cost.faces_s) for cost in measured)}
            own = [cost for cost in measured if cost.mtcnn_s is not None]
            if own:
                totals_s["MTCNN"] = median(cost.total_s(name, cost.mtcnn_s or 0.0) for cost in own)
            rows.append(
                [
                    clip.label,
                    median(cost.decoding_s for cost in measured),
                    median(cost.mtcnn_s or 0.0 for cost in own) if own else None,
                    median(cost.faces_s for cost in measured),
                    median(cost.loading_s[name] for cost in measured),
                    median(cost.inference_s[name] for cost in measured),
                    now_s,
                    strategies[clip],
                    totals_s["MTCNN"] / now_s if own else None,
                    totals_s["YuNet"] / now_s,
                    contest.wanted,
                ]
            )
            # The older project searched with MTCNN; without it, a baseline that is faster than it was is to be beaten.
            finder = "MTCNN" if own else "YuNet"
            before_s = totals_s[finder]
            if contest.wanted is not None:
                targets.append(
                    Target(
                        f"{clip.label}, {name}: times faster than the older pipeline with {finder}",
                        f"≥ {contest.wanted:g}",
                        f"{before_s / now_s:.3g}",
                        before_s / now_s >= contest.wanted,
                    )
                )
            if contest.on_curve:
                lines.setdefault(f"older pipeline with {finder}, {name}", []).append((clip.seconds, before_s))
                lines.setdefault(f"dfwatch, {name}", []).append((clip.seconds, now_s))
        tables.append(
            Table(
                f"Seconds for one clip, {name}",
                _COLUMNS,
                rows,
                (_NOTE.format(rounds=context.rounds, once=_ONCE_FROM_S),),
            )
        )
    plot = Plot(
        "performance-duration", "Cost of one clip", "playing time, s", "time to the verdict, s", lines, logarithmic=True
    )
    return Result(tables, targets, [plot])
