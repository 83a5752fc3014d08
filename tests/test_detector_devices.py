"""The choice of a device, with torch's own answers replaced: no machine has every kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from dfwatch.errors import DeviceError, ModelError
from dfwatch.inference import devices
from dfwatch.inference.devices import choose_device

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def set_up(kind: str, *, count: int = 1, failure: str = "") -> None:
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device(kind))
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
        monkeypatch.setattr(devices, "_try_out", lambda _device: failure)
        monkeypatch.setattr(devices, "_accelerator_name", lambda device: f"Pretended {device}")

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
    from dfwatch.detector import Detector, DeviceInfo
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
