"""What dfwatch is compared to: reading alone, scoring alone, the network's forward pass alone.

Reading is done by real reader processes. Whatever needs torch runs in a child process of its own (``python -m
benchmarks.bare``), so that neither its threads nor its memory stand in the way of what is measured next.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.child import found_by
from dfwatch.config import FaceSettings, ModelSettings, ReaderSettings
from dfwatch.models.bundle import load_bundle
from dfwatch.reader import Reader
from dfwatch.storage.source import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from dfwatch.models.bundle import Bundle

_MODULE = "benchmarks.bare"
FRAMES = 20
_CHILD_LIMIT_S = 600.0
_SCORED = 192
# Of torch's loop: with more crops at once it is no faster on two cores (docs/models.md).
_TORCH_BATCH = 8


def read_all(paths: Sequence[Path], model: Path, processes: int) -> tuple[float, NDArray[np.uint8]]:
    """Read files with so many reader processes, and nothing else; returns seconds and all crops."""
    crop = load_bundle(model).crop
    left = list(paths)[::-1]
    crops: list[NDArray[np.uint8]] = []
    failures: list[BaseException] = []
    readers = [Reader(ReaderSettings(processes=processes), FaceSettings()) for _ in range(processes)]

    def work(reader: Reader) -> None:
        try:
            while True:
                try:
                    path = left.pop()
                except IndexError:
                    return
                fd, _ = open_regular(str(path), path.name)
                with open(fd, "rb", buffering=0) as file:
                    crops.append(reader.read(file.fileno(), crop).crops)
        except BaseException as error:
            failures.append(error)
            raise

    try:
        for reader in readers:
            reader.start()
        threads = [threading.Thread(target=work, args=(reader,)) for reader in readers]
        began_s = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - began_s
    finally:
        for reader in readers:
            reader.close()
    if failures:
        raise failures[0]
    return seconds, np.concatenate(crops)


def score_all(crops: NDArray[np.uint8], model: Path, folder: Path) -> dict[str, Any]:
    """Score crops with the detector that a daemon would use, and nothing else: ``seconds`` and its ``device``."""
    path = folder / "crops.npy"
    np.save(path, crops)
    return found_by(_MODULE, "score", str(model), str(folder), str(path), limit_s=_CHILD_LIMIT_S)


def forward(model: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Crops a second of ``Detector.score`` and of bare loops; milliseconds for 20 crops in several ways."""
    return found_by(_MODULE, "forward", str(model), str(folder), str(rounds), limit_s=_CHILD_LIMIT_S)


# -- in the child ------------------------------------------------------------------------------------------------------


def main(arguments: list[str]) -> None:
    """Run one task, and print what it gives as JSON."""
    from dfwatch.inference.openmp import let_threads_sleep  # noqa: PLC0415

    let_threads_sleep()
    task, model, folder, last = arguments
    if task == "forward":
        found = _measure_forward(load_bundle(model), Path(folder), int(last))
    else:
        found = _measure_score(load_bundle(model), Path(folder), np.load(last))
    print(json.dumps(found))


def _measure_score(bundle: Bundle, folder: Path, crops: NDArray[np.uint8]) -> dict[str, Any]:
    from dfwatch.detector import Detector  # noqa: PLC0415

    detector = Detector.load(bundle, ModelSettings(), cache_dir=folder)
    detector.score(crops[: 2 * detector.device.batch_size])
    began_s = time.monotonic()
    detector.score(crops)
    return {"seconds": time.monotonic() - began_s, "device": _device(detector.device)}


def _device(device: Any) -> dict[str, Any]:  # noqa: ANN401 - torch is behind it
    return {
        "engine": device.engine,
        "precision": device.precision,
        "batch_size": device.batch_size,
        "threads": device.threads,
        "precision_max_difference": device.precision_max_difference,
        "crops_per_s": device.crops_per_s,
    }


