"""The pipeline's threads by themselves: who beats for whom, and how long an end may take."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dfwatch import pipeline as pipeline_module
from dfwatch.config import JobSettings, OutcomeSettings, ReaderSettings, Settings
from dfwatch.errors import StorageError
from dfwatch.inbox.completeness import Fingerprint
from dfwatch.intake import claim, enter, lost_sources, recover
from dfwatch.journal import Journal
from dfwatch.pipeline import Pipeline
from dfwatch.reasons import Status
from dfwatch.storage.layout import Layout
from dfwatch.storage.rootguard import RootGuard
from tests.service.daemon import wait_for
from tests.service.scripted import ScriptedReader, ScriptedScorer


class Told:
    """Remembers who beat for which stage, and what happened."""

    def __init__(self) -> None:
        self.beats: set[tuple[str, str]] = set()
        self.events: list[str] = []
        self.finished_names: list[str] = []

    def beat(self, stage: str) -> None:
        self.beats.add((threading.current_thread().name, stage))

    def busy(self, stage: str, _limit_s: float) -> None:
        self.beat(stage)

    def finished(self, job: Any, _document: dict[str, Any], _sidecar: str, _media: str | None) -> None:
        self.finished_names.append(job.dropped.name)

    def event(self, event: str, **_fields: Any) -> None:
        self.events.append(event)

    def reader_lost(self, reason: str) -> None:
        self.events.append(reason)

    def failed(self, error: BaseException) -> None:
        self.events.append(f"failed: {error}")

    def slot_free(self) -> None:
        pass


class SickJournal(Journal):
    """Cannot put jobs back while it is sick."""

    sick = True

    def requeue(self, *args: Any, **kwargs: Any) -> None:
        if self.sick:
            raise StorageError("writing to the journal", "it", "the disk is gone")
        super().requeue(*args, **kwargs)


class StuckReader(ScriptedReader):
    """Does not come back from a file, as from a dead disk, before it is let go."""

    def __init__(self, let_go: threading.Event) -> None:
        super().__init__()
        self._let_go = let_go

    def read(self, fd: int, crop: Any) -> Any:
        self._let_go.wait(60.0)
        return super().read(fd, crop)


Make = Callable[..., tuple[Pipeline, SickJournal, Told]]


@pytest.fixture
def pipelines(tmp_path: Path) -> Iterator[Make]:
    with contextlib.ExitStack() as stack:

        def make(
            text: str,
            reader: Callable[[], ScriptedReader],
            *,
            readers: int,
            outcome: OutcomeSettings = OutcomeSettings(),  # noqa: B008 - it cannot be changed
            **jobs: Any,
        ) -> tuple[Pipeline, SickJournal, Told]:
            root = tmp_path / "root"
            layout = Layout(str(root))
            layout.create()
            settings = Settings(
                root=str(root), jobs=JobSettings(**jobs), reader=ReaderSettings(processes=readers), outcome=outcome
            )
            journal, told = SickJournal(layout.journal), Told()
            stack.callback(journal.close)
            scorer = ScriptedScorer()
            pipeline = Pipeline(
                layout, journal, settings, root=RootGuard(layout),
                scorer=scorer, make_reader=lambda _: reader(), readers=readers, observer=told,
            )  # fmt: skip
            stack.callback(pipeline.stop, 0.0)
            pipeline.start()
            for number in range(readers):
                path = root / "inbox" / f"{number}.mp4"
                path.write_text(text)
                job = claim(layout, path.name, Fingerprint.from_stat(path.lstat()), ())
                assert job is not None
                enter(layout, journal, job)
                pipeline.add(job)
            return pipeline, journal, told

        yield make


def test_each_thread_beats_for_itself_while_the_disk_is_sick(pipelines: Make) -> None:
    """Were it otherwise, a stage that waits would look hung, and one that hangs alive."""
    pipeline, journal, told = pipelines("crash", ScriptedReader, readers=3, retry_delay_s=0.01)
    wait_for(lambda: pipeline.trouble and told.events.count("the disk failed, trying again") > 3, "it is waited out")
    journal.sick = False
    wait_for(lambda: len(told.finished_names) == 3, "all three come to their end")
    assert pipeline.stop(10.0) == 0
    assert not [event for event in told.events if event.startswith("failed")]
    publishers = {f"publisher-{number}" for number in range(pipeline_module.PUBLISHERS)}
    assert {stage for _, stage in told.beats} == {"reader-0", "reader-1", "reader-2", "scorer"} | publishers
    assert all(thread == stage for thread, stage in told.beats)


def test_threads_that_do_not_end_are_waited_for_together(pipelines: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What systemd was told of is one time for all, however many readers there are."""
    monkeypatch.setattr(pipeline_module, "_LONGEST_HURRY_S", 1.0)
    let_go = threading.Event()
    pipeline, journal, told = pipelines("fake", functools.partial(StuckReader, let_go), readers=10)
    journal.sick = False
    try:
        wait_for(lambda: pipeline.load["running"] == 10, "all are being read")
        began_s = time.monotonic()
        assert pipeline.stop(0.1) == 10
        assert time.monotonic() - began_s < 9.0
    finally:
        let_go.set()
    assert told.finished_names == []
    assert {row.attempts for row in journal.unfinished()} == {0}


