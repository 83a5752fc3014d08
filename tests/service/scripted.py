"""The real service with a scripted reader and model: what happens to a file is written in the file.

A "video" is a line of text: ``fake``, ``real``, ``unsure``, ``noface``, ``slow SECONDS``, ``corrupt``, ``refused``,
``sick`` (its bytes cannot be read), ``crash`` (its reader's process always dies), ``die`` (the whole service dies while
it is read), ``defect`` (the service meets a bug), ``poison`` (its crops break the model), ``lost`` (its crops make the
device fail). Run as a module it is a daemon that tests start, signal and kill; nothing of torch is imported.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from dfwatch.errors import (
    DeviceError,
    ModelError,
    ReaderCrashError,
    ReaderStartError,
    RefusedError,
    StorageError,
    UndecodableError,
)
from dfwatch.reasons import Reason
from dfwatch.service import Service
from dfwatch.settings import file as settings_file
from tests.factories import SIDE_PX, bundle, reading

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from dfwatch.models.bundle import Bundle
    from dfwatch.reading import CropSpec, Reading

_SCORES = {"fake": 250, "real": 5, "unsure": 128, "poison": 77, "lost": 78}


class ScriptedReader:
    """Comes up if ``faces.model`` is none, or a file that is there."""

    def __init__(self, faces_model: str = "") -> None:
        self._faces_model = faces_model

    def start(self) -> None:
        if self._faces_model and not os.path.exists(self._faces_model):
            raise ReaderStartError("starting", "it", "no face detector", reason=Reason.READER_CRASHED)

    def close(self) -> None:
        pass

    def read(self, fd: int, crop: CropSpec) -> Reading:
        self.start()
        assert crop.size_px == SIDE_PX
        word, _, rest = os.pread(fd, 4096, 0).decode("utf-8", "replace").strip().partition(" ")
        if word == "slow":
            time.sleep(float(rest.split()[0]))
            word = "fake"
        if word == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "defect":
            raise KeyError("a defect of the service itself")
        if word == "sick":
            raise StorageError("reading", "it", "Input/output error")
        if word == "crash":
            raise ReaderCrashError("reading", "it", "killed by SIGSEGV", reason=Reason.READER_CRASHED)
        if word == "refused":
            raise RefusedError("reading", "it", "a playlist", reason=Reason.FORMAT_NOT_ALLOWED, hint="send a video")
        if word == "noface":
            return reading([])
        if word not in _SCORES:
            raise UndecodableError("reading", "it", f"no such word: {word[:20]!r}", reason=Reason.CORRUPT)
        found = reading([range(20)])
        return replace(found, crops=np.full_like(found.crops, _SCORES[word]))


class StarvedReader(ScriptedReader):
    """Cannot be started, or is not given a file's bytes, for as long as a file called ``trouble`` is there."""

    def __init__(self, trouble: Path, *, sick_disk: bool = False) -> None:
        super().__init__()
        self._trouble = trouble
        self._sick_disk = sick_disk

    def read(self, fd: int, crop: CropSpec) -> Reading:
        if self._trouble.exists() and self._sick_disk:
            raise StorageError("reading", "it", "Input/output error")
        if self._trouble.exists():
            raise ReaderStartError("starting", "it", "cannot allocate memory", reason=Reason.READER_CRASHED)
        return super().read(fd, crop)


class ScriptedScorer:
    @property
    def bundle(self) -> Bundle:
        return bundle()

    @property
    def device(self) -> Any:
        return SimpleNamespace(
            device="cpu",
            name="a script",
            reason="it is a test",
            precision="float32",
            precision_max_difference=0.0,
            batch_size=8,
            batch_invariant=True,
            threads=1,
            engine="script",
            folded_norms=0,
        )

    def score(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        values = crops[:, 0, 0, 0]
        if (values == _SCORES["poison"]).any():
            raise ModelError("scoring", "crops", "a score is not finite")
        if (values == _SCORES["lost"]).any():
            raise DeviceError("scoring", "crops", "the device is gone", retryable=True)
        return values.astype(np.float32) / 255


def main() -> int:
    from dfwatch import logs

    path = sys.argv[1]
    settings = settings_file.load(path)
    logs.configure(settings.log.level, settings.log.format)
    return Service(
        settings,
        make_scorer=lambda _settings: ScriptedScorer(),
        make_reader=lambda now: ScriptedReader(now.faces.model),
        reload_settings=lambda: settings_file.load(path),
    ).run()


if __name__ == "__main__":
    sys.exit(main())
