"""What happens to a file once its sidecar is durable: it is moved, kept or deleted, and its job's folder goes."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from typing import TYPE_CHECKING, Final

import structlog

from dfwatch.errors import StorageError
from dfwatch.inbox.beneath import reached_folder
from dfwatch.intake import is_there, remove_job_folder
from dfwatch.reasons import Label
from dfwatch.storage.crashpoints import crash_point
from dfwatch.storage.durable import fsync_folder, rename_new
from dfwatch.storage.placement import (
    NEXT_NAME,
    action_for,
    folders,
    make_folder,
    make_own_folder,
    media_base,
    media_bases,
    media_names,
)

if TYPE_CHECKING:
    from dfwatch.config import OutcomeSettings
    from dfwatch.intake import Job
    from dfwatch.journal import JobRow, Journal
    from dfwatch.reasons import Status
    from dfwatch.storage.layout import DroppedName, Layout

_log = structlog.get_logger(__name__)

# What file systems answer that are asked to remove a folder with something in it.
_OCCUPIED: Final = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY})
# What tells of one folder and not of the disk: somebody took it over, or linked it to another disk.
_CLOSED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EXDEV, errno.ELOOP})
_NO_WAY_BACK: Final = _CLOSED | {errno.EEXIST, errno.ENOTDIR}


def put_away(
    layout: Layout,
    journal: Journal,
    job: Job,
    *,
    status: Status,
    label: Label | None,
    sha256: str | None,
    size_bytes: int | None,
    outcome: OutcomeSettings,
) -> str | None:
    """Move, keep or delete a job's file; repeating it is safe, after a crash or a failure of the disk.

    Args:
        layout: The service's folders.
        journal: The service's journal.
        job: The job.
        status: How it ended.
        label: Its verdict, if there is one.
        sha256: Digest of the bytes that were judged; None where there is none.
        size_bytes: How many they were; None where the file was never opened.
        outcome: What is to happen to it.

    Returns:
        Where the file now lies; None when it was deleted or is gone.

    Raises:
        StorageError: The disk failed.
    """
    action = action_for(label, outcome)
    try:
        if not is_there(job.source):
            size_bytes = job.size_bytes if size_bytes is None else size_bytes
            media = None if action == "delete" else _find(layout, job.dropped, job.id, sha256, size_bytes)
            if media is not None:
                fsync_folder(os.path.dirname(media))
        elif action == "delete":
            os.unlink(job.source)
            media = None
        else:
            media = _keep(layout, journal, job) if action == "keep" else None
            if media is None:
                media = _move_out(layout, job, status=status, label=label, sha256=sha256, outcome=outcome)
    except OSError as exc:
        raise _failed(job, exc) from exc
    crash_point("disposal.moved")
    return media


def close(journal: Journal, job: Job, media: str | None) -> None:
    """Close a job whose file was put away; repeating it is safe.

    A folder that holds something else stays for the next start, which tries again to remove it.

    Raises:
        StorageError: The disk or the journal failed.
    """
    journal.closed(job.id, media=media)
    crash_point("job.closed")
    try:
        if is_there(job.folder):
            remove_job_folder(job.folder)
    except OSError as exc:
        if exc.errno not in _OCCUPIED:
            raise _failed(job, exc) from exc
        _log.warning("a job's folder cannot be removed; the next start tries again", job=job.id, cause=exc.strerror)
    crash_point("job.folder_removed")


def _failed(job: Job, exc: OSError) -> StorageError:
    return StorageError(
        "putting away", job.dropped.shown, exc.strerror or exc, hint="check the disk and the permissions of the root"
    )


def locate_media(layout: Layout, row: JobRow, outcome: OutcomeSettings) -> str | None:
    """Where the file of a published job lies that was put away just before a crash; None if it was deleted."""
    label = None if row.verdict is None else Label(row.verdict)
    if row.status is None or action_for(label, outcome) == "delete":
        return None
    return _find(layout, row.dropped, row.id, row.sha256, row.size_bytes)


def _find(layout: Layout, dropped: DroppedName, job_id: str, sha256: str | None, size_bytes: int | None) -> str | None:
    # Everywhere, because the settings may be others by now than those under which it was put away.
    within = [os.path.join(layout.inbox, dropped.folder)]
    for base in media_bases(layout):
        within += folders(base, dropped, job_id)
    for folder in within:
        for name in media_names(dropped.name, sha256, job_id):
            path = os.path.join(folder, name)
            if _is_it(path, sha256, size_bytes):
                return path
    return None


def _is_it(path: str, sha256: str | None, size_bytes: int | None) -> bool:
    try:
        info = os.lstat(path)
        if info.st_size != size_bytes and size_bytes is not None:
            return False
        if not stat.S_ISREG(info.st_mode) or sha256 is None:
            return size_bytes is not None
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == sha256
    except OSError:
        return False


def _move_out(
    layout: Layout, job: Job, *, status: Status, label: Label | None, sha256: str | None, outcome: OutcomeSettings
) -> str:
    """Move the file to where its outcome belongs; to a folder of its own, near the top, where that one is closed."""
    try:
        return _move(job, make_folder(media_base(layout, status, label, outcome), job.dropped, job.id), sha256)
    except OSError as exc:
        if exc.errno not in _CLOSED:
            raise
        cause = exc.strerror
    folder = make_own_folder(media_base(layout, status, None, outcome), job.id)
    media = _move(job, folder, sha256)
    _log.warning("a folder cannot be moved to, so a file got one of its own", job=job.id, path=media, cause=cause)
    return media


def _move(job: Job, folder: str, sha256: str | None) -> str:
    for name in media_names(job.dropped.name, sha256, job.id):
        path = os.path.join(folder, name)
        try:
            rename_new(job.source, path)
        except OSError as exc:
            if exc.errno not in NEXT_NAME:
                raise
            continue
        fsync_folder(folder)
        fsync_folder(job.folder)
        return path
    raise FileExistsError(f"no name for it is free and short enough in {folder}")


def _keep(layout: Layout, journal: Journal, job: Job) -> str | None:
    """Put the file back where it was dropped; None if another one has that name by now, or the folder is closed."""
    info = os.lstat(job.source)
    path = os.path.join(layout.inbox, job.dropped.relative)
    if not _may_go_back(path, info):
        return None
    # Remembered first: between the rename and a later note the watcher would take it for a new file.
    before = journal.keep(
        job.dropped, inode=info.st_ino, size_bytes=info.st_size, mtime_ns=info.st_mtime_ns, job_id=job.id
    )
    try:
        with reached_folder(layout.inbox, job.dropped.folder) as folder:
            rename_new(job.source, os.path.join(folder, job.dropped.name))
    except OSError as exc:
        if exc.errno not in _NO_WAY_BACK:
            raise
        journal.unkeep(job.dropped, job_id=job.id, before=before)
        return None
    fsync_folder(os.path.dirname(path))
    return path


def _may_go_back(path: str, info: os.stat_result) -> bool:
    """Whether no other file lies there; it may be this one, where a rename was cut short after its first half."""
    try:
        return os.path.samestat(os.lstat(path), info)
    except FileNotFoundError:
        return True
    except OSError as exc:
        if exc.errno not in _NO_WAY_BACK:
            raise
        return False
