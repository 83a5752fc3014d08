"""Claiming a ready file: check what it is, move it out of everybody's reach, enter it in the journal.

The claim is one rename into ``work/<job id>/source``. Before it, a small note with the dropped name is written into the
job's folder, so that the folders alone tell what a half-finished job was about.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dfwatch.crashpoints import crash_point
from dfwatch.durable import fsync_folder, rename_new
from dfwatch.errors import FileChangedError, RefusedError, StorageError
from dfwatch.journal import State, utc_now
from dfwatch.layout import DroppedName, name_from_text, name_to_text
from dfwatch.reasons import Reason

if TYPE_CHECKING:
    from dfwatch.journal import JobRow, Journal
    from dfwatch.layout import Layout

SOURCE = "source"
NOTE = "job.json"


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed file.

    Attributes:
        id: Sortable by time of receipt.
        dropped: Where it lay in the inbox.
        folder: Its own folder, ``work/<id>``.
        received_at: When it was claimed, ISO 8601 in UTC.
        evidence: Why it was held to be complete.
        alone: Whether it must run with no other job beside it.
    """

    id: str
    dropped: DroppedName
    folder: str
    received_at: str
    evidence: tuple[str, ...] = field(default=())
    alone: bool = False

    @property
    def source(self) -> str:
        """Path of the claimed file."""
        return os.path.join(self.folder, SOURCE)


@dataclass(frozen=True, slots=True)
class Identity:
    """What must not change between the first and the last look at a file."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, info: os.stat_result) -> Identity:
        """From a stat result."""
        return cls(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def new_job_id() -> str:
    """A name that sorts by time and never repeats: UTC to the microsecond and 32 random bits."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}"


def claim(layout: Layout, journal: Journal, relative: str, evidence: tuple[str, ...]) -> Job | None:
    """Take a ready file out of the inbox; None if it vanished meanwhile.

    Args:
        layout: The service's folders.
        journal: Where the job is entered.
        relative: The file's path relative to the inbox.
        evidence: Why it is held to be complete; for the sidecar.

    Raises:
        StorageError: The disk or its permissions failed; the file is where it was.
    """
    dropped = DroppedName.of(relative)
    path = os.path.join(layout.inbox, relative)
    job_id = new_job_id()
    job = Job(job_id, dropped, os.path.join(layout.work, job_id), utc_now(), evidence)
    try:
        size_bytes = os.lstat(path).st_size
        os.mkdir(job.folder)
        crash_point("intake.folder_made")
        _write_note(job)
        crash_point("intake.note_written")
        rename_new(path, job.source)
        crash_point("intake.claimed")
        fsync_folder(job.folder)
        fsync_folder(layout.work)
    except OSError as exc:
        _remove_empty_job(job.folder)
        if exc.errno == errno.ENOENT and not os.path.lexists(path):
            return None
        raise StorageError(
            "claiming",
            dropped.shown,
            exc.strerror or exc,
            hint="check the permissions of inbox/ and work/ and the disk",
        ) from exc
    journal.add(job.id, dropped, received_at=job.received_at, size_bytes=size_bytes, evidence=evidence)
    crash_point("job.queued")
    return job


def recover(layout: Layout, journal: Journal) -> list[Job]:
    """Jobs that an earlier run left in ``work/``, oldest first, each known to the journal afterwards.

    Folders without a source are the traces of claims and endings that were cut short, and are removed. If several jobs
    were being read when the earlier run died, each of them runs alone, so that only the guilty one is found guilty.
    """
    jobs = []
    for name in sorted(os.listdir(layout.work)):
        folder = os.path.join(layout.work, name)
        if not os.path.isdir(folder) or os.path.islink(folder):
            continue
        if not os.path.lexists(os.path.join(folder, SOURCE)):
            _remove_empty_job(folder)
            continue
        jobs.append(_enter(_read_note(folder, name), journal))
    rows = {row.id: row for row in journal.unfinished()}
    reading = [row for row in rows.values() if row.state is State.READING]
    for row in reading:
        journal.requeue(row.id, alone=len(reading) > 1)
    alone = {row.id for row in rows.values() if row.alone or (row in reading and len(reading) > 1)}
    return [replace(job, alone=job.id in alone) for job in jobs]


def lost_sources(layout: Layout, journal: Journal) -> list[JobRow]:
    """Unfinished jobs whose source is no longer in ``work/``: moved just before a crash, or taken by somebody."""
    return [row for row in journal.unfinished() if not os.path.lexists(os.path.join(layout.work, row.id, SOURCE))]


