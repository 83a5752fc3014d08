"""Scoring against a bare forward loop of the same network at the same batch size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import bare
from benchmarks.results import Result, Table, Target

if TYPE_CHECKING:
    from benchmarks.context import Context
    from benchmarks.results import Cell

_WANTED = 0.8


def run(context: Context) -> Result:
    """Measure."""
    ways: dict[str, list[Cell]] = {}
    rows: list[list[Cell]] = []
    targets = []
    for name, model in context.models.items():
        context.say(f"forward passes of {name}")
        found = bare.forward(model, context.folder, context.rounds)
        for way, milliseconds in found["milliseconds"].items():
            ways.setdefault(way, [way]).append(float(milliseconds))
        device = found["device"]
        share = found["score_per_s"] / found["bare_per_s"]
        rows.append(
            [
                name,
                f"{device['engine']}, {device['precision']}",
                device["batch_size"],
                float(found["bare_per_s"]),
                float(found["score_per_s"]),
                share,
                float(found["torch_per_s"]),
                float(device["precision_max_difference"]),
            ]
        )
        targets.append(
            Target(f"{name}: detector.score over a bare forward loop", f"≥ {_WANTED}", f"{share:.2f}", share >= _WANTED)
        )
    return Result(
        [
            Table("Milliseconds for 20 crops", ("how", *context.models), list(ways.values())),
            Table(
                "Crops a second, long runs",
                (
                    "model",
                    "as the daemon runs it",
                    "batch",
                    "bare loop",
                    "detector.score",
                    "ratio",
                    "torch, bare, batch 8",
                    "largest change of p",
                ),
                rows,
                ("The change of p(fake) is against float32, on the probe crops that a start measures with.",),
            ),
        ],
        targets,
    )
