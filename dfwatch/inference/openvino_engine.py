"""A network run by OpenVINO on the CPU: a crop on each core, all cores at once. Needs the extra ``openvino``.

On Intel's and AMD's processors its convolutions are quicker than torch's. It splits no batch among cores: each stream
takes the next crop by itself, waits for no other, and a crop's score cannot depend on its neighbours, for it has none.
"""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING

import numpy as np
import openvino
import torch

from dfwatch.inference.logits import p_fake
from dfwatch.inference.openvino_graph import translate

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import nn

    from dfwatch.inference.torch_engine import TorchEngine
    from dfwatch.models.facts import InputSpec, OutputSpec

_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_CORE_LOCK = threading.Lock()


class OpenVINOEngine:
    """See ``inference.engine.Engine``.

    Args:
        network: Float32, on the CPU, batch norm folded. Not kept.
        precision: ``float32``, ``bfloat16`` or ``float16``.
        batch_size: Crops in one batch; 1 was as quick as any (docs/models.md).
        threads: So many batches are computed at once, by a core each.
        input_spec: What the network takes.
        output: What its logits mean.
        explain: Makes the torch engine that draws heat maps; called when the first is wanted.

    Raises:
        LookupError: The network holds something that is not translated.
        RuntimeError: OpenVINO does not take it.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        precision: str,
        batch_size: int,
        threads: int,
        input_spec: InputSpec,
        output: OutputSpec,
        explain: Callable[[], TorchEngine],
    ) -> None:
        self.input_spec, self.output = input_spec, output
        self.device = torch.device("cpu")
        self.batch_size = batch_size
        self._explain = functools.cache(explain)
        properties = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": threads,
            # The cores are shared with decoders: a thread that is tied to a busy core waits for it.
            "ENABLE_CPU_PINNING": False,
        }
        compiled = _core().compile_model(translate(network, input_spec, batch_size), "CPU", properties)
        self.streams = int(compiled.get_property("NUM_STREAMS"))
        self._requests = [compiled.create_infer_request() for _ in range(self.streams)]

    @property
    def runs(self) -> str:
        """See ``Engine``."""
        return f"openvino {openvino.__version__.split('-')[0]}, {self.streams} streams"

    @property
    def at_once(self) -> int:
        """See ``Engine``."""
        return self.batch_size * self.streams

    def scores(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See ``Engine``."""
        logits = np.empty((len(crops), self.output.num_outputs), np.float32)
        running: list[slice | None] = [None] * self.streams
        for number, start in enumerate(range(0, len(crops), self.batch_size)):
            place = number % self.streams
            self._collect(place, running, logits)
            chunk = crops[start : start + self.batch_size]
            pixels = self._requests[place].get_input_tensor().data
            pixels[: len(chunk)] = chunk
            pixels[len(chunk) :] = 0
            self._requests[place].start_async()
            running[place] = slice(start, start + len(chunk))
        for place in range(self.streams):
            self._collect(place, running, logits)
        scores: NDArray[np.float32] = p_fake(torch.from_numpy(logits), self.output).numpy()
        return scores

    def heat_maps(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See ``Engine``; by torch, in float32."""
        return self._explain().heat_maps(crops)

    def _collect(self, place: int, running: list[slice | None], logits: NDArray[np.float32]) -> None:
        """Wait for what runs in this place, if anything, and take its logits."""
        rows = running[place]
        if rows is not None:
            self._requests[place].wait()
            logits[rows] = self._requests[place].get_output_tensor().data[: rows.stop - rows.start]
            running[place] = None


def _core() -> openvino.Core:
    with _CORE_LOCK:
        return _only_core()


@functools.cache
def _only_core() -> openvino.Core:
    """The process's one core, never destroyed, its plugin loaded by a thread that does nothing else.

    On CPUs with large registers OpenVINO gives the loading thread another stack for signal handlers (sigaltstack), and
    takes it away when the core is destroyed. After a second core, the main thread's handlers ran on freed memory.
    """
    made: list[openvino.Core | BaseException] = []

    def make() -> None:
        try:
            core = openvino.Core()
            core.get_property("CPU", "FULL_DEVICE_NAME")  # loads the plugin
            made.append(core)
        except BaseException as exc:  # noqa: BLE001 - raised again by the thread that asked
            made.append(exc)

    thread = threading.Thread(target=make, name="openvino")
    thread.start()
    thread.join()
    if isinstance(made[0], BaseException):
        raise made[0]
    return made[0]