@pytest.mark.parametrize("size", [0, 2 * 1024 * 1024], ids=["small", "large"])
def test_what_is_deleted_while_it_is_open_would_stay_hidden_so_it_is_closed(
    pipelines: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """NFS, sshfs and whatever else renames an open file instead of deleting it."""
    unlink = os.unlink

    def silly(path: str, **where: Any) -> None:
        wanted = os.lstat(path)
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(int(fd)), wanted):
                    os.rename(path, os.path.join(os.path.dirname(path), ".fuse_hidden0001"))
                    return
        unlink(path, **where)

    monkeypatch.setattr(os, "unlink", silly)
    text = "real".ljust(size)
    pipeline, journal, told = pipelines(text, ScriptedReader, readers=2, outcome=OutcomeSettings(real="delete"))
    journal.sick = False
    wait_for(lambda: len(told.finished_names) == 2, "both come to their end", 20.0)
    assert pipeline.stop(10.0) == 0
    assert told.events == []
    assert list((tmp_path / "root" / "work").iterdir()) == []


def test_a_folder_that_cannot_be_removed_holds_up_nobody(
    pipelines: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rmdir = os.rmdir

    def occupied(path: str) -> None:
        Path(path, "somebody's own").touch()
        rmdir(path)

    monkeypatch.setattr(os, "rmdir", occupied)
    pipeline, journal, told = pipelines("real", ScriptedReader, readers=2)
    journal.sick = False
    wait_for(lambda: len(told.finished_names) == 2, "both come to their end", 20.0)
    assert pipeline.stop(10.0) == 0
    assert journal.unfinished() == []
    left = list((tmp_path / "root" / "work").iterdir())
    assert len(left) == 2
    monkeypatch.undo()
    for folder in left:
        (folder / "somebody's own").unlink()
    assert recover(Layout(str(tmp_path / "root")), journal) == []
    assert list((tmp_path / "root" / "work").iterdir()) == []


def test_a_stop_in_the_midst_of_an_ending_takes_nothing_back(
    pipelines: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is put away, its job's folder cannot be removed before the stop: the next start sees it done."""
    monkeypatch.setattr(pipeline_module, "_LONGEST_HURRY_S", 1.0)

    def failing(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    pipeline, journal, told = pipelines("real", ScriptedReader, readers=2)
    journal.sick = False
    monkeypatch.setattr(os, "rmdir", failing)
    wait_for(lambda: len(told.events) >= 2, "both meet the disk")
    pipeline.stop(0.1)
    assert told.finished_names == []
    monkeypatch.undo()
    layout = Layout(str(tmp_path / "root"))
    assert recover(layout, journal) == lost_sources(layout, journal) == []
    assert {(row.status, row.verdict) for row in journal.ended(Status.DONE)} == {(Status.DONE, "REAL")}
