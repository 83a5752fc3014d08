"""Processor time for one crop, by network, engine, precision and batch size.

Processor time divided by threads, not the wall clock: what the work takes when nothing else runs, and what it takes
away from the decoders beside it. Weights are random; the time does not depend on them.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from benchmarks.child import found_by
from benchmarks.results import Result, Table

if TYPE_CHECKING:
    from benchmarks.context import Context
    from benchmarks.results import Cell

_CHILD_LIMIT_S = 1500.0
_BATCHES = (1, 4, 8, 16, 32)
_PASSES = 5
NETWORKS = (
    ("efficientnet_lite0", 128),
    ("efficientnet_lite0", 160),
    ("efficientnet_lite2", 128),
    ("efficientnet_lite2", 160),
    ("resnext50_32x4d", 160),
    ("resnext50_32x4d", 224),
)


def run(context: Context) -> Result:
    """Measure."""
    rows: list[list[Cell]] = []
    for network, side in NETWORKS[:1] if context.quick else NETWORKS:
        context.say(f"engines: {network} at {side} px")
        found = found_by("benchmarks.engines", network, str(side), limit_s=_CHILD_LIMIT_S)
        rows += [[f"{network}, {side} px", way, *costs] for way, costs in found.items()]
    columns = ("network", "way", *(f"batch {size}" for size in _BATCHES))
    notes = ("Milliseconds of all threads together are these times the number of threads; least of 5 passes.",)
    return Result([Table("Milliseconds for one crop, on all threads, undisturbed", columns, rows, notes)])


def main(network: str, side: int) -> dict[str, list[float]]:
    """Costs by way, one for each batch size."""
    from dfwatch.inference.openmp import let_threads_sleep  # noqa: PLC0415

    let_threads_sleep()
    import torch  # noqa: PLC0415

    from dfwatch.config import ModelSettings  # noqa: PLC0415
    from dfwatch.inference.candidates import candidates  # noqa: PLC0415
    from dfwatch.inference.devices import choose_device  # noqa: PLC0415
    from dfwatch.inference.processor import usable_threads  # noqa: PLC0415
    from dfwatch.inference.trial import Probes, Trial  # noqa: PLC0415
    from dfwatch.inference.tuning import Workshop  # noqa: PLC0415
    from dfwatch.models.architectures import build  # noqa: PLC0415
    from dfwatch.models.fusion import fold_batch_norm  # noqa: PLC0415

    threads = usable_threads(torch.get_num_threads())
    torch.set_num_threads(threads)
    bundle: Any = _bundle(network, side)
    folded, _ = fold_batch_norm(build(network, num_outputs=2).eval())
    workshop = Workshop(folded, bundle, choose_device("cpu"), threads)
    probes = Probes(bundle.crop)
    found: dict[str, list[float]] = {}
    for candidate in candidates(torch.device("cpu"), ModelSettings(device="cpu")):
        for size in _BATCHES:
            trial = Trial(candidate, workshop.engine(candidate, size), probes, threads)
            for _ in range(_PASSES):
                trial.run()
            found.setdefault(str(candidate), []).append(round(1000.0 / trial.rate, 2))
    return found


def _bundle(network: str, side: int) -> Any:  # noqa: ANN401 - torch is behind it
    from dfwatch.models.bundle import Bundle, Calibration, InputSpec, OutputSpec, Thresholds  # noqa: PLC0415
    from dfwatch.reading import CropSpec  # noqa: PLC0415

    return Bundle(
        id="random",
        version="0",
        architecture=network,
        input=InputSpec(size_px=side, channel_order="rgb", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        crop=CropSpec(size_px=side),
        output=OutputSpec(kind="softmax", label_order=("REAL", "FAKE")),
        calibration=Calibration(fitted_on="nothing"),
        thresholds=Thresholds(real=0.25, fake=0.75, false_positive_rate=None, chosen_on="nothing"),
        licence="MIT",
    )


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
