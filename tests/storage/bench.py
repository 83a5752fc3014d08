"""A root with a journal, and jobs that come to their end in it."""

from __future__ import annotations

from pathlib import Path

from dfwatch.config import OutcomeSettings
from dfwatch.disposal import put_away
from dfwatch.inbox.completeness import Fingerprint
from dfwatch.intake import Job
from dfwatch.journal import Journal
from dfwatch.reasons import Label, Status
from dfwatch.sinks import sidecar
from dfwatch.storage.layout import DroppedName, Layout
from tests.reliability.world import digest


class Bench:
    def __init__(self, root: Path, journal: Journal) -> None:
        self.layout, self.journal = Layout(str(root)), journal

    def job(self, number: int, relative: str) -> Job:
        job_id = f"20260101T000000.000000Z-{number:08}"
        folder = Path(self.layout.work, job_id)
        folder.mkdir()
        (folder / "source").write_text(f"video {number % 10}")
        claimed = Fingerprint.from_stat((folder / "source").lstat())
        return Job(job_id, DroppedName.of(relative), str(folder), "2026", claimed=claimed)

    def end(self, job: Job, *, times: int = 2, outcome: OutcomeSettings = OutcomeSettings()) -> tuple[str, str]:  # noqa: B008 - it cannot be changed
        """Publish and put away, twice as after a crash; returns where sidecar and file lie."""
        ends, text = [], Path(job.source).read_text()
        sha256 = digest(text)
        for _ in range(times):
            place = sidecar.Place(self.layout.results, job.dropped, sha256, job.id)
            path, document = sidecar.publish(place, {"job_id": job.id})
            assert sidecar.find(place) == (path, document)
            media = put_away(
                self.layout, self.journal, job,
                status=Status.DONE, label=Label.REAL, sha256=sha256, size_bytes=len(text), outcome=outcome,
            )  # fmt: skip
            assert media is not None
            ends.append((path, media))
        assert len(set(ends)) == 1
        assert Path(media).read_text() == text
        return ends[0]
