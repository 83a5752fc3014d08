"""The last stage: verdict, a last look at the file, sidecar, journal, disposal. In that order, whatever happens."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from dfwatch.disposal import close, put_away
from dfwatch.document import Run, Subject, build
from dfwatch.judge import conclude, runtime_of
from dfwatch.reasons import Label, Status
from dfwatch.sinks import sidecar
from dfwatch.storage.crashpoints import crash_point
from dfwatch.storage.placement import sidecar_base, sidecar_bases
from dfwatch.storage.source import check_unchanged

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dfwatch.config import Settings
    from dfwatch.jobs.ticket import Patience, Ticket
    from dfwatch.journal import Journal
    from dfwatch.judge import Scorer
    from dfwatch.reading import Reading
    from dfwatch.storage.layout import Layout
    from dfwatch.verdict import Decision


class Publisher:
    """Brings tickets to their end; any number of threads at a time, each with a ticket of its own.

    Args:
        layout: The service's folders.
        journal: The service's journal.
        scorer: The detector, for its bundle and what it says of itself.
        patience: Waits out a sick disk.
        recipients: The sinks that an outcome goes to.
    """

    def __init__(
        self,
        layout: Layout,
        journal: Journal,
        scorer: Scorer,
        patience: Patience,
        recipients: Callable[[Mapping[str, Any]], Sequence[str]] = lambda _document: (),
    ) -> None:
        self._layout = layout
        self._journal = journal
        self._scorer = scorer
        self._bundle = scorer.bundle
        self._runtime = runtime_of(scorer)
        self._patience = patience
        self._recipients = recipients

    def published_before(self, ticket: Ticket) -> bool:
        """Whether an earlier run wrote this job's sidecar and died before it put the file away; for recovered jobs."""
        for base in sidecar_bases(self._layout):
            found = sidecar.find(sidecar.Place(base, ticket.job.dropped, ticket.sha256, ticket.job.id))
            if found is not None:
                ticket.sidecar, ticket.document = found
                return True
        return False

    def publish(self, ticket: Ticket, settings: Settings, stage: str) -> str | None:
        """Publish one outcome and put the file away; returns where the file now lies.

        Raises:
            FileChangedError: The bytes are no longer those that were read; nothing was published.
            StorageError: The disk failed for good.
            Stopped: The pipeline stops while the disk fails.
        """
        job = ticket.job
        if ticket.document is None:
            ticket.document = self._conclude(ticket, settings, stage)
        if ticket.sidecar is None:
            # Should there be one already, it says how this job ended.
            ticket.sidecar, ticket.document = self._write(ticket, ticket.document, settings, stage)
        document = ticket.document
        status, label = _outcome_of(document)
        subject = document["subject"]
        # NFS, sshfs and others keep a file that is deleted while it is open, hidden in its folder.
        ticket.close()
        self._patience.until_done(lambda: self._note(ticket, document, status), stage)
        crash_point("job.published")
        media = self._patience.until_done(
            lambda: put_away(
                self._layout,
                self._journal,
                job,
                status=status,
                label=label,
                sha256=subject["sha256"],
                size_bytes=subject["size"],
                outcome=settings.outcome,
            ),
            stage,
        )
        self._patience.until_done(lambda: close(self._journal, job, media), stage)
        return media

    def _write(
        self, ticket: Ticket, document: dict[str, Any], settings: Settings, stage: str
    ) -> tuple[str, dict[str, Any]]:
        job, sha256 = ticket.job, document["subject"]["sha256"]

        def write() -> tuple[str, dict[str, Any]]:
            # Where it goes is asked anew each time: a folder may be closed only while the disk is.
            base = sidecar_base(self._layout, *_outcome_of(document), settings.outcome)
            return sidecar.publish(sidecar.Place(base, job.dropped, sha256, job.id), document)

        return self._patience.until_done(write, stage)

    def _conclude(self, ticket: Ticket, settings: Settings, stage: str) -> dict[str, Any]:
        job, reading, scores = ticket.job, ticket.reading, ticket.scores
        ticket.timer.restart()
        decision: Decision | None = None
        if reading is not None and scores is not None:
            decision = conclude(reading, scores, self._bundle, settings)
        size_bytes: int | None = None
        if ticket.fd is not None and ticket.fingerprint is not None:
            check_unchanged(ticket.fd, job.source, job.dropped.shown, ticket.fingerprint)
            size_bytes = ticket.fingerprint.size_bytes
        ticket.timer.lap("verdict")
        document = build(
            ticket.status,
            Subject(job.dropped, size_bytes, ticket.sha256, job.received_at, job.evidence),
            Run(job.id, ticket.attempt, self._bundle, self._runtime_now(), ticket.timer.stages_ms),
            reading=reading,
            decision=decision,
            refusal=ticket.refusal,
            provenance=ticket.provenance if reading is not None else None,
        )
        if reading is not None and decision is not None and settings.evidence.enabled:
            self._add_evidence(ticket, document, reading, decision, settings=settings, stage=stage)
        return document

    def _runtime_now(self) -> dict[str, Any]:
        # A device that runs out of memory gets smaller batches from then on.
        return {**self._runtime, "batch_size": self._scorer.device.batch_size}

    def _add_evidence(
        self,
        ticket: Ticket,
        document: dict[str, Any],
        reading: Reading,
        decision: Decision,
        *,
        settings: Settings,
        stage: str,
    ) -> None:
        """Publish the evidence, ahead of the sidecar that refers to it."""
        if str(decision.label) not in settings.evidence.verdicts:
            return
        # Loads OpenCV's drawing, which nobody needs who does not want evidence.
        from dfwatch.evidence.folder import publish_folder  # noqa: PLC0415
        from dfwatch.evidence.maker import make  # noqa: PLC0415

        job = ticket.job
        described, files = make(document, reading, decision, self._scorer, settings.evidence)
        base = sidecar_base(self._layout, ticket.status, decision.label, settings.outcome)
        folder = self._patience.until_done(lambda: publish_folder(base, job.dropped, job.id, files), stage)
        document["evidence"] = {**described, "folder": os.path.basename(folder)}
        ticket.timer.lap("evidence")
        spent_ms = round(ticket.timer.stages_ms["evidence"], 1)
        timings: dict[str, float] = document["timings_ms"]
        timings |= {"evidence": spent_ms, "total": round(timings["total"] + spent_ms, 1)}

    def _note(self, ticket: Ticket, document: dict[str, Any], status: Status) -> None:
        self._journal.published(
            ticket.job.id,
            status,
            sidecar=ticket.sidecar or "",
            sha256=document["subject"]["sha256"],
            verdict=document["verdict"],
            p_fake=document["p_fake"],
            reason=document["reason"],
            detail=document["reason_detail"],
            size_bytes=document["subject"]["size"],
            document=document,
            sinks=self._recipients(document),
        )


def _outcome_of(document: Mapping[str, Any]) -> tuple[Status, Label | None]:
    return Status(document["status"]), None if document["verdict"] is None else Label(document["verdict"])
