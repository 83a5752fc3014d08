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
    fastest = max((rate, way) for way, rate in first.crops_per_s.items() if way not in first.passed_over)[1]
    return {
        "tried": sorted(first.crops_per_s),
        "fastest": fastest,
        "taken": f"{first.engine.partition(' ')[0]} {first.precision}",
        "again": [second.measured, dataclasses.replace(second, measured="now") == first],
        "without": without.engine,
    }


class Small(torch.nn.Module):
    """What the larger networks are made of, in a size that costs nothing."""

    def __init__(self, num_outputs: int = 2) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(8)
        self.relu = torch.nn.ReLU(inplace=True)
        self.pool = torch.nn.MaxPool2d(3, stride=2, padding=1)
        self.conv2 = torch.nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.lstm = torch.nn.LSTM(8, 8)
        self.average = torch.nn.AdaptiveAvgPool2d(1)
        self.classifier = torch.nn.Linear(8, num_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.relu(self.bn1(self.conv1(x))))
        y = self.conv2(x)
        y += x
        features = self.average(self.relu(y)).flatten(1)
        gates = torch.nn.functional.linear(features, self.lstm.weight_ih_l0, self.lstm.bias_ih_l0)
        in_gate, _, cell, out_gate = (gates + self.lstm.bias_hh_l0).chunk(4, dim=1)
        return self.classifier(out_gate.sigmoid() * torch.tanh(in_gate.sigmoid() * cell.tanh()))


class Odd(torch.nn.Module):
    """Holds a layer that is not translated."""

    def __init__(self, num_outputs: int = 2) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, num_outputs, 3)
        self.odd = torch.nn.Softsign()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.odd(self.conv(x)).mean(dim=(2, 3))


def refused(folder: Path) -> dict[str, str]:
    """A network that cannot be translated, and a device that OpenVINO does not run on here."""
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
    architectures.BUILDERS = {**architectures.BUILDERS, "small": Small, "odd": Odd}
    before = signal_stack()
    one_logit = OutputSpec(kind="sigmoid", label_order=("FAKE", "REAL"))
    bgr = InputSpec(size_px=64, channel_order="bgr", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    found = {
        "lite": compared(folder, "efficientnet_lite0", input=bgr, output=one_logit),
        "small": compared(folder, "small"),
        "chosen": chosen(folder),
        "refused": refused(folder),
        "heavy": [name for name in ("torchvision", "timm", "scipy", "matplotlib", "nncf") if name in sys.modules],
        "signal_stack_kept": before is not None and signal_stack() == before,
    }
    found["reporters"] = [
        name for name, module in sys.modules.items() if name.startswith("openvino_telemetry") and module is not None
    ]
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
