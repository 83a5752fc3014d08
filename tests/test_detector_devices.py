"""The choice of a device, with torch's own answers replaced: no machine has every kind."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from dfwatch import detector
from dfwatch.config import ModelSettings
from dfwatch.detector import Detector, DeviceInfo
from dfwatch.errors import DeviceError, ModelError
from dfwatch.inference import devices
from dfwatch.inference.devices import DeviceChoice, choose_device, choose_devices
from dfwatch.inference.group import DetectorGroup
from dfwatch.inference.torch_engine import TorchEngine, _Graph

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def set_up(kind: str, *, count: int = 1, failure: str = "", names: Sequence[str] = ()) -> None:
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device(kind))
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
        monkeypatch.setattr(devices, "_try_out", lambda _device: failure)
        monkeypatch.setattr(
            devices, "_accelerator_name", lambda device: names[device.index] if names else f"Pretended {device}"
        )

    return set_up


@pytest.mark.parametrize("kind", ["cuda", "xpu", "mps"])
def test_auto_takes_the_accelerator_there_is(pretend: Callable[..., None], kind: str) -> None:
    pretend(kind)
    choice = choose_device("auto")
    assert (str(choice.device), choice.name) == (f"{kind}:0", f"Pretended {kind}:0")
    assert choice.reason == "it is the accelerator that torch found"


def test_auto_says_that_there_are_more(pretend: Callable[..., None]) -> None:
    pretend("cuda", count=4)
    assert choose_device("auto").reason.endswith("the first of 4")


def test_auto_falls_back_to_the_cpu_and_says_why(pretend: Callable[..., None]) -> None:
    pretend("cuda", failure="no kernel image is available")
    choice = choose_device("auto")
    assert choice.device.type == "cpu"
    assert choice.reason == "Pretended cuda:0 is there but does not work: no kernel image is available"


def test_a_named_device_is_taken_or_refused(pretend: Callable[..., None]) -> None:
    pretend("cuda", count=2)
    assert str(choose_device("cuda").device) == "cuda:0"
    second = choose_device("cuda:1")
    assert (str(second.device), second.reason) == ("cuda:1", "the configuration asks for cuda:1")
    assert choose_device("cpu").device.type == "cpu"
    with pytest.raises(DeviceError, match="has 2 cuda") as caught:
        choose_device("cuda:2")
    assert caught.value.hint == "the highest is cuda:1"
    with pytest.raises(DeviceError, match="without mps"):
        choose_device("mps")


def test_a_named_device_that_does_not_work_is_refused(pretend: Callable[..., None]) -> None:
    pretend("cuda", failure="driver too old")
    with pytest.raises(DeviceError, match="driver too old"):
        choose_device("cuda")


def test_a_device_is_tried_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("meta"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    monkeypatch.setattr(devices, "_accelerator_name", lambda _device: "a device that computes nothing")
    choice = choose_device("auto")
    assert choice.device.type == "cpu"
    assert choice.reason.startswith("a device that computes nothing is there but does not work: ")


def test_an_error_of_the_device_may_pass_and_one_of_the_cpu_does_not() -> None:
    from tests.models.seeded import example_bundle

    class Broken:
        """An engine whose device fails in mid-work."""

        batch_size = 8

        def __init__(self, device: str) -> None:
            self.device = torch.device(device)

        def scores(self, _crops: object) -> None:
            raise RuntimeError("CUDA error: unspecified launch failure\nmore lines")

    for device, kind, retryable in (("cuda:0", DeviceError, True), ("cpu", ModelError, False)):
        info = DeviceInfo(device, "Pretended", "", "float32", 0.0, 8, True, 1, "torch", 0)
        detector = Detector(example_bundle(), Broken(device), info)
        with pytest.raises(kind, match="unspecified launch failure") as caught:
            detector.score(torch.zeros((1, 64, 64, 3), dtype=torch.uint8).numpy())
        assert caught.value.retryable is retryable
        assert "more lines" not in str(caught.value)


def test_without_a_number_all_devices_that_are_alike_are_taken(pretend: Callable[..., None]) -> None:
    pretend("cuda", count=4, names=["A", "B", "A", "A"])
    for setting, expected in (
        ("cuda", ["cuda:0", "cuda:2", "cuda:3"]),
        ("auto", ["cuda:0", "cuda:2", "cuda:3"]),
        ("cuda:3", ["cuda:3"]),
        ("cpu", ["cpu"]),
    ):
        assert [str(choice.device) for choice in choose_devices(setting)] == expected


class Lane:
    """A detector that tells which crops it was given."""

    def __init__(self, number: int, batch_size: int = 4) -> None:
        self.device = DeviceInfo(f"cuda:{number}", "A", "said so", "float32", 0.0, batch_size, True, 1, "torch", 0)
        self.calls: list[int] = []
        self.error: Exception | None = None

    def score(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.calls.append(len(crops))
        if self.error is not None:
            raise self.error
        return crops[:, 0, 0, 0].astype(np.float32)


@pytest.mark.parametrize(
    ("count", "calls"), [(0, [0, None]), (3, [3, None]), (5, [4, 1]), (8, [4, 4]), (11, [8, 3]), (16, [8, 8])]
)
def test_a_group_shares_whole_batches_and_keeps_their_order(count: int, calls: list[int | None]) -> None:
    lanes = [Lane(0), Lane(1)]
    crops = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 2, 2, 3))
    group = DetectorGroup(lanes)
    assert group.score(crops).tolist() == list(range(count))
    assert [lane.calls[0] if lane.calls else None for lane in lanes] == calls
    assert (group.device.device, group.device.reason) == ("cuda:0", "said so, beside cuda:1, which are alike")


def test_a_device_that_fails_fails_the_group() -> None:
    lanes = [Lane(0), Lane(1)]
    lanes[1].error = DeviceError("scoring", "cuda:1", "it was lost", retryable=True)
    with pytest.raises(DeviceError, match="it was lost"):
        DetectorGroup(lanes).score(np.zeros((8, 2, 2, 3), np.uint8))
    assert lanes[0].calls == [4]


def test_a_device_with_less_room_gives_all_of_them_smaller_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.models.seeded import example_bundle, seeded_bundle

    # To torch, every number of a CPU is the CPU.
    alike = [DeviceChoice(torch.device("cpu", number), "A", "said so") for number in range(3)]
    monkeypatch.setattr(detector, "choose_devices", lambda _setting: alike)
    room = {0: 64, 1: 2, 2: 64}
    scores = TorchEngine.scores

    def filled(engine: TorchEngine, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        if engine.batch_size > room[engine.device.index or 0]:
            raise torch.OutOfMemoryError("another program fills the device")
        return scores(engine, crops)

    monkeypatch.setattr(TorchEngine, "scores", filled)
    bundle = seeded_bundle(tmp_path / "bundle", example_bundle())
    settings = ModelSettings(device="cuda", engine="torch", precision="float32", threads=1)
    detectors = Detector.load_all(bundle, settings)
    assert [lane.device.batch_size for lane in detectors] == [2, 2, 2]
    crops = np.random.default_rng(0).integers(0, 255, (13, 64, 64, 3), np.uint8)
    together = DetectorGroup(detectors).score(crops)
    assert np.array_equal(together, detectors[0].score(crops))

    room[1] = 0
    with pytest.raises(DeviceError, match="out of memory"):
        Detector.load_all(bundle, settings)


class Staged:
    """A staging buffer without page-locked memory."""

    def send(self, chunk: NDArray[np.uint8], _device: torch.device) -> torch.Tensor:
        return torch.from_numpy(chunk)


def test_a_device_that_is_done_first_leaves_the_others_their_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two CUDA devices, as far as the engine knows; cuDNN's flags are there without one."""
    from tests.models.seeded import example_bundle

    bundle, cudnn = example_bundle(), torch.backends.cudnn
    began, done = threading.Event(), threading.Event()
    seen: dict[str, tuple[bool, bool]] = {}

    class Network(torch.nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            if self.name == "first":
                assert began.wait(30)
            else:
                began.set()
                assert done.wait(30)
            seen[self.name] = (cudnn.allow_tf32, cudnn.deterministic)
            return torch.zeros(len(pixels), 2)

    def score(name: str) -> None:
        facts: dict[str, Any] = {"input_spec": bundle.input, "output": bundle.output}
        engine = TorchEngine(Network(name), device=torch.device("cpu"), dtype=torch.float32, batch_size=1, **facts)
        monkeypatch.setattr(engine, "device", torch.device("cuda:0"))
        monkeypatch.setattr(engine, "_stages", [Staged()])
        engine.scores(np.zeros((1, 64, 64, 3), np.uint8))
        if name == "first":
            done.set()

    monkeypatch.setattr(torch.cuda, "device", lambda _device: contextlib.nullcontext())
    before = (cudnn.allow_tf32, cudnn.deterministic)
    with ThreadPoolExecutor(2) as lanes:
        for lane in [lanes.submit(score, name) for name in ("first", "second")]:
            lane.result()
    assert seen == {"first": (False, True), "second": (False, True)}
    assert (cudnn.allow_tf32, cudnn.deterministic) == before != (False, True)


def test_each_device_records_its_graph_on_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """With CUDA's part played: torch would record on a stream of the device that came first, and find nothing there."""

    class Stream:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def wait_stream(self, _other: Stream) -> None:
            pass

    class Graph:
        pass

    recorded: list[tuple[torch.device, str]] = []

    def record(_graph: Graph, *, stream: Stream, capture_error_mode: str) -> contextlib.AbstractContextManager[None]:
        recorded.append((stream.device, capture_error_mode))
        return contextlib.nullcontext()

    for name, played in {
        "Stream": Stream,
        "stream": lambda _stream: contextlib.nullcontext(),
        "current_stream": Stream,
        "CUDAGraph": Graph,
        "graph": record,
    }.items():
        monkeypatch.setattr(torch.cuda, name, played)
    both = [torch.device("cuda", number) for number in range(2)]
    for device in both:
        pixels: Any = SimpleNamespace(device=device, clone=lambda: None)
        _Graph(lambda given: given, pixels)
    assert recorded == [(device, "thread_local") for device in both]
