"""The older pipeline, written anew to be measured against: what it did for each request, in the order it did it.

    load the model · read every frame with cv2 · look for a face once a second · cut the face out of 20 frames spread
    over the clip · the network on one crop at a time, in float32 · softmax · mean

Same weights and same crops as dfwatch. Faces are searched twice and timed apart: with YuNet on the full frame, whose
boxes are used, and with MTCNN, which the older project ran, where facenet-pytorch is installed. That package pins a
torch from years ago but runs with today's (``pip install --no-deps facenet-pytorch``), so it is nobody's dependency.

What favours the baseline: importing its libraries and setting up MTCNN is not counted, and a checkpoint is loaded
without being checked.

Runs as a child process that serves one request after the other: a line of JSON in, a line of JSON out.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.child import REPOSITORY, environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from dfwatch.faces import Detection, FaceFinder
    from dfwatch.models.bundle import Bundle
    from dfwatch.reading import CropSpec

FRAMES = 20
_LIMIT_S = 1800.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of each stage, one after the other; those of the model by the model's path.

    Attributes:
        mtcnn_s: What MTCNN took for the same searches as YuNet; None where it is not installed.
        frames: Frames that were read.
        searches: Frames that were searched for a face.
        crops: Crops that were scored.
    """

    decoding_s: float
    faces_s: float
    mtcnn_s: float | None
    loading_s: dict[str, float]
    inference_s: dict[str, float]
    frames: int
    searches: int
    crops: int

    def total_s(self, model: str, faces_s: float) -> float:
        """What one request took with this model and this face search (``faces_s`` or ``mtcnn_s``)."""
        return self.loading_s[model] + self.decoding_s + faces_s + self.inference_s[model]


class Baseline:
    """The child process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def judge(self, clip: Path, models: Mapping[str, Path]) -> Cost:
        """Judge one clip; with several models, the frames are read once and the other stages made for each."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the baseline has no pipes")
        request = {"clip": str(clip), "models": {name: str(path) for name, path in models.items()}}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        # The child writes whole lines, so that whatever is there is a whole answer.
        if not select.select([self._process.stdout], [], [], _LIMIT_S)[0]:
            raise TimeoutError(f"the baseline did not judge {clip} within {_LIMIT_S:g} s")
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the baseline ended while it judged {clip}")
        return Cost(**json.loads(answer))


@contextmanager
def baseline() -> Iterator[Baseline]:
    """A baseline, ready; ended with the block."""
    command = [sys.executable, "-m", "benchmarks.baseline"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment(OPENCV_LOG_LEVEL="ERROR"), stdin=pipe, stdout=pipe, text=True
    )
    with process:
        try:
            if process.stdout is None or process.stdout.readline() != "ready\n":
                raise RuntimeError("the baseline did not start")
            yield Baseline(process)
        finally:
            process.kill()


def serve() -> None:
    """In the child: answer requests until standard input ends."""
    import torch  # noqa: PLC0415, F401 - heavy, and in the child only; here, so that no request pays for it

    from dfwatch.config import FaceSettings  # noqa: PLC0415
    from dfwatch.faces import FaceFinder  # noqa: PLC0415
    from dfwatch.models.bundle import load_bundle  # noqa: PLC0415

    finder, mtcnn = FaceFinder(FaceSettings()), _mtcnn()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        bundles = {name: load_bundle(path) for name, path in request["models"].items()}
        sys.stdout.write(json.dumps(asdict(_judge(request["clip"], bundles, finder, mtcnn))) + "\n")
        sys.stdout.flush()


def _mtcnn() -> Any:  # noqa: ANN401 - a package that may not be there
    """The older project's face finder; None where its package is not installed."""
    try:
        from facenet_pytorch import MTCNN  # noqa: PLC0415
    except ImportError:
        return None
    return MTCNN(keep_all=True, device="cpu")


def _judge(clip: str, bundles: Mapping[str, Bundle], finder: FaceFinder, mtcnn: Any) -> Cost:  # noqa: ANN401
    loading_s, inference_s = {}, {}
    specs = {name: bundle.crop for name, bundle in bundles.items()}
    crops, frames, searches, decoding_s, faces_s, mtcnn_s = _read(clip, specs, finder, mtcnn)
    for name, bundle in bundles.items():
        began_s = time.monotonic()
        network = _load(bundle)
        loading_s[name] = time.monotonic() - began_s
        began_s = time.monotonic()
        _mean_score(network, crops[name], bundle)
        inference_s[name] = time.monotonic() - began_s
    count = len(next(iter(crops.values())))
    return Cost(
        decoding_s, faces_s, None if mtcnn is None else mtcnn_s, loading_s, inference_s, frames, searches, count
    )


def _read(
    clip: str,
    specs: Mapping[str, CropSpec],
    finder: FaceFinder,
    mtcnn: Any,  # noqa: ANN401
) -> tuple[dict[str, list[NDArray[np.uint8]]], int, int, float, float, float]:
    import cv2  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    from dfwatch.faces import cut_crop  # noqa: PLC0415

    crops: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in specs}
    frames, searches, faces_s, mtcnn_s = 0, 0, 0.0, 0.0
    began_s = time.monotonic()
    capture = cv2.VideoCapture(clip)
    every = max(1, round(capture.get(cv2.CAP_PROP_FPS)))
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    wanted = {int((number + 0.5) * total / FRAMES) for number in range(FRAMES)}
    found: list[Detection] = []
    while True:
        ok, picture = capture.read()
        if not ok:
            break
        frame = np.asarray(picture, np.uint8)
        if frames % every == 0:
            searched_s = time.monotonic()
            found = finder.find(frame, 0.6) or found
            searches += 1
            faces_s += time.monotonic() - searched_s
            if mtcnn is not None:
                searched_s = time.monotonic()
                mtcnn.detect(np.ascontiguousarray(frame[..., ::-1]))
                mtcnn_s += time.monotonic() - searched_s
        if frames in wanted and found:
            colours = np.ascontiguousarray(frame[..., ::-1])
            for name, spec in specs.items():
                crops[name].append(cut_crop(colours, found[0].box, spec))
        frames += 1
    capture.release()
    return crops, frames, searches, time.monotonic() - began_s - faces_s - mtcnn_s, faces_s, mtcnn_s


def _load(bundle: Bundle) -> Any:  # noqa: ANN401 - a torch module, and torch is the child's
    import torch  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    from dfwatch.models.architectures import build  # noqa: PLC0415

    network = build(bundle.architecture, bundle.architecture_options, num_outputs=bundle.output.num_outputs)
    path = bundle.weights_path
    if path.suffix == ".safetensors":
        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict(state)
    return network.float().eval()


def _mean_score(network: Any, crops: list[NDArray[np.uint8]], bundle: Bundle) -> float:  # noqa: ANN401
    import torch  # noqa: PLC0415

    spec, output = bundle.input, bundle.output
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (spec.mean, spec.std))
    scores = []
    with torch.no_grad():
        for crop in crops:
            colours = crop[..., ::-1].copy() if spec.channel_order == "bgr" else crop
            pixels = torch.from_numpy(colours).permute(2, 0, 1).unsqueeze(0).float() / 255.0
            logits = network((pixels - mean) / std)
            scores.append(float(torch.softmax(logits, dim=1)[0, output.fake_index]))
    return sum(scores) / max(1, len(scores))


if __name__ == "__main__":
    serve()
