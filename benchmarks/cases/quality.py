"""Whether taking the cheapest frames changes verdicts: planned against exact sampling on labelled videos."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from statistics import mean, median
from typing import TYPE_CHECKING, Any

import yaml

from benchmarks.child import REPOSITORY, environment
from benchmarks.results import Result, Skipped, Table, Target

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from benchmarks.context import Context
    from benchmarks.results import Cell

_MODES = ("planned", "exact")
_SCAN_LIMIT_S = 600.0
_SCAN_STATUSES = (0, 1, 3)


def run(context: Context) -> Result:
    """Measure.

    Raises:
        Skipped: No folder was named, or it holds no videos.
    """
    if context.labelled is None:
        raise Skipped("no labelled videos were named (--labelled FOLDER)")
    videos = sorted(
        path for path in context.labelled.iterdir() if path.suffix.lower() in {".mp4", ".mov", ".mkv", ".avi"}
    )
    if not videos:
        raise Skipped(f"there are no videos in {context.labelled}")
    labels = _labels(context.labelled)
    found, seconds = {}, {}
    for mode in _MODES:
        context.say(f"{len(videos)} videos, {mode} sampling")
        began_s = time.monotonic()
        found[mode] = _scan(context, videos, mode)
        seconds[mode] = time.monotonic() - began_s
    rows: list[list[Cell]] = []
    differences = []
    changed = 0
    for video in videos:
        planned, exact = found["planned"][video.name], found["exact"][video.name]
        both = planned["p_fake"] is not None and exact["p_fake"] is not None
        if both:
            differences.append(abs(planned["p_fake"] - exact["p_fake"]))
        changed += planned["verdict"] != exact["verdict"]
        rows.append(
            [
                video.name,
                labels.get(video.name, ""),
                planned["sampling"]["strategy"] if planned["sampling"] else "",
                planned["p_fake"],
                exact["p_fake"],
                planned["verdict"] or planned["reason"],
                exact["verdict"] or exact["reason"],
            ]
        )
    areas: list[list[Cell]] = [[f"{mode}: area under the ROC curve", _auc(found[mode], labels)] for mode in _MODES]
    times: list[list[Cell]] = [[f"{mode}: seconds for all, with the start", seconds[mode]] for mode in _MODES]
    summary: list[list[Cell]] = [
        ["largest difference of p(fake)", max(differences, default=None)],
        ["mean difference", mean(differences) if differences else None],
        ["median difference", median(differences) if differences else None],
        ["verdicts that differ", changed],
        *(areas if labels else []),
        *times,
    ]
    target = Target(
        f"verdicts that planned sampling changes, of {len(videos)}", "quality unchanged", str(changed), changed == 0
    )
    return Result(
        [
            Table(f"Planned against exact sampling, {len(videos)} labelled videos", ("what", ""), summary),
            Table("Each video", ("video", "label", "strategy", "p planned", "p exact", "planned", "exact"), rows),
        ],
        [target],
    )


def _labels(folder: Path) -> dict[str, str]:
    path = folder / "labels.csv"
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["file"]: row["label"] for row in csv.DictReader(file)}


def _scan(context: Context, videos: list[Path], mode: str) -> dict[str, dict[str, Any]]:
    config = context.folder / f"quality-{mode}.yaml"
    model = str(next(iter(context.models.values())))
    settings = {"root": str(context.folder / "quality"), "reader": {"sampling": mode}, "model": {"path": model}}
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    command = [sys.executable, "-m", "dfwatch", "scan", "--json", "--config", str(config), *map(str, videos)]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.PIPE,
        timeout=_SCAN_LIMIT_S,
        check=False,
    )
    if done.returncode not in _SCAN_STATUSES:
        raise RuntimeError(f"dfwatch scan ended with status {done.returncode}")
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    return {document["subject"]["name"]: document for document in documents}


def _auc(documents: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str]) -> float | None:
    """Share of pairs of a fake and a real in which the fake scores higher; half a pair for a tie."""
    scores: dict[str, list[float]] = {"FAKE": [], "REAL": []}
    for name, label in labels.items():
        p_fake = documents[name]["p_fake"] if name in documents else None
        if p_fake is not None:
            scores[label].append(p_fake)
    pairs = [(fake > real) + 0.5 * (fake == real) for fake in scores["FAKE"] for real in scores["REAL"]]
    return mean(pairs) if pairs else None