def open_source(job: Job) -> tuple[int, Identity]:
    """Open a claimed file for reading, if it is a regular file.

    Returns:
        A descriptor, which the caller closes, and the file's identity at this moment.

    Raises:
        RefusedError: It is a link, a pipe, a socket, a device or empty, or may not be read.
    """
    return open_regular(job.source, job.dropped.shown)


def open_regular(path: str, shown: str) -> tuple[int, Identity]:
    """Open a file of unknown kind without following links or waiting for a pipe; as ``open_source``."""
    try:
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            raise _refused(shown, Reason.SYMLINK, "it is a symbolic link", "drop the file itself")
        if not stat.S_ISREG(mode):
            raise _refused(shown, Reason.NOT_A_REGULAR_FILE, f"it is {_kind(mode)}, not a file", "drop a video file")
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError as exc:
        raise RefusedError("opening", shown, "it is not there", reason=Reason.VANISHED) from exc
    except PermissionError as exc:
        raise _refused(shown, Reason.UNREADABLE, "permission denied", "let the service's user read it") from exc
    except OSError as exc:
        raise StorageError("opening", shown, exc.strerror or exc) from exc
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise _refused(shown, Reason.NOT_A_REGULAR_FILE, f"it is {_kind(info.st_mode)}, not a file", "")
        if info.st_size == 0:
            raise _refused(shown, Reason.EMPTY, "it has no bytes", "send it again")
    except BaseException:
        os.close(fd)
        raise
    return fd, Identity.of(info)


def check_unchanged(fd: int, path: str, shown: str, before: Identity) -> None:
    """Make sure that a file is still the one, with the bytes, that ``before`` was taken of.

    Raises:
        FileChangedError: It was written to, replaced or removed.
    """
    try:
        now, there = Identity.of(os.fstat(fd)), Identity.of(os.lstat(path))
    except FileNotFoundError as exc:
        raise FileChangedError("checking", shown, "it was removed", reason=Reason.VANISHED) from exc
    if now != before or there != before:
        raise FileChangedError(
            "checking",
            shown,
            "it changed while it was read",
            reason=Reason.CHANGED_WHILE_READING,
            hint="it is read again once it stands still",
        )


def _refused(shown: str, reason: Reason, cause: str, hint: str) -> RefusedError:
    return RefusedError("opening", shown, cause, reason=reason, hint=hint)


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFBLK: "a block device",
        stat.S_IFCHR: "a character device",
        stat.S_IFLNK: "a symbolic link",
    }
    return kinds.get(stat.S_IFMT(mode), "of an unknown kind")


def _write_note(job: Job) -> None:
    note = {
        "id": job.id,
        "folder_b64": name_to_text(job.dropped.folder),
        "name_b64": name_to_text(job.dropped.name),
        "name": job.dropped.shown,
        "received_at": job.received_at,
        "evidence": list(job.evidence),
    }
    fd = os.open(os.path.join(job.folder, NOTE), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    with open(fd, "w", encoding="ascii") as stream:
        json.dump(note, stream)
        stream.flush()
        os.fsync(stream.fileno())


def _read_note(folder: str, job_id: str) -> Job:
    """The job that a folder is about; one whose note was lost keeps going under its id."""
    try:
        with open(os.path.join(folder, NOTE), encoding="ascii") as stream:
            note = json.load(stream)
        return Job(
            id=job_id,
            dropped=DroppedName(name_from_text(note["folder_b64"]), name_from_text(note["name_b64"])),
            folder=folder,
            received_at=str(note["received_at"]),
            evidence=tuple(map(str, note["evidence"])),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return Job(job_id, DroppedName("", job_id), folder, utc_now(), ("recovered without its note",))


def _enter(job: Job, journal: Journal) -> Job:
    journal.add(
        job.id,
        job.dropped,
        received_at=job.received_at,
        size_bytes=os.lstat(job.source).st_size,
        evidence=job.evidence,
    )
    return job


def _remove_empty_job(folder: str) -> None:
    """Remove a job's folder if it holds nothing but its note."""
    try:
        if set(os.listdir(folder)) <= {NOTE}:
            remove_job_folder(folder)
    except FileNotFoundError:
        return


def remove_job_folder(folder: str) -> None:
    """Remove the folder of a job whose source is gone.

    Raises:
        OSError: It holds something else, which is left alone.
    """
    with suppress(FileNotFoundError):
        os.unlink(os.path.join(folder, NOTE))
    os.rmdir(folder)
