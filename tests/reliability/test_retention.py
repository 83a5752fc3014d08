"""What is pruned and what never is, by a real journal and real files; and once by the service."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog

from dfwatch.config import OutcomeSettings, RetentionSettings
from dfwatch.evidence.folder import folder_names
from dfwatch.journal import JobRow, Journal
from dfwatch.operation import retention
from dfwatch.operation.retention import Retention, Swept
from dfwatch.reasons import Status
from dfwatch.storage import stamps
from dfwatch.storage.layout import DroppedName
from tests.reliability.world import World

DAY_S = 86400.0


@dataclass
class FakeClock:
    now_s: float = 1_800_000_000.0
    since_boot_s: float = 1000.0

    def time(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.since_boot_s

    def pass_days(self, days: float) -> None:
        self.now_s += days * DAY_S
        self.since_boot_s += days * DAY_S


class Bench:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.inbox = folder / "done", folder / "inbox"
        for each in (self.folder, self.inbox):
            each.mkdir()
        self.clock = FakeClock()
        self.journal = Journal(str(folder / "journal.sqlite3"))
        self.retention = Retention(self.journal, str(self.folder), self.clock)
        clock = self.clock

        class Now(datetime):
            @classmethod
            def now(cls, tz: object = None) -> datetime:
                del tz
                return datetime.fromtimestamp(clock.now_s, UTC)

        monkeypatch.setattr(stamps, "datetime", Now)

    def ended(
        self,
        name: str,
        *,
        status: Status = Status.DONE,
        sinks: tuple[str, ...] = (),
        size: int = 100,
        kept: bool = False,
    ) -> None:
        media, sidecar = (self.inbox if kept else self.folder) / name, self.folder / f"{name}.json"
        media.write_bytes(bytes(size))
        sidecar.write_text(json.dumps({"job_id": name}).ljust(30))
        self.journal.add(name, DroppedName("", name), received_at="2026", size_bytes=size, evidence=())
        self.journal.published(
            name, status, sidecar=str(sidecar), sha256=hashlib.sha256(bytes(size)).hexdigest(),
            verdict="REAL" if status is Status.DONE else None,
            p_fake=None, reason=None, detail=None, document={"job_id": name}, sinks=sinks,
        )  # fmt: skip
        self.journal.closed(name, media=str(media))

    def sweep(self, **limits: float) -> Swept:
        return self.retention.sweep(RetentionSettings(**limits))  # type: ignore[arg-type]

    def left(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    def row(self, name: str) -> JobRow | None:
        return self.journal.job(name)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made = Bench(tmp_path, monkeypatch)
    yield made
    made.journal.close()


def test_everything_is_kept_unless_told_otherwise(bench: Bench) -> None:
    bench.ended("a")
    bench.clock.pass_days(10_000)
    assert bench.sweep().total == 0
    assert bench.left() == {"a", "a.json"}


def test_by_age(bench: Bench) -> None:
    bench.ended("old")
    bench.clock.pass_days(2)
    bench.ended("new")
    bench.clock.pass_days(0.5)
    assert bench.sweep(done_max_age_days=1, results_max_age_days=2.4, journal_max_age_days=5) == Swept(1, 1, 0)
    assert bench.left() == {"new", "new.json"}
    bench.clock.pass_days(5)
    assert bench.sweep(done_max_age_days=1, results_max_age_days=1, journal_max_age_days=5) == Swept(1, 1, 2)
    assert bench.row("old") is bench.row("new") is None


def test_evidence_goes_with_its_sidecar(bench: Bench, tmp_path: Path) -> None:
    for name in ("old", "new"):
        bench.ended(name)
        folder = bench.folder / folder_names(name, name)[0]
        folder.mkdir()
        (folder / "frame-1.jpg").write_bytes(bytes(1000))
        bench.clock.pass_days(1)
    somebodys = bench.folder / "old.other-job.evidence"
    somebodys.mkdir()
    assert bench.sweep(results_max_bytes=2060).total == 0
    assert bench.sweep(results_max_bytes=2059) == Swept(0, 1)
    assert bench.left() == {"old", "new", "new.json", "new.new.evidence", somebodys.name}


def test_sidecars_are_measured_some_at_a_time_and_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MEASURED_AT_ONCE", 2)
    for name in "abcde":
        bench.ended(name)
    settings = RetentionSettings(results_max_bytes=100)
    left = []
    for _ in range(4):
        bench.retention.tend(settings)
        left.append(len([name for name in bench.left() if name.endswith(".json")]))
        # No minute passes in between: more is to be measured.
        bench.clock.pass_days(1.5 / DAY_S)
    # Once the fourth is known to be too much, so is whatever is older.
    assert left == [5, 3, 3, 3]
    measured = {"c": "x" * 1000, "e": "x" * 1000}
    for name, text in measured.items():
        (bench.folder / f"{name}.json").write_text(text)
    assert bench.sweep(results_max_bytes=100).total == 0


def test_evidence_under_the_short_name_goes_too(bench: Bench) -> None:
    bench.ended("a")
    (bench.folder / folder_names("a", "a")[-1]).mkdir()
    bench.clock.pass_days(1)
    assert bench.sweep(results_max_age_days=0.5) == Swept(0, 1)
    assert bench.left() == {"a"}


def test_what_cannot_be_removed_holds_nothing_else_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink, tried = os.unlink, []

    def failing(path: str, **more: int) -> None:
        tried.append(os.path.basename(path))
        if os.path.basename(path).startswith("sick"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        unlink(path, **more)

    for name in ("sick1", "sick2", "well1", "well2", "well3"):
        bench.ended(name)
        bench.clock.pass_days(0.01)
    monkeypatch.setattr(os, "unlink", failing)
    monkeypatch.setattr(retention, "MOST_AT_ONCE", 3)
    structlog.reset_defaults()  # a test before this one may have let a service configure the log
    with structlog.testing.capture_logs() as told:
        assert bench.sweep(done_max_files=0, done_max_age_days=0.001) == Swept(1)
        assert bench.sweep(done_max_files=0, done_max_age_days=0.001) == Swept(2)
        assert bench.sweep(done_max_files=0, done_max_age_days=0.001) == Swept()
    assert tried == ["sick1", "sick2", "well1", "well2", "well3", "sick1", "sick1", "sick2"]
    assert [entry["job"] for entry in told if entry["event"].startswith("could not")] == ["sick1", "sick2"]
    monkeypatch.setattr(os, "unlink", unlink)
    assert bench.sweep(done_max_files=0, done_max_age_days=0.001) == Swept(2)
    assert {name for name in bench.left() if not name.endswith(".json")} == set()


def test_evidence_that_is_a_link_now_is_left_alone(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "precious").touch()
    bench.ended("a")
    (bench.folder / folder_names("a", "a")[0]).symlink_to(elsewhere)
    bench.clock.pass_days(1)
    assert bench.sweep(results_max_age_days=0.5) == Swept(0, 1)
    assert bench.left() == {"a", "a.a.evidence"}
    assert (elsewhere / "precious").exists()


def test_by_number_and_by_size_the_newest_stay(bench: Bench) -> None:
    for number in range(5):
        bench.ended(str(number))
        bench.clock.pass_days(0.01)
    assert bench.sweep(done_max_files=4) == Swept(1)
    assert bench.sweep(done_max_bytes=250, results_max_files=3) == Swept(2, 2)
    assert bench.sweep(results_max_bytes=75) == Swept(0, 1)
    assert bench.left() == {"3", "4", "3.json", "4.json"}
    assert bench.sweep(journal_max_jobs=1) == Swept(0, 0, 4)
    assert bench.row("4") is not None


def test_what_a_sink_has_yet_to_take_stays(bench: Bench) -> None:
    bench.ended("waits", sinks=("elsewhere",))
    bench.ended("taken")
    bench.clock.pass_days(10)
    assert bench.sweep(done_max_age_days=1, results_max_age_days=1, journal_max_age_days=1) == Swept(1, 1, 1)
    assert bench.left() == {"waits", "waits.json"}
    with bench.journal.transaction() as db:
        db.execute("DELETE FROM outbox")
    assert bench.sweep(done_max_age_days=1, results_max_age_days=1, journal_max_age_days=1) == Swept(1, 1, 1)


def test_what_is_not_closed_and_what_has_no_verdict_stays(bench: Bench) -> None:
    bench.ended("refused", status=Status.REJECTED)
    bench.journal.add("in work", DroppedName("", "x"), received_at="2026", size_bytes=1, evidence=())
    bench.clock.pass_days(10)
    assert bench.sweep(done_max_age_days=1, journal_max_age_days=1) == Swept(0, 0, 1)
    assert bench.left() == {"refused", "refused.json"}
    assert bench.row("in work") is not None


def test_what_is_kept_in_the_inbox_stays_and_does_not_count(bench: Bench) -> None:
    for name in ("moved", "also moved"):
        bench.ended(name)
    for number in range(3):
        bench.ended(f"kept {number}", size=1000, kept=True)
    bench.clock.pass_days(10)
    assert bench.sweep(done_max_files=2, done_max_bytes=200).total == 0
    assert bench.sweep(done_max_age_days=1, results_max_age_days=1, journal_max_age_days=1) == Swept(2, 5, 5)
    assert bench.left() == set()
    assert len(list(bench.inbox.iterdir())) == 3


def test_a_row_outlives_what_is_yet_to_be_pruned(bench: Bench) -> None:
    bench.ended("a")
    bench.clock.pass_days(10)
    assert bench.sweep(done_max_age_days=100, journal_max_age_days=1).total == 0
    assert bench.row("a") is not None


def test_a_file_that_is_another_now_is_left_alone(bench: Bench) -> None:
    bench.ended("replaced")
    (bench.folder / "replaced").write_bytes(b"somebody's own")
    bench.ended("gone")
    (bench.folder / "gone").unlink()
    bench.clock.pass_days(10)
    assert bench.sweep(done_max_age_days=1).total == 0
    assert (bench.folder / "replaced").exists()
    row = bench.row("gone")
    assert row is not None
    assert row.media is None


@pytest.mark.parametrize("same", [True, False])
def test_a_file_that_was_touched_is_known_by_its_bytes(bench: Bench, same: bool) -> None:
    """A consumer took the first one away, and something of the same name and size lies there."""
    size = 3 * 1024 * 1024
    # Its change time is the real clock's, and later than the ending of the job.
    bench.clock.pass_days((time.time() - bench.clock.now_s) / DAY_S - 20)
    for name in ("a", "b"):
        bench.ended(name, size=size)
    (bench.folder / "a").unlink()
    (bench.folder / "a").write_bytes(bytes(size) if same else b"x" * size)
    bench.clock.pass_days(10)
    removed = 0
    until_s = time.monotonic() + 30.0
    while (bench.row("a").media or bench.row("b").media) and time.monotonic() < until_s:  # type: ignore[union-attr]
        removed += bench.sweep(done_max_age_days=1).files
    assert removed == (2 if same else 1)
    assert (bench.folder / "a").exists() is not same


def test_another_jobs_sidecar_of_the_same_name_stays(bench: Bench) -> None:
    """A consumer took the first one away, and the second job's got its name."""
    bench.ended("a")
    (bench.folder / "a.json").write_text(json.dumps({"job_id": "another"}))
    bench.clock.pass_days(10)
    assert bench.sweep(results_max_age_days=1).total == 0
    assert (bench.folder / "a.json").exists()
    row = bench.row("a")
    assert row is not None
    assert row.sidecar is None


