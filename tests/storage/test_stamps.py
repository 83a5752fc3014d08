"""A job is called after the moment it was taken in, and says the same moment everywhere."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from dfwatch.inbox.completeness import Fingerprint
from dfwatch.intake import NOTE, claim, enter, recover
from dfwatch.journal import Journal
from dfwatch.storage.layout import Layout
from dfwatch.storage.stamps import named_at, new_job_id, utc_now


def test_the_time_in_a_name_is_the_time_at_which_it_was_made() -> None:
    before, name, after = utc_now(), new_job_id(), utc_now()
    assert before <= named_at(name) <= after
    assert named_at("20260102T030405.678912Z-00c0ffee") == "2026-01-02T03:04:05.678Z"


def test_a_name_that_somebody_else_gave_says_no_time() -> None:
    before = utc_now()
    assert before <= named_at("my holiday") <= utc_now()


def test_jobs_sort_as_they_were_received_however_late_each_was_claimed(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    layout.create()
    early, late = new_job_id(), new_job_id()
    jobs = []
    for name, job_id in (("late.mp4", late), ("early.mp4", early)):
        path = tmp_path / "inbox" / name
        path.write_bytes(b"video")
        job = claim(layout, name, Fingerprint.from_stat(path.lstat()), ("still",), job_id=job_id)
        assert job is not None
        jobs.append(job)
    assert [job.received_at for job in jobs] == [named_at(late), named_at(early)]


def test_a_job_without_its_note_still_knows_when_it_was_received(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    layout.create()
    path = tmp_path / "inbox" / "clip.mp4"
    path.write_bytes(b"video")
    job = claim(layout, "clip.mp4", Fingerprint.from_stat(path.lstat()), ("still",), job_id="20260102T030405.678912Z-1")
    assert job is not None
    (tmp_path / "work" / job.id / NOTE).unlink()
    with closing(Journal(str(tmp_path / "state" / "journal.sqlite"))) as journal:
        enter(layout, journal, job)
        [found] = recover(layout, journal)
    assert found.received_at == "2026-01-02T03:04:05.678Z"
