"""What the processes of a world run: the real service, and somebody who reads every sidecar as soon as it is there.

What differs from production is named here and nowhere else: the reader and the model are scripted
(``tests.service.scripted``), pauses are short, and calls may be told to fail (``tests.reliability.faults``).
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from dfwatch import logs, service
from dfwatch.config import Settings
from dfwatch.jobs import admission, line, obstacles
from dfwatch.judge import Scorer
from dfwatch.pipeline import Reader
from dfwatch.service import Service
from dfwatch.storage import crashpoints
from tests.reliability.faults import Faults


@dataclass(frozen=True)
class Served:
    """One service; everything in it can be pickled.

    Attributes:
        settings: Its configuration.
        faults: File of its ``Faults``.
        make_reader: Makes a reader, of a class that can be imported.
        make_scorer: Makes the model.
        crash_at: Step at which it dies by SIGKILL; empty for none.
        busy_threads: Threads in its process that do nothing but take the interpreter's time.
    """

    settings: Settings
    faults: Path
    make_reader: Callable[[], Reader]
    make_scorer: Callable[[], Scorer]
    crash_at: str = ""
    busy_threads: int = 0

    def __call__(self) -> int:
        """Be the service."""
        os.environ.pop(crashpoints.VARIABLE, None)
        if self.crash_at:
            os.environ[crashpoints.VARIABLE] = self.crash_at
        service._LOOP_INTERVAL_S = 0.1  # type: ignore[misc]
        admission._STORAGE_RETRY_S = 0.05  # type: ignore[misc]
        admission._TIDY_INTERVAL_S = 0.3  # type: ignore[misc]
        line._TRIAL_INTERVAL_S = 0.2  # type: ignore[misc]
        obstacles._FIRST_PAUSE_S = 0.05  # type: ignore[misc]
        obstacles._LONGEST_PAUSE_S = 0.2  # type: ignore[misc]
        Faults(self.faults).install(self.settings.root)
        logs.configure("info", "json")
        for _ in range(self.busy_threads):
            threading.Thread(target=_spin, daemon=True).start()
        return Service(
            self.settings,
            make_scorer=lambda _settings: self.make_scorer(),
            make_reader=lambda _settings: self.make_reader(),
            reload_settings=lambda: self.settings,
        ).run()


def _spin() -> None:
    number = 0
    while True:
        number += 1


@dataclass(frozen=True)
class Poller:
    """Another program that reads the sidecars.

    Attributes:
        folders: Where they are.
        complaints: File that says what should never have been seen.
    """

    folders: tuple[Path, ...]
    complaints: Path

    def __call__(self) -> NoReturn:
        """Read every sidecar as soon as it has a name, for ever."""
        seen: dict[str, tuple[int, int]] = {}
        content: dict[str, bytes] = {}
        while True:
            began_s = time.monotonic()
            for path in sidecar_paths(*self.folders):
                try:
                    info = path.stat()
                    known = (info.st_ino, info.st_mtime_ns)
                    if seen.get(str(path)) == known:
                        continue
                    data = path.read_bytes()
                    json.loads(data)["job_id"]
                except FileNotFoundError:
                    continue
                except (ValueError, KeyError) as error:
                    self._complain(f"{path} was seen half-written: {error}")
                    continue
                if content.setdefault(str(path), data) != data:
                    self._complain(f"{path} was overwritten")
                seen[str(path)] = known
            # With thousands of sidecars a look takes long, and must not take all of a processor.
            time.sleep(max(0.002, time.monotonic() - began_s))

    def _complain(self, text: str) -> None:
        with self.complaints.open("a") as stream:
            stream.write(text + "\n")


def sidecar_paths(*folders: Path) -> list[Path]:
    """Every sidecar below these folders."""
    return [
        path for folder in folders for path in below(folder) if path.suffix == ".json" and not path.name.startswith(".")
    ]


def below(folder: Path) -> list[Path]:
    """Everything below a folder that is not a folder; whatever vanishes meanwhile is left out."""
    return [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]
