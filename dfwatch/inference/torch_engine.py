"""A network run by torch, on any device."""

from __future__ import annotations

import contextlib
import importlib.metadata
import threading
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from dfwatch.inference.heat import heat_maps
from dfwatch.inference.logits import p_fake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from dfwatch.models.facts import InputSpec, OutputSpec


class TorchEngine:
    """Runs batches of one fixed shape; the last one of a call is filled up with black crops.

    With one shape, torch takes the same kernels on every call, so a crop's score does not depend on how many others
    came with it. Whether it depends on its place in the batch is up to those kernels: ``inference.tuning`` checks that.

    Args:
        network: Is moved to ``device`` and ``dtype``.
        device: Where it runs.
        dtype: In which precision.
        batch_size: Crops in one batch.
        input_spec: What the network takes.
        output: What its logits mean.
        graph: Replay each batch as one recorded CUDA graph, instead of starting some hundred kernels one by one.
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
        graph: bool = False,
    ) -> None:
        self.network = network.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device, self.dtype = device, dtype
        self.input_spec, self.output = input_spec, output
        mean = torch.tensor(input_spec.mean, dtype=torch.float64).reshape(1, 3, 1, 1)
        std = torch.tensor(input_spec.std, dtype=torch.float64).reshape(1, 3, 1, 1)
        self._scale = (1.0 / (255.0 * std)).to(device, torch.float32)
        self._shift = (-mean / std).to(device, torch.float32)
        self._wants_graph = graph
        self.resize(batch_size)

    @property
    def runs(self) -> str:
        """See ``Engine``."""
        graph = ", CUDA graph" if self._wants_graph else ""
        return f"torch {importlib.metadata.version('torch')}, channels_last{graph}"

    @property
    def at_once(self) -> int:
        """See ``Engine``."""
        return self.batch_size

    def resize(self, batch_size: int) -> None:
        """Run batches of another size from now on."""
        self.batch_size = batch_size
        shape = (batch_size, self.input_spec.size_px, self.input_spec.size_px, 3)
        # Two staging buffers: while one is on its way to the device, the next batch is laid into the other.
        self._stages = [_Stage(shape, pinned=self.device.type == "cuda") for _ in range(2)]
        self._graph: _Graph | None = None  # recorded with the first batch

    def scores(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Raw p(fake), shape (n,), of RGB crops (n, size_px, size_px, 3); whatever torch raises passes through."""
        results = []
        with torch.inference_mode(), _repeatable(self.device):
            for number, start in enumerate(range(0, len(crops), self.batch_size)):
                chunk = crops[start : start + self.batch_size]
                pixels = self._stages[number % 2].send(chunk, self.device)
                results.append(self._run(pixels)[: len(chunk)])
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

    def _run(self, pixels: Tensor) -> Tensor:
        if not self._wants_graph:
            return self._forward(pixels)
        if self._graph is None:
            self._graph = _Graph(self._forward, pixels)
        return self._graph.replay(pixels)

    def _forward(self, pixels: Tensor) -> Tensor:
        """p(fake) (n,) of pixels (n, side, side, 3), uint8, RGB."""
        logits: Tensor = self.network(self._normalised(pixels)).float()
        return p_fake(logits, self.output)


class _Stage:
    """A buffer in host memory from which a batch is copied to the device, page-locked where that is quicker."""

    def __init__(self, shape: tuple[int, int, int, int], *, pinned: bool) -> None:
        self.buffer = torch.zeros(shape, dtype=torch.uint8, pin_memory=pinned)
        self.pixels = self.buffer.numpy()
        self.copied = torch.cuda.Event() if pinned else None  # type: ignore[no-untyped-call]

    def send(self, chunk: NDArray[np.uint8], device: torch.device) -> Tensor:
        if self.copied is not None:
            self.copied.synchronize()
        self.pixels[: len(chunk)] = chunk
        self.pixels[len(chunk) :] = 0
        if device.type == "cpu":
            return self.buffer
        sent = self.buffer.to(device, non_blocking=self.copied is not None)
        if self.copied is not None:
            # Of this device: an event's own default is the stream of whichever device is the current one.
            self.copied.record(torch.cuda.current_stream(device))
        return sent


class _Graph:
    """The kernels of one batch, recorded once and started together; CUDA only."""

    def __init__(self, forward: Callable[[Tensor], Tensor], pixels: Tensor) -> None:
        self._pixels = pixels.clone()
        device = pixels.device
        # Libraries make their handles and workspaces at the first call, which must not happen while recording.
        beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(beside):
            for _ in range(2):
                forward(self._pixels)
        torch.cuda.current_stream(device).wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        # By default torch records on a stream of whichever device recorded first, and other devices' threads must not
        # make room meanwhile.
        with torch.cuda.graph(self._graph, stream=beside, capture_error_mode="thread_local"):
            self._scores = forward(self._pixels)

    def replay(self, pixels: Tensor) -> Tensor:
        # Copies, replays and the clone follow one another on one stream: no batch overwrites another's.
        self._pixels.copy_(pixels)
        self._graph.replay()
        return self._scores.clone()


@contextlib.contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """On CUDA: the same algorithm each time, and float32 that is float32 instead of TF32's 10 bits."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device), _EXACT:
        yield


class _ExactConvolutions:
    """cuDNN's flags, which hold for the whole process: set by the first thread that enters, reset by the last to leave.

    Were each to reset them by itself, the device that is done first would take them away from those still at work.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._set = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                flags = torch.backends.cudnn.flags
                self._set.enter_context(flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False))
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._set.close()


_EXACT = _ExactConvolutions()
