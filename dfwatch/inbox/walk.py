"""One look at everything in the inbox: scandir and lstat by descriptor, tolerant of whatever moves meanwhile."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dfwatch.inbox.beneath import open_folder
from dfwatch.inbox.completeness import Fingerprint

if TYPE_CHECKING:
    from dfwatch.inbox.names import NameRules

MAX_DEPTH = 64
"""Folders nested deeper are reported and not entered: each level costs an open descriptor."""

_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE})


@dataclass(slots=True)
class Snapshot:
    """What the inbox held.

    Attributes:
        entries: Path below the inbox → fingerprint, of everything that is neither a folder nor ignored.
        markers: Paths of the entries that a marker file speaks for, whether they are there or not.
        ignored: Number of names that were left alone.
        folders: Number of folders that were read, the inbox included.
        empty_folders: Paths of folders that held nothing at all → fingerprint.
        problems: Path → what could not be read and why.
    """

    entries: dict[str, Fingerprint] = field(default_factory=dict)
    markers: set[str] = field(default_factory=set)
    ignored: int = 0
    folders: int = 0
    empty_folders: dict[str, Fingerprint] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def take_snapshot(root_fd: int, rules: NameRules, *, recursive: bool) -> Snapshot:
    """Look at everything below the folder ``root_fd``; never follows a symbolic link or enters another file system.

    What vanishes meanwhile is left out; what cannot be read is named in ``problems``. Raises nothing.
    """
    walk = _Walk(rules, recursive=recursive)
    try:
        walk.device = os.fstat(root_fd).st_dev
        walk.read(root_fd, "", 1)
    except OSError as error:
        walk.note(".", error)
    return walk.snapshot


class _Walk:
    def __init__(self, rules: NameRules, *, recursive: bool) -> None:
        self.snapshot = Snapshot()
        self.device = 0
        self._rules = rules
        self._recursive = recursive

    def read(self, folder_fd: int, prefix: str, depth: int) -> bool:
        """Read one folder and those in it; says whether it held anything."""
        snapshot, rules = self.snapshot, self._rules
        snapshot.folders += 1
        held_anything = False
        subfolders: list[str] = []
        try:
            with os.scandir(folder_fd) as listing:
                for entry in listing:
                    held_anything = True
                    name = entry.name
                    is_folder = entry.is_dir(follow_symlinks=False)
                    subject = None if is_folder else rules.marker_for(name)
                    if subject is not None:
                        if entry.is_file(follow_symlinks=False):
                            snapshot.markers.add(prefix + subject)
                    elif rules.ignored(name):
                        snapshot.ignored += 1
                    elif is_folder:
                        subfolders.append(name)
                    else:
                        try:
                            fingerprint = Fingerprint.from_stat(entry.stat(follow_symlinks=False))
                        except OSError as error:
                            self.note(prefix + name, error)
                        else:
                            snapshot.entries[prefix + name] = fingerprint
        except OSError as error:
            held_anything = True
            self.note(prefix or ".", error)
        if self._recursive:
            for name in subfolders:
                self._enter(folder_fd, name, prefix + name, depth)
        else:
            snapshot.ignored += len(subfolders)
        return held_anything

    def _enter(self, folder_fd: int, name: str, path: str, depth: int) -> None:
        if depth >= MAX_DEPTH:
            self.snapshot.problems[path] = f"nested deeper than {MAX_DEPTH} folders"
            return
        try:
            inner_fd = open_folder(name, dir_fd=folder_fd)
        except OSError as error:
            self.note(path, error)
            return
        try:
            status = os.fstat(inner_fd)
            if status.st_dev != self.device:
                self.snapshot.problems[path] = "on another file system, so that its files cannot be claimed by renaming"
            elif not self.read(inner_fd, path + "/", depth + 1):
                self.snapshot.empty_folders[path] = Fingerprint.from_stat(status)
        except OSError as error:
            self.note(path, error)
        finally:
            os.close(inner_fd)

    def note(self, path: str, error: OSError) -> None:
        """Remember what could not be read; that something has vanished is nothing to remember."""
        if error.errno not in _GONE:
            self.snapshot.problems[path] = error.strerror or str(error)
