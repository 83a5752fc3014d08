"""In a process of its own, ``python -m tests.openvino_process FOLDER``: what OpenVINO does, as one JSON object.

OpenVINO never gets into pytest's own process: its threads do not survive what a test suite does to a process, and on
some CPUs it exchanges the stack that signal handlers run on.
"""

from __future__ import annotations

import ctypes
import dataclasses
import faulthandler
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from dfwatch.inference.openmp import let_threads_sleep

faulthandler.enable()  # the stack for signal handlers is now faulthandler's
let_threads_sleep()

import numpy as np  # noqa: E402
import torch  # noqa: E402

from dfwatch.config import ModelSettings  # noqa: E402
from dfwatch.detector import Detector  # noqa: E402
from dfwatch.errors import DfwatchError  # noqa: E402
from dfwatch.inference import candidates  # noqa: E402
from dfwatch.inference.probe_faces import probe_faces  # noqa: E402
from dfwatch.models import architectures  # noqa: E402
from dfwatch.models.bundle import InputSpec, OutputSpec, write_bundle  # noqa: E402
from tests.models.seeded import example_bundle, seeded_bundle  # noqa: E402

OPENVINO = ModelSettings(device="cpu", engine="openvino", precision="float32", threads=2)
TORCH = dataclasses.replace(OPENVINO, engine="torch")


class _Stack(ctypes.Structure):
    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack() -> int | None:
    stack = _Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    return stack.start


def compared(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    """A network of either output, channel order and label order, by OpenVINO and by torch."""
    bundle = seeded_bundle(folder / name, example_bundle(name, **changes))
    crops = probe_faces(9, bundle.crop)
    mine, theirs = Detector.load(bundle, OPENVINO), Detector.load(bundle, TORCH)
    scores, expected = mine.score(crops), theirs.score(crops)
    order = np.random.default_rng(0).permutation(len(crops))
    return {
        "engine": mine.device.engine,
        "said_difference": mine.device.precision_max_difference,
        "difference": float(np.abs(scores - expected).max()),
        "spread": float(np.ptp(expected)),
        "same_when_shuffled": bool(np.array_equal(mine.score(crops[order]), scores[order])),
        "same_alone": bool(np.array_equal(mine.score(crops[4:5]), scores[4:5])),
        "none": list(mine.score(crops[:0]).shape),
        "heat_difference": float(np.abs(mine.heat_maps(crops[:2]) - theirs.heat_maps(crops[:2])).max()),
        "invariant": mine.device.batch_invariant,
    }


def chosen(folder: Path) -> dict[str, Any]:
    """What auto chooses at a first and a second start, with the extra and without."""
    bundle = seeded_bundle(folder / "auto", example_bundle())
    settings = ModelSettings(device="cpu", threads=2)
    first, second = (Detector.load(bundle, settings, cache_dir=folder / "cache").device for _ in range(2))
    found = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *rest: None if name == "openvino" else found(name, *rest)
    try:
        without = Detector.load(bundle, settings, cache_dir=folder / "cache").device
    finally:
        importlib.util.find_spec = found
    fastest = max(
        (rate, way) for way, rate in first.crops_per_s.items() if way not in first.passed_over
    )[1]
    return {
        "tried": sorted(first.crops_per_s),
        "fastest": fastest,
        "taken": f"{first.engine.partition(' ')[0]} {first.precision}",
        "again": [second.measured, dataclasses.replace(second, measured="now") == first],
        "without": without.engine,
    }


def refused(folder: Path) -> dict[str, str]:
    """A network that cannot be translated, and a device that OpenVINO does not run on here."""
    class Odd(torch.nn.Module):
        def __init__(self, num_outputs: int = 2) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, num_outputs, 3)
            self.odd = torch.nn.Softsign()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.odd(self.conv(x)).mean(dim=(2, 3))

    architectures.BUILDERS = {**architectures.BUILDERS, "odd": Odd}
    odd = write_bundle(folder / "odd", example_bundle("odd"), Odd().state_dict())
    messages = {}
    try:
        Detector.load(odd, OPENVINO)
    except DfwatchError as error:
        messages["odd"] = str(error)
    taken = Detector.load(odd, dataclasses.replace(OPENVINO, engine="auto")).device
    messages["odd auto"] = taken.engine
    messages["odd why"] = taken.passed_over.get("openvino float32", "")
    try:
        candidates.candidates(torch.device("cuda:0"), OPENVINO)
    except DfwatchError as error:
        messages["cuda"] = str(error)
    return messages


def main(folder: Path) -> None:
    before = signal_stack()
    one_logit = OutputSpec(kind="sigmoid", label_order=("FAKE", "REAL"))
    bgr = InputSpec(size_px=64, channel_order="bgr", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    found = {
        "lite": compared(folder, "efficientnet_lite0", input=bgr, output=one_logit),
        "lstm": compared(folder, "resnext50_lstm", architecture_options={"lstm_bias": True}),
        "chosen": chosen(folder),
        "refused": refused(folder),
        "signal_stack_kept": before is not None and signal_stack() == before,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
