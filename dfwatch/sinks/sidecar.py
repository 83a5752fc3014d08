"""The sidecar file: written whole, durable, under a name of its own, and found again after a crash."""

from __future__ import annotations

import errno
import json
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dfwatch.document import encode
from dfwatch.errors import StorageError
from dfwatch.inbox.beneath import UNTRUSTED_FILE
from dfwatch.storage.durable import fsync_folder, write_new
from dfwatch.storage.placement import NEXT_NAME, folders, make_folder, sidecar_names

if TYPE_CHECKING:
    from dfwatch.storage.layout import DroppedName

# A document of a thousand frames with ten faces each stays well below this.
_LARGEST_SIDECAR_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Place:
    """Where one job's sidecar may lie.

    Attributes:
        base: Top folder.
        dropped: Name and subfolder of the file it speaks of.
        sha256: Digest of that file, for a name that is taken; None where it was never read.
        job_id: The job, which makes the last name unique.
    """

    base: str
    dropped: DroppedName
    sha256: str | None
    job_id: str

    def paths(self) -> list[str]:
        """Paths in the order in which they are tried; makes the folder."""
        return self._in(make_folder(self.base, self.dropped, self.job_id))

    def known_paths(self) -> list[str]:
        """Every path at which it may lie, in folders that let us in; makes nothing."""
        within = filter(_lets_in, folders(self.base, self.dropped, self.job_id))
        return [path for folder in within for path in self._in(folder)]

    def _in(self, folder: str) -> list[str]:
        return [os.path.join(folder, name) for name in sidecar_names(self.dropped.name, self.sha256, self.job_id)]


def publish(place: Place, document: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Write the sidecar, or find the one that this job already has; returns its path, and what it says.

    Both are durable: the one that is found may be there because only the last step of writing it failed.

    Raises:
        StorageError: The disk did not take it; nothing half-written is visible.
    """
    data = encode(document)
    try:
        paths = place.paths()
        temporary = os.path.join(os.path.dirname(paths[0]), f".{place.job_id}.tmp")
        for path in paths:
            try:
                write_new(path, data, temporary=temporary)
            except OSError as exc:
                if exc.errno not in NEXT_NAME:
                    raise
                found = _load(path, place.job_id)
                if found is not None:
                    fsync_folder(os.path.dirname(path))
                    return path, found
                continue
            return path, document
    except OSError as exc:
        raise StorageError(
            "writing the sidecar of", place.dropped.shown, exc.strerror or exc, hint="check the disk and results/"
        ) from exc
    raise StorageError("writing the sidecar of", place.dropped.shown, "no name for it is free", retryable=False)


def find(place: Place) -> tuple[str, dict[str, Any]] | None:
    """The sidecar that this job already has, with its content, or None.

    Raises:
        StorageError: The disk failed, so that it cannot be told.
    """
    try:
        for path in place.known_paths():
            document = _load(path, place.job_id)
            if document is not None:
                return path, document
    except OSError as exc:
        raise StorageError(
            "looking for the sidecar of", place.dropped.shown, exc.strerror or exc, hint="check the disk and results/"
        ) from exc
    return None


def is_of(path: str, job_id: str) -> bool:
    """Whether the sidecar of this job lies there.

    Raises:
        OSError: The disk failed, so that it cannot be told.
    """
    return _load(path, job_id) is not None


def _lets_in(folder: str) -> bool:
    """False for a folder that was closed to us: no sidecar is put there (``make_folder``), and none is waited for.

    Whatever else is wrong with it may pass, so that it cannot be told what lies there.
    """
    try:
        os.stat(os.path.join(folder, "."))
    except OSError as exc:
        return not isinstance(exc, PermissionError)
    return True


def _load(path: str, job_id: str) -> dict[str, Any] | None:
    """This job's sidecar; None for whatever else lies there, which may be anything that somebody dropped.

    Raises:
        OSError: It may be the job's, but cannot be read for the moment.
    """
    try:
        there = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        if exc.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            return None
        raise
    if not stat.S_ISREG(there.st_mode):
        return None
    try:
        fd = os.open(path, UNTRUSTED_FILE)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    except PermissionError:
        # What the service wrote, it may read: somebody else's file, or the machine's trouble.
        if there.st_uid == os.geteuid() and there.st_mode & stat.S_IRUSR:
            raise
        return None
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            return None
        raise
    with open(fd, "rb") as stream:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size > _LARGEST_SIDECAR_BYTES:
            return None
        data = stream.read(_LARGEST_SIDECAR_BYTES)
    try:
        # What does not name the job is not parsed: a little hostile JSON fills a lot of memory.
        document = json.loads(data) if json.dumps(job_id, ensure_ascii=False).encode() in data else None
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) and document.get("job_id") == job_id else None
