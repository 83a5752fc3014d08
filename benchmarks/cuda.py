"""Frames a second on CUDA devices, against a bare half-precision forward loop of the same network at the same batch.

Each device's detector scores beside the others', as in the daemon. What is bare: one ready batch on the device, the
folded network in the detector's precision, channels_last; no pixels, no copies, no checks, no results.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.child import found_by
from benchmarks.results import Result, Skipped, Table, Target

if TYPE_CHECKING:
    from benchmarks.context import Context
    from benchmarks.results import Cell

_CHILD_LIMIT_S = 600.0
_WANTED = 0.8
_BATCHES = 40


def run(context: Context) -> Result:
    """Measure; skipped where torch finds no CUDA device."""
    rows: list[list[Cell]] = []
    ways: list[list[Cell]] = []
    targets = []
    for name, model in context.models.items():
        context.say(f"CUDA, {name}")
        found = found_by(
            "benchmarks.cuda", str(model), str(context.folder), str(context.rounds), limit_s=_CHILD_LIMIT_S
        )
        if "skipped" in found:
            raise Skipped(found["skipped"])
        device = found["device"]
        share = found["score_per_s"] / found["bare_per_s"]
        rows.append(
            [
                name,
                device["name"],
                f"{device['engine']}, {device['precision']}",
                device["batch_size"],
                float(found["bare_per_s"]),
                float(found["score_per_s"]),
                share,
                float(device["precision_max_difference"]),
                found["devices"],
                float(found["all_per_s"]),
            ]
        )
        ways += [[name, way, float(rate)] for way, rate in device["crops_per_s"].items()]
        targets.append(
            Target(f"{name} on CUDA: detector.score over a bare loop", f"≥ {_WANTED}", f"{share:.2f}", share >= _WANTED)
        )
    columns = (
        "model",
        "device",
        "as the daemon runs it",
        "batch",
        "bare loop, crops/s",
        "detector.score, crops/s",
        "ratio",
        "largest change of p",
        "devices",
        "all devices, crops/s",
    )
    return Result(
        [
            Table("CUDA", columns, rows),
            Table("CUDA: ways that the start tried", ("model", "way", "crops/s"), ways),
        ],
        targets,
    )


# -- in the child ------------------------------------------------------------------------------------------------------


def main(model: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """What ``run`` tells of one model."""
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415

    from dfwatch.config import ModelSettings  # noqa: PLC0415
    from dfwatch.detector import Detector  # noqa: PLC0415
    from dfwatch.models.bundle import load_bundle  # noqa: PLC0415

    if not torch.cuda.is_available():
        return {"skipped": "torch finds no CUDA device"}
    bundle = load_bundle(model)
    detectors = Detector.load_all(bundle, ModelSettings(device="cuda"), cache_dir=folder)
    first = detectors[0]
    batch, side = first.device.batch_size, bundle.input.size_px
    crops = np.random.default_rng(5).integers(0, 256, (_BATCHES * batch, side, side, 3), dtype=np.uint8)
    bare = _bare_loop(first)
    first.score(crops[: 2 * batch])
    bare(2)
    score_s, bare_s = [], []
    # In turns, so that whatever else runs on the machine slows both.
    for _ in range(max(3, rounds)):
        score_s.append(_seconds(lambda: first.score(crops)))
        bare_s.append(_seconds(lambda: bare(_BATCHES)))

    def together() -> None:
        threads = [threading.Thread(target=detector.score, args=(crops,)) for detector in detectors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    together()
    all_s = median(_seconds(together) for _ in range(max(3, rounds)))
    device = first.device
    return {
        "device": {
            "name": device.name,
            "engine": device.engine,
            "precision": device.precision,
            "batch_size": batch,
            "precision_max_difference": device.precision_max_difference,
            "crops_per_s": device.crops_per_s,
        },
        "score_per_s": len(crops) / median(score_s),
        "bare_per_s": len(crops) / median(bare_s),
        "devices": len(detectors),
        "all_per_s": len(detectors) * len(crops) / all_s,
    }


def _bare_loop(detector: Any) -> Any:  # noqa: ANN401 - torch is behind it
    import torch  # noqa: PLC0415

    from dfwatch.inference.fresh import fresh_network  # noqa: PLC0415

    # A detector that fell back to float32 must not be measured against itself.
    precision = detector.device.precision
    dtype = torch.float16 if precision == "float32" else getattr(torch, precision)
    device = torch.device(detector.device.device)
    network: Any = fresh_network(detector.bundle)[0]
    network = network.to(device=device, dtype=dtype, memory_format=torch.channels_last)
    side = detector.bundle.input.size_px
    pixels = torch.randn(detector.device.batch_size, 3, side, side)
    ready = pixels.to(device=device, dtype=dtype, memory_format=torch.channels_last)

    def loop(times: int) -> None:
        with torch.inference_mode():
            for _ in range(times):
                network(ready)
        torch.cuda.synchronize(device)

    return loop


def _seconds(way: Any) -> float:  # noqa: ANN401
    began_s = time.monotonic()
    way()
    return time.monotonic() - began_s


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))))
