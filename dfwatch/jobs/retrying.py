"""Handing a file that was not judged back to the inbox, with its old sidecar set aside."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dfwatch.errors import StorageError
from dfwatch.journal import State
from dfwatch.reasons import Status
from dfwatch.storage.durable import fitting_name, fsync_folder, rename_new

if TYPE_CHECKING:
    from dfwatch.journal import Journal
    from dfwatch.storage.layout import Layout


def retry(layout: Layout, journal: Journal, job_id: str) -> str:
    """Hand one job's file back; returns its path relative to the inbox.

    The old sidecar is renamed first, so that the new answer gets its name; a crash in between leaves the file where it
    was, and trying again completes it.

    Raises:
        StorageError: There is no such job, it has a verdict, its file is gone, or the inbox has a file of that name.
    """
    row = journal.job(job_id)
    if row is None:
        raise _refusal(job_id, "there is no such job")
    if row.state is not State.CLOSED or row.status is Status.DONE:
        raise _refusal(job_id, "it is still in work" if row.state is not State.CLOSED else "it has a verdict")
    if row.media is None or not os.path.lexists(row.media):
        raise _refusal(job_id, "its file is gone")
    target = os.path.join(layout.inbox, row.dropped.relative)
    if os.path.lexists(target):
        raise _refusal(job_id, f"the inbox has another {row.dropped.shown}")
    try:
        sidecar = row.sidecar or ""
        if sidecar and os.path.exists(sidecar):
            folder, name = os.path.split(sidecar)
            aside = os.path.join(folder, fitting_name(name.removesuffix(".json"), f".{job_id}.superseded.json"))
            rename_new(sidecar, aside)
            fsync_folder(folder)
            sidecar = aside
        os.makedirs(os.path.dirname(target), exist_ok=True)
        rename_new(row.media, target)
        fsync_folder(os.path.dirname(target))
    except OSError as exc:
        raise StorageError("handing back", row.dropped.shown, exc.strerror or exc) from exc
    journal.superseded(job_id, sidecar=sidecar)
    return row.dropped.relative


def _refusal(job_id: str, cause: str) -> StorageError:
    return StorageError("handing back", job_id, cause, retryable=False)
