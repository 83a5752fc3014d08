"""Claiming a ready file: check what it is, move it out of everybody's reach, enter it in the journal.

The claim is one rename into ``work/<job id>/source``. Before it, a small note with the dropped name is written into the
job's folder, so that the folders alone tell what a half-finished job was about. ``claim`` moves the file, ``enter``
makes the move durable and known; when the disk fails between the two, ``enter`` is called again until it succeeds.
"""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dfwatch.errors import StorageError, UnclaimableError
from dfwatch.inbox.completeness import Fingerprint
from dfwatch.journal import State
from dfwatch.storage.crashpoints import crash_point
from dfwatch.storage.durable import fsync_folder, rename_new
from dfwatch.storage.layout import DroppedName, name_from_text, name_to_text
from dfwatch.storage.stamps import named_at, new_job_id

if TYPE_CHECKING:
    from dfwatch.journal import JobRow, Journal
    from dfwatch.storage.digest import Digest
    from dfwatch.storage.layout import Layout

# What tells of the machine and not of the one file.
_MACHINES_TROUBLE = frozenset({
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE,
})  # fmt: skip
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
        recovered: Whether an earlier run claimed it.
        claimed: What it looked like once it was claimed; None where it was not looked at.
        digest: Begun before the claim; see ``digest_of``.
    """

    id: str
    dropped: DroppedName
    folder: str
    received_at: str
    evidence: tuple[str, ...] = field(default=())
    alone: bool = False
    recovered: bool = False
    claimed: Fingerprint | None = None
    digest: Digest | None = field(default=None, compare=False, repr=False)

    @property
    def source(self) -> str:
        """Path of the claimed file."""
        return os.path.join(self.folder, SOURCE)

    @property
    def size_bytes(self) -> int | None:
        """Its size when it was claimed; None where it was not looked at."""
        return None if self.claimed is None else self.claimed.size_bytes

    def digest_of(self, now: Fingerprint) -> Digest | None:
        """The digest that was begun before the claim, if it is of the bytes that the file has now.

        Only the claim's own rename may have changed the change time: whoever writes afterwards can set all other times
        back, but not this one.
        """
        digest, claimed = self.digest, self.claimed
        if digest is None or claimed is None or not digest.sound:
            return None
        untouched = digest.fingerprint.same_bytes(claimed, renamed=True) and claimed.same_bytes(now, renamed=False)
        return digest if untouched else None


def claim(
    layout: Layout, relative: str, expected: Fingerprint, evidence: tuple[str, ...], *, job_id: str | None = None
) -> Job | None:
    """Take a ready file out of the inbox; None if it vanished or is no longer the one that was found ready.

    The job that is returned must be given to ``enter``.

    Args:
        layout: The service's folders.
        relative: The file's path relative to the inbox.
        expected: What it looked like when it was found ready.
        evidence: Why it is held to be complete; for the sidecar.
        job_id: What the job is to be called; None: a new id.

    Raises:
        UnclaimableError: This file cannot be moved; it is where it was.
        StorageError: The disk failed; the file is where it was.
    """
    dropped = DroppedName.of(relative)
    path = os.path.join(layout.inbox, relative)
    job_id = job_id or new_job_id()
    job = Job(job_id, dropped, os.path.join(layout.work, job_id), named_at(job_id), evidence)
    try:
        if not Fingerprint.from_stat(os.lstat(path)).same_bytes(expected, renamed=False):
            return None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise _unclaimable(dropped, exc) from exc
    try:
        _make_job_folder(layout, job.folder)
        crash_point("intake.folder_made")
        _write_note(job)
        crash_point("intake.note_written")
    except OSError as exc:
        _remove_empty_job(job.folder)
        raise StorageError(
            "making a place in work/ for", dropped.shown, exc.strerror or exc, hint="check the disk and work/"
        ) from exc
    try:
        _move_in(path, job.source)
    except OSError as exc:
        _remove_empty_job(job.folder)
        if exc.errno == errno.ENOENT:
            return None
        raise _unclaimable(dropped, exc) from exc
    crash_point("intake.claimed")
    try:
        claimed = Fingerprint.from_stat(os.lstat(job.source))
        if not claimed.same_bytes(expected, renamed=True) and _give_back(job, path):
            return None
    except OSError:
        # Whatever it is that was caught, it is ours now, and is looked at when it is read.
        return job
    return replace(job, claimed=claimed)


def enter(layout: Layout, journal: Journal, job: Job) -> None:
    """Make a claim durable and enter it in the journal; repeating it is safe.

    Raises:
        StorageError: The disk failed; the file is in ``work/``, where the next start would find it.
    """
    try:
        fsync_folder(job.folder)
        fsync_folder(layout.work)
    except OSError as exc:
        raise StorageError("claiming", job.dropped.shown, exc.strerror or exc, hint="check the disk") from exc
    journal.add(job.id, job.dropped, received_at=job.received_at, size_bytes=job.size_bytes, evidence=job.evidence)
    crash_point("job.queued")


def _unclaimable(dropped: DroppedName, exc: OSError) -> StorageError:
    cause = exc.strerror or str(exc)
    if exc.errno in _MACHINES_TROUBLE:
        return StorageError("claiming", dropped.shown, cause, hint="check the disk and the limit of open files")
    hint = "the service's user must be able to write to the folder that the file lies in"
    if exc.errno == errno.EXDEV:
        hint = "no folder of the inbox may be a mount of its own: files are renamed out of it"
    return UnclaimableError("claiming", dropped.shown, cause, hint=hint)


def _make_job_folder(layout: Layout, folder: str) -> None:
    try:
        os.mkdir(folder)
    except FileNotFoundError:
        # Whoever tidies up empty folders takes work/ away while nothing is in work.
        with suppress(FileExistsError):
            os.mkdir(layout.work)
        fsync_folder(layout.root)
        os.mkdir(folder)


def _move_in(path: str, source: str) -> None:
    """The rename that makes a file ours; nothing can have the new name, so that it need not refuse to replace."""
    try:
        os.rename(path, source)
    except OSError:
        # Servers do what they were told and fail to say so.
        if not is_there(source):
            raise


def _give_back(job: Job, path: str) -> bool:
    """Undo a claim that caught another file than the one that was ready; False if the name is taken again."""
    try:
        rename_new(job.source, path)
    except FileExistsError:
        return False
    _remove_empty_job(job.folder)
    return True


def recover(layout: Layout, journal: Journal) -> list[Job]:
    """Jobs that an earlier run left in ``work/``, oldest first, each known to the journal afterwards.

    Folders without a source are the traces of claims and endings that were cut short, and are removed. If several jobs
    were being read when the earlier run died, each of them runs alone, so that only the guilty one is found guilty.

    Raises:
        StorageError: The disk or the journal failed.
    """
    try:
        jobs = _left_behind(layout, journal)
    except OSError as exc:
        raise StorageError("looking through", layout.work, exc.strerror or exc, hint="check the disk") from exc
    for job in jobs:
        enter(layout, journal, job)
    rows = {row.id: row for row in journal.unfinished()}
    reading = [row for row in rows.values() if row.state is State.READING]
    for row in reading:
        journal.requeue(row.id, alone=len(reading) > 1)
    alone = {row.id for row in rows.values() if row.alone or (row in reading and len(reading) > 1)}
    return [replace(job, alone=job.id in alone, recovered=True) for job in jobs]


def lost_sources(layout: Layout, journal: Journal) -> list[JobRow]:
    """Unfinished jobs whose source is no longer in ``work/``: moved just before a crash, or taken by somebody.

    Raises:
        StorageError: The disk or the journal failed.
    """
    try:
        return [row for row in journal.unfinished() if not is_there(os.path.join(layout.work, row.id, SOURCE))]
    except OSError as exc:
        raise StorageError("looking through", layout.work, exc.strerror or exc, hint="check the disk") from exc


def _left_behind(layout: Layout, journal: Journal) -> list[Job]:
    jobs = []
    for name in sorted(os.listdir(layout.work)):
        folder = os.path.join(layout.work, name)
        if not os.path.isdir(folder) or os.path.islink(folder):
            continue
        source = os.path.join(folder, SOURCE)
        if not is_there(source):
            _remove_empty_job(folder)
            continue
        job = _read_note(folder, name) or _known_job(journal, folder, name)
        job = replace(job, claimed=Fingerprint.from_stat(os.lstat(source)))
        _remove_second_name(layout, job)
        jobs.append(job)
    return jobs


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


def _read_note(folder: str, job_id: str) -> Job | None:
    """The job that a folder is about; None where its note is lost, or cannot be read."""
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
        return None


def _known_job(journal: Journal, folder: str, job_id: str) -> Job:
    """A job without its note, as the journal knows it; one that it does not know keeps going under its id."""
    row = journal.job(job_id)
    if row is None:
        return Job(job_id, DroppedName("", job_id), folder, named_at(job_id), ("recovered without its note",))
    return Job(job_id, row.dropped, folder, row.received_at, row.evidence)


def _remove_second_name(layout: Layout, job: Job) -> None:
    """Where files cannot be renamed without replacing, a claim cut short leaves the file under its old name too."""
    path = os.path.join(layout.inbox, job.dropped.relative)
    with suppress(OSError):
        if os.path.samestat(os.lstat(path), os.lstat(job.source)):
            os.unlink(path)


def _remove_empty_job(folder: str) -> None:
    """Remove a job's folder if it holds nothing but its note; what a sick disk leaves, the next start removes."""
    with suppress(OSError):
        if not is_there(os.path.join(folder, SOURCE)):
            remove_job_folder(folder)


def is_there(path: str) -> bool:
    """Whether there is anything at a path; unlike ``os.path.lexists``, a sick disk is no "no".

    Raises:
        OSError: It cannot be told.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def remove_job_folder(folder: str) -> None:
    """Remove the folder of a job whose source is gone.

    Raises:
        OSError: It holds something else, which is left alone.
    """
    with suppress(FileNotFoundError):
        os.unlink(os.path.join(folder, NOTE))
    os.rmdir(folder)
