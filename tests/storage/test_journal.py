"""What a job's row says after stops and starts in the midst of its ending."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dfwatch.jobs.outbox import Outbox
from dfwatch.journal import Journal, State
from dfwatch.reasons import Status
from dfwatch.storage.layout import DroppedName

JOB = "20260101T000000.000000Z-00000000"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal(str(tmp_path / "journal.sqlite3"))) as made:
        made.add(JOB, DroppedName("", "clip.mp4"), received_at="2026", size_bytes=1, evidence=())
        made.begin_attempt(JOB)
        yield made


def publish(journal: Journal) -> None:
    journal.published(
        JOB, Status.DONE, sidecar="/results/clip.mp4.json", sha256=None, verdict="REAL", p_fake=0.1, reason=None,
        detail=None, document={"job_id": JOB}, sinks=["jsonl"],
    )  # fmt: skip


def state(journal: Journal) -> tuple[State, int]:
    row = journal.job(JOB)
    assert row is not None
    return row.state, row.attempts


def test_a_job_that_was_not_published_is_put_back(journal: Journal) -> None:
    journal.requeue(JOB, refund=True)
    assert state(journal) == (State.QUEUED, 0)


def test_a_published_job_stays_published_and_gets_its_attempt_back(journal: Journal) -> None:
    publish(journal)
    journal.requeue(JOB, refund=True)
    assert state(journal) == (State.PUBLISHED, 0)


def test_a_closed_job_stays_closed(journal: Journal) -> None:
    publish(journal)
    journal.closed(JOB, media="/done/clip.mp4")
    journal.requeue(JOB, refund=True)
    assert state(journal) == (State.CLOSED, 1)
    assert journal.unfinished() == []


def test_another_attempt_at_a_published_job_tells_the_sinks_nothing_new(journal: Journal) -> None:
    for _ in range(3):
        publish(journal)
        journal.requeue(JOB)
        journal.begin_attempt(JOB)
    assert len(Outbox(journal).waiting("jsonl", 10)) == 1


def test_two_files_that_are_put_back_under_one_name_at_once(journal: Journal) -> None:
    """Only one of them gets the name; it is the one that is remembered, in whatever order they find out."""
    name = DroppedName("desk", "clip.mp4")
    journal.keep(name, inode=1, size_bytes=10, mtime_ns=100, job_id="first")
    before = journal.keep(name, inode=2, size_bytes=20, mtime_ns=200, job_id="second")
    assert journal.kept() == {"desk/clip.mp4": (2, 20, 200)}
    journal.unkeep(name, job_id="first", before=None)
    assert journal.kept() == {"desk/clip.mp4": (2, 20, 200)}
    journal.unkeep(name, job_id="second", before=before)
    assert journal.kept() == {"desk/clip.mp4": (1, 10, 100)}


def test_a_file_that_could_not_be_put_back_twice_is_forgotten(journal: Journal) -> None:
    name = DroppedName("", "clip.mp4")
    for _ in range(2):
        before = journal.keep(name, inode=1, size_bytes=10, mtime_ns=100, job_id="only")
    journal.unkeep(name, job_id="only", before=before)
    assert journal.kept() == {}
