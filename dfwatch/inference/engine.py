"""One network on one device, in one precision and one batch size: crops in, raw p(fake) out."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from dfwatch.inference.heat import heat_maps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from dfwatch.models.facts import InputSpec, OutputSpec


class Engine:
    """Runs batches of one fixed shape; the last one of a call is filled up with black crops.

    With one shape, torch takes the same kernels on every call, so a crop's score does not depend on how many others
    came with it. Whether it depends on its place in the batch is up to those kernels: ``inference.tuning`` checks that.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        device: torch.device,
        dtype: torch.dtype,
        batch_size: int,
        input_spec: InputSpec,
        output: OutputSpec,
    ) -> None:
        self.network = network.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device, self.dtype = device, dtype
        self.input_spec, self.output = input_spec, output
        mean = torch.tensor(input_spec.mean, dtype=torch.float64).reshape(1, 3, 1, 1)
        std = torch.tensor(input_spec.std, dtype=torch.float64).reshape(1, 3, 1, 1)
        self._scale = (1.0 / (255.0 * std)).to(device, torch.float32)
        self._shift = (-mean / std).to(device, torch.float32)
        self.resize(batch_size)

    def resize(self, batch_size: int) -> None:
        """Run batches of another size from now on."""
        self.batch_size = batch_size
        shape = (batch_size, self.input_spec.size_px, self.input_spec.size_px, 3)
        # Two staging buffers: while one is on its way to the device, the next batch is laid into the other.
        self._stages = [_Stage(shape, pinned=self.device.type == "cuda") for _ in range(2)]

    def scores(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Raw p(fake), shape (n,), of RGB crops (n, size_px, size_px, 3); whatever torch raises passes through."""
        results = []
        with torch.inference_mode(), _repeatable(self.device):
            for number, start in enumerate(range(0, len(crops), self.batch_size)):
                chunk = crops[start : start + self.batch_size]
                pixels = self._stages[number % 2].send(chunk, self.device)
                results.append(self._forward(pixels)[: len(chunk)])
            if not results:
                return np.empty(0, np.float32)
            scores: NDArray[np.float32] = torch.cat(results).cpu().numpy()
        return scores

    def heat_maps(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 (n, side, side), 0 to 1: see ``inference.heat``; whatever torch raises passes through."""
        results = []
        with _repeatable(self.device):
            for start in range(0, len(crops), self.batch_size):
                chunk = torch.from_numpy(np.array(crops[start : start + self.batch_size])).to(self.device)
                results.append(heat_maps(self.network, self._normalised(chunk), self.output))
        side = self.input_spec.size_px
        return np.concatenate(results) if results else np.empty((0, side, side), np.float32)

    def _normalised(self, pixels: Tensor) -> Tensor:
        """What the network takes of pixels (n, side, side, 3), uint8, RGB."""
        if self.input_spec.channel_order == "bgr":
            pixels = pixels.flip(3)
        # The permuted view is already laid out as channels_last: no copy.
        x = pixels.permute(0, 3, 1, 2).float() * self._scale + self._shift
        return x.to(self.dtype)

    def _forward(self, pixels: Tensor) -> Tensor:
        """p(fake) (n,) of pixels (n, side, side, 3), uint8, RGB."""
        logits: Tensor = self.network(self._normalised(pixels)).float()
        if self.output.kind == "softmax":
            return logits.softmax(dim=1)[:, self.output.fake_index]
        # sigmoid(-z) instead of 1 - sigmoid(z) keeps small values exact.
        return torch.sigmoid(logits[:, 0] if self.output.fake_index == 1 else -logits[:, 0])


class _Stage:
    """A buffer in host memory from which a batch is copied to the device, page-locked where that is quicker."""

    def __init__(self, shape: tuple[int, int, int, int], *, pinned: bool) -> None:
        self.buffer = torch.zeros(shape, dtype=torch.uint8, pin_memory=pinned)
        self.pixels = self.buffer.numpy()
        self.copied = torch.Event(device="cuda") if pinned else None

    def send(self, chunk: NDArray[np.uint8], device: torch.device) -> Tensor:
        if self.copied is not None:
            self.copied.synchronize()
        self.pixels[: len(chunk)] = chunk
        self.pixels[len(chunk) :] = 0
        if device.type == "cpu":
            return self.buffer
        sent = self.buffer.to(device, non_blocking=self.copied is not None)
        if self.copied is not None:
            self.copied.record()
        return sent


@contextlib.contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """On CUDA: the same algorithm each time, and float32 that is float32 instead of TF32's 10 bits."""
    if device.type != "cuda":
        yield
        return
    with (
        torch.cuda.device(device),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
    ):
        yield