def _measure_forward(bundle: Bundle, folder: Path, rounds: int) -> dict[str, Any]:
    from dfwatch.detector import Detector  # noqa: PLC0415

    side = bundle.input.size_px
    detector = Detector.load(bundle, ModelSettings(), cache_dir=folder)
    crops = np.random.default_rng(5).integers(0, 256, (_SCORED, side, side, 3), dtype=np.uint8)
    few = crops[:FRAMES]
    ways = _ways(bundle)
    ways["detector.score, as the daemon runs it"] = lambda: detector.score(few)
    milliseconds = {name: 1e3 * _median_s(way, rounds) for name, way in ways.items()}
    batch = detector.device.batch_size
    openvino = detector.device.engine.startswith("openvino")
    bare = _openvino_loop(detector, batch) if openvino else _torch_loop(detector, batch)
    torch_loop = _torch_loop(detector, _TORCH_BATCH)
    # In turns, so that whatever else runs on the machine slows all of them.
    taken: dict[str, list[float]] = {"score": [], "bare": [], "torch": []}
    for number in range(1 + rounds):
        for name, way in (
            ("score", lambda: detector.score(crops)),
            ("bare", lambda: bare(_SCORED // batch)),
            ("torch", lambda: torch_loop(_SCORED // _TORCH_BATCH)),
        ):
            seconds = _seconds(way)
            if number:  # the first turn warms up
                taken[name].append(seconds)
    return {
        "milliseconds": milliseconds,
        "score_per_s": _SCORED / median(taken["score"]),
        "bare_per_s": _SCORED // batch * batch / median(taken["bare"]),
        "torch_per_s": _SCORED / median(taken["torch"]),
        "device": _device(detector.device),
    }


def _ways(bundle: Bundle) -> dict[str, Callable[[], object]]:
    """Ways to run the network on 20 ready crops with torch, the older pipeline's first."""
    import torch  # noqa: PLC0415

    from dfwatch.inference.fresh import fresh_network  # noqa: PLC0415
    from dfwatch.inference.processor import has_bfloat16  # noqa: PLC0415
    from dfwatch.models.checkpoints import load_network  # noqa: PLC0415

    ready = torch.randn(FRAMES, 3, bundle.input.size_px, bundle.input.size_px)

    def way(network: Any, step: int, dtype: Any, *, last: bool) -> Callable[[], object]:  # noqa: ANN401
        layout = torch.channels_last if last else torch.contiguous_format
        network = network.to(dtype=dtype, memory_format=layout)
        pixels = ready.to(dtype=dtype, memory_format=layout)

        def loop() -> None:
            with torch.inference_mode():
                for start in range(0, FRAMES, step):
                    network(pixels[start : start + step])

        return loop

    single, half = torch.float32, torch.bfloat16
    found = {
        "frame by frame, float32": way(load_network(bundle), 1, single, last=False),
        "20 at once, float32": way(load_network(bundle), FRAMES, single, last=False),
        "20 at once, float32, channels_last, norms folded": way(fresh_network(bundle)[0], FRAMES, single, last=True),
    }
    if has_bfloat16():
        found |= {
            "20 at once, bfloat16, channels_last": way(load_network(bundle), FRAMES, half, last=True),
            "20 at once, bfloat16, channels_last, norms folded": way(fresh_network(bundle)[0], FRAMES, half, last=True),
        }
    return found


def _torch_loop(detector: Any, batch: int) -> Callable[[int], None]:  # noqa: ANN401 - torch is behind it
    """A loop over one ready batch in the detector's own precision, without pixels, checks or results."""
    import torch  # noqa: PLC0415

    from dfwatch.inference.fresh import fresh_network  # noqa: PLC0415

    dtype, device = getattr(torch, detector.device.precision), torch.device(detector.device.device)
    network: Any = fresh_network(detector.bundle)[0]
    network = network.to(device=device, dtype=dtype, memory_format=torch.channels_last)
    side = detector.bundle.input.size_px
    pixels = torch.randn(batch, 3, side, side).to(device=device, dtype=dtype, memory_format=torch.channels_last)

    def loop(times: int) -> None:
        with torch.inference_mode():
            for _ in range(times):
                network(pixels)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return loop


def _openvino_loop(detector: Any, batch: int) -> Callable[[int], None]:  # noqa: ANN401
    """The same with OpenVINO: ready requests on every core, started again as soon as they are done."""
    from dfwatch.inference.silence import silence_openvino  # noqa: PLC0415

    silence_openvino()
    import openvino  # noqa: PLC0415

    from dfwatch.inference.fresh import fresh_network  # noqa: PLC0415
    from dfwatch.inference.openvino_graph import translate  # noqa: PLC0415

    hint = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[detector.device.precision]
    threads = detector.device.threads
    properties = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": threads}
    model = translate(fresh_network(detector.bundle)[0], detector.bundle.input, batch)
    compiled = openvino.Core().compile_model(model, "CPU", properties)
    requests = [compiled.create_infer_request() for _ in range(threads)]

    def loop(times: int) -> None:
        for number in range(times):
            request = requests[number % threads]
            request.wait()
            request.start_async()
        for request in requests:
            request.wait()

    return loop


def _median_s(way: Any, rounds: int) -> float:  # noqa: ANN401
    way()
    return median(_seconds(way) for _ in range(max(3, rounds)))


def _seconds(way: Any) -> float:  # noqa: ANN401
    began_s = time.monotonic()
    way()
    return time.monotonic() - began_s


if __name__ == "__main__":
    main(sys.argv[1:])
