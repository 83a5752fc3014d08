"""What happens to a file once its sidecar is durable: it is moved, kept or deleted, and its job's folder goes."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING

from dfwatch.errors import StorageError
from dfwatch.intake import remove_job_folder
from dfwatch.reasons import Label
from dfwatch.storage.crashpoints import crash_point
from dfwatch.storage.durable import fsync_folder, rename_new
from dfwatch.storage.placement import action_for, make_folder, media_base, media_names

if TYPE_CHECKING:
    from dfwatch.config import OutcomeSettings
    from dfwatch.intake import Job
    from dfwatch.journal import JobRow, Journal
    from dfwatch.reasons import Status
    from dfwatch.storage.layout import Layout


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


def locate_media(layout: Layout, row: JobRow, outcome: OutcomeSettings) -> str | None:
    """Where the file of a published job lies that was moved just before a crash; None if it was deleted."""
    label = None if row.verdict is None else Label(row.verdict)
    if row.status is None or action_for(label, outcome) == "delete":
        return None
    moved_to = os.path.join(media_base(layout, row.status, label, outcome), row.dropped.folder)
    kept_in = os.path.join(layout.inbox, row.dropped.folder)
    folder = kept_in if action_for(label, outcome) == "keep" else moved_to
    for name in media_names(row.dropped.name, row.sha256, row.id):
        path = os.path.join(folder, name)
        if _is_it(path, row):
            return path
    return None


def _is_it(path: str, row: JobRow) -> bool:
    try:
        info = os.lstat(path)
        if not stat.S_ISREG(info.st_mode) or row.sha256 is None:
            return info.st_size == row.size_bytes
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == row.sha256
    except OSError:
        return False


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
