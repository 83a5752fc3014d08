"""What happens to a file once its sidecar is durable: it is moved, kept or deleted, and its job's folder goes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dfwatch.crashpoints import crash_point
from dfwatch.durable import fsync_folder, rename_new
from dfwatch.errors import StorageError
from dfwatch.intake import remove_job_folder
from dfwatch.placement import action_for, make_folder, media_base, media_names

if TYPE_CHECKING:
    from dfwatch.config import OutcomeSettings
    from dfwatch.intake import Job
    from dfwatch.journal import Journal
    from dfwatch.layout import Layout
    from dfwatch.reasons import Label, Status
    

def dispose(
    layout: Layout,
    journal: Journal,
    job: Job,
    *,
    status: Status,
    label: Label | None,
    sha256: str | None,
    outcome: OutcomeSettings,
) -> str | None:
    """Bring a job to its end; repeating it after a crash is safe.

    Returns:
        Where the file now lies; None when it was deleted or is gone.

    Raises:
        StorageError: The disk failed; the file is still in ``work/``.
    """
    action = action_for(label, outcome)
    try:
        if not os.path.lexists(job.source):
            media = None
        elif action == "delete":
            os.unlink(job.source)
            media = None
        else:
            media = _keep(layout, journal, job) if action == "keep" else None
            if media is None:
                folder = make_folder(media_base(layout, status, label, outcome), job.dropped, job.id)
                media = _move(job, folder, sha256)
        crash_point("disposal.moved")
        journal.closed(job.id, media=media)
        crash_point("job.closed")
        if os.path.isdir(job.folder):
            remove_job_folder(job.folder)
        crash_point("job.folder_removed")
    except OSError as exc:
        raise StorageError(
            "putting away",
            job.dropped.shown,
            exc.strerror or exc,
            hint="check the disk and the permissions of the root",
        ) from exc
    return media


def _move(job: Job, folder: str, sha256: str | None) -> str:
    for name in media_names(job.dropped.name, sha256, job.id):
        path = os.path.join(folder, name)
        try:
            rename_new(job.source, path)
        except FileExistsError:
            continue
        fsync_folder(folder)
        fsync_folder(job.folder)
        return path
    raise FileExistsError(f"every name for it is taken in {folder}")


def _keep(layout: Layout, journal: Journal, job: Job) -> str | None:
    """Put the file back where it was dropped; None if another one has that name by now."""
    info = os.lstat(job.source)
    # Remembered first: between the rename and a later note the watcher would take it for a new file.
    journal.keep(job.dropped, inode=info.st_ino, size_bytes=info.st_size, mtime_ns=info.st_mtime_ns, job_id=job.id)
    path = os.path.join(layout.inbox, job.dropped.relative)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        rename_new(job.source, path)
    except (FileExistsError, NotADirectoryError):
        journal.unkeep(job.dropped)
        return None
    fsync_folder(os.path.dirname(path))
    return path
