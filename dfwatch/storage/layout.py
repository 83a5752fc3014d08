"""The folders under ``root``, and the names that files get in them."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass

from dfwatch.errors import StorageError
from dfwatch.inbox.filesystems import mount_id

FOLDERS = ("inbox", "work", "done", "failed", "quarantine", "results", "state")
# Files are renamed from one of these to another.
_WAY_OF_A_FILE = FOLDERS[:5]


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of one running service."""

    root: str

    @property
    def inbox(self) -> str:
        """Where people drop files."""
        return os.path.join(self.root, "inbox")

    @property
    def work(self) -> str:
        """One folder for each job that is not finished."""
        return os.path.join(self.root, "work")

    @property
    def results(self) -> str:
        """Sidecars."""
        return os.path.join(self.root, "results")

    @property
    def state(self) -> str:
        """Journal, lock and caches."""
        return os.path.join(self.root, "state")

    @property
    def journal(self) -> str:
        """The journal's database."""
        return os.path.join(self.state, "journal.sqlite3")

    @property
    def lock(self) -> str:
        """Held by the daemon that owns this root."""
        return os.path.join(self.state, "daemon.lock")

    @property
    def health(self) -> str:
        """What the running daemon last said of itself, for ``dfwatch status``."""
        return os.path.join(self.state, "health.json")

    def folder(self, name: str) -> str:
        """Path of one of ``FOLDERS``."""
        return os.path.join(self.root, name)

    def create(self) -> None:
        """Make the folders that are missing, and check that renames between them will be atomic.

        Raises:
            StorageError: A folder cannot be made, or lies on another file system or mount than the root.
        """
        for name in FOLDERS:
            path = self.folder(name)
            try:
                os.makedirs(path, exist_ok=True)
                device = os.stat(path).st_dev
                root_device = os.stat(self.root).st_dev
                apart = name in _WAY_OF_A_FILE and len({mount_id(path), mount_id(self.root)} - {""}) > 1
            except OSError as exc:
                raise StorageError(
                    "making the folder", path, exc.strerror or exc, hint="check the path and its permissions"
                ) from exc
            if device != root_device:
                raise StorageError(
                    "using the folder",
                    path,
                    "it lies on another file system than its root, so files cannot be moved there atomically",
                    hint="mount one file system at the root, not at the folders below it",
                    retryable=False,
                )
            if apart:
                raise StorageError(
                    "using the folder",
                    path,
                    "it is a mount of its own (a bind mount, a container's volume), so files cannot be renamed there",
                    hint="mount the root as a whole, as one volume, not the folders below it",
                    retryable=False,
                )


@dataclass(frozen=True, slots=True)
class DroppedName:
    """The name under which a file was dropped.

    Attributes:
        folder: Subfolder of the inbox, "" at the top; '/'-separated, undecodable bytes as surrogate escapes.
        name: Base name, undecodable bytes as surrogate escapes.
    """

    folder: str
    name: str

    @classmethod
    def of(cls, relative: str) -> DroppedName:
        """From a path relative to the inbox."""
        folder, name = os.path.split(relative)
        return cls(folder, name)

    @property
    def relative(self) -> str:
        """Path relative to the inbox."""
        return os.path.join(self.folder, self.name)

    @property
    def shown(self) -> str:
        """``relative`` with undecodable bytes as U+FFFD: fit for JSON and logs, not for finding the file."""
        return as_unicode(self.relative)


def as_unicode(name: str) -> str:
    """A file name as valid Unicode; bytes that are not UTF-8 become U+FFFD."""
    return os.fsencode(name).decode("utf-8", "replace")


def is_utf8(name: str) -> bool:
    """Whether the bytes of a file name are UTF-8."""
    try:
        os.fsencode(name).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def name_to_text(name: str) -> str:
    """A file name as ASCII that ``name_from_text`` turns back exactly."""
    return base64.b64encode(os.fsencode(name)).decode("ascii")


def name_from_text(text: str) -> str:
    """The file name that ``name_to_text`` was given."""
    return os.fsdecode(base64.b64decode(text, validate=True))
