"""The door by itself: when it is closed, and what it says of that."""

from __future__ import annotations

import contextlib
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dfwatch.config import Settings, WatchSettings
from dfwatch.jobs.admission import Admission
from dfwatch.journal import Journal
from dfwatch.pipeline import Pipeline
from dfwatch.storage.layout import Layout
from dfwatch.storage.rootguard import RootGuard
from dfwatch.watcher import Watcher

MIB = 1024 * 1024


def test_a_pause_says_how_much_room_would_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(str(tmp_path))
    layout.create()
    settings = Settings(root=str(tmp_path), watch=WatchSettings(min_free_bytes=512 * MIB, events="off"))
    watcher = Watcher(layout.inbox, settings.watch, threading.Event())
    pipeline = cast("Pipeline", SimpleNamespace(room=0))
    free_mib = 0

    def usage(_path: str) -> Any:
        return SimpleNamespace(free=free_mib * MIB)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    with contextlib.closing(Journal(layout.journal)) as journal:
        admission = Admission(layout, journal, watcher, pipeline, lambda _job_id: None, root=RootGuard(layout))
        told = []
        for now_mib in (540, 500, 540, 563, 564):
            free_mib = now_mib
            admission.take_in(settings, lambda: False)
            told.append(admission.inbox().paused)
    # A tenth more than the least, so that it does not flap.
    assert told == [
        "",
        "500 MiB free, 564 MiB wanted",
        "540 MiB free, 564 MiB wanted",
        "563 MiB free, 564 MiB wanted",
        "",
    ]