def test_what_came_last_is_newest_whatever_the_clock_said(bench: Bench) -> None:
    """The clock was set back between two runs."""
    for name in ("1", "2", "3"):
        bench.ended(name)
        bench.clock.pass_days(-1)
    assert bench.sweep(done_max_files=1) == Swept(2)
    assert {"3"} == bench.left() & {"1", "2", "3"}


@pytest.mark.parametrize("days", [-400, 400])
def test_a_clock_that_jumps_prunes_nothing(bench: Bench, days: int) -> None:
    bench.ended("a")
    bench.clock.now_s += days * DAY_S
    assert bench.sweep(done_max_age_days=1, results_max_age_days=1, journal_max_age_days=1).total == 0
    bench.ended("b")
    assert bench.sweep(done_max_files=1, results_max_files=1, journal_max_jobs=1).total == 0


def test_one_sweep_removes_so_many_and_the_next_one_comes_soon(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MOST_AT_ONCE", 3)
    for number in range(8):
        bench.ended(str(number))
        bench.clock.pass_days(0.01)
    settings = RetentionSettings(done_max_files=1)
    bench.retention.tend(settings)
    assert "3" in bench.left()
    assert "2" not in bench.left()
    bench.clock.since_boot_s += 0.5
    bench.retention.tend(settings)
    assert "3" in bench.left()
    bench.clock.since_boot_s += 1.0
    bench.retention.tend(settings)
    assert "3" not in bench.left()


def test_the_service_prunes(worlds: Callable[..., World]) -> None:
    world = worlds(retention=RetentionSettings(done_max_files=1, results_max_files=2, journal_max_jobs=1))
    for number in range(4):
        (world.inbox / f"{number}.mp4").write_text(f"real {number}")
    world.start()
    world.settle()
    world.stop()
    # The first sweep comes with the start, the next ones by the minute.
    world.start()
    world.wait_for(lambda: '"pruned"' in world.log.read_text(), "the second sweep is over")
    assert len(world.sidecar_paths()) == 2
    assert sum(world.put_away().values()) == 1
    world.stop()
    with contextlib.closing(sqlite3.connect(os.fspath(world.layout.journal))) as db:
        assert db.execute("SELECT count(*) FROM jobs").fetchone() == (2,)


def test_the_service_prunes_nothing_that_it_keeps_in_the_inbox(worlds: Callable[..., World]) -> None:
    limits = RetentionSettings(done_max_age_days=1e-6, results_max_age_days=1e-6, journal_max_age_days=1e-6)
    world = worlds(retention=limits, outcome=OutcomeSettings(real="keep", sidecar="beside"))
    for name in ("kept.mp4", "moved.mp4"):
        (world.inbox / name).write_text("real" if name == "kept.mp4" else "fake")
    world.start()
    world.settle()
    world.stop()
    world.start()
    world.wait_for(lambda: '"pruned"' in world.log.read_text(), "the second sweep is over")
    world.stop()
    assert world.contents("inbox") == {"real": 1}
    assert not world.put_away()
    assert world.sidecar_paths() == []
    assert not world.rows()
    assert set(world.kept()) == {"kept.mp4"}


def test_a_file_that_grew_after_its_claim_is_found_after_a_crash_and_pruned(worlds: Callable[..., World]) -> None:
    world = worlds(retention=RetentionSettings(done_max_age_days=1e-6))
    (world.inbox / "clip.mp4").write_text("slow 0.5")
    world.start("disposal.moved")
    [source] = world.wait_for(lambda: list((world.root / "work").glob("*/source")), "it is claimed")
    with source.open("a") as stream:
        stream.write(" and the rest")
    world.wait_for(world.ended_or_none, "the service dies once the file was put away")
    assert world.put_away() == {"slow 0.5 and the rest": 1}
    # This start finds it; the sweep of the next one finds it old enough.
    world.start()
    world.settle()
    world.wait_for(lambda: set(world.rows()) == {"done"}, "the job is closed")
    world.stop()
    time.sleep(0.2)
    world.start()
    world.wait_for(lambda: not world.put_away(), "it is pruned")
