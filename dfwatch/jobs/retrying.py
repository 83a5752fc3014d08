"""Handing a file that was not judged back to the inbox, with its old sidecar set aside."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from dfwatch.errors import StorageError
from dfwatch.inbox.beneath import reached_folder
from dfwatch.journal import State
from dfwatch.reasons import Status
from dfwatch.sinks import sidecar
from dfwatch.storage.durable import fsync_folder, rename_new
from dfwatch.storage.placement import NEXT_NAME, superseded_names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dfwatch.journal import Journal
    from dfwatch.storage.layout import Layout


def retry(layout: Layout, journal: Journal, job_id: str, *, marker: str = "") -> str:
    """Hand one job's file back; returns its path relative to the inbox.

    The old sidecar is renamed first, so that the new answer gets its name; a crash in between leaves the file where it
    was, and trying again completes it. What lies at the file's place may have been mended there; should the file have
    been taken away, another job's may have got its place, and that is left alone, as is another job's sidecar.

    Args:
        layout: The service's folders.
        journal: The service's journal.
        job_id: The job.
        marker: Ending of the marker file without which the service takes no file; empty: it needs none.

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
    if journal.put_there_last(row.media) != job_id:
        raise _refusal(job_id, "its file is gone, and another job's lies in its place")
    try:
        with reached_folder(layout.inbox, row.dropped.folder) as folder:
            target = os.path.join(folder, row.dropped.name)
            if os.path.lexists(target):
                raise _refusal(job_id, f"the inbox has another {row.dropped.shown}")
            aside = None if row.sidecar is None else _set_aside(row.sidecar, job_id)
            with _marked(target + marker if marker else ""):
                rename_new(row.media, target)
            fsync_folder(folder)
    except OSError as exc:
        raise StorageError("handing back", row.dropped.shown, exc.strerror or exc) from exc
    journal.superseded(job_id, sidecar=aside)
    return row.dropped.relative


@contextmanager
def _marked(path: str) -> Iterator[None]:
    """Put a marker file there, unless ``path`` is empty; it goes again if the block fails.

    The one that was sent with the file went when it was claimed.
    """
    made = False
    if path:
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
            made = True
    try:
        yield
    except BaseException:
        if made:
            with suppress(OSError):
                os.unlink(path)
        raise


def _set_aside(path: str, job_id: str) -> str | None:
    """Rename a job's sidecar, or find that this was done before; None where it is gone."""
    folder, name = os.path.split(path)
    names = [os.path.join(folder, each) for each in superseded_names(name, job_id)]
    if not sidecar.is_of(path, job_id):
        return next((each for each in names if sidecar.is_of(each, job_id)), None)
    for aside in names:
        try:
            rename_new(path, aside)
        except OSError as exc:
            if exc.errno not in NEXT_NAME:
                raise
            continue
        fsync_folder(folder)
        return aside
    raise FileExistsError(f"no name for its sidecar is free and short enough in {folder}")


def _refusal(job_id: str, cause: str) -> StorageError:
    return StorageError("handing back", job_id, cause, retryable=False)
