"""Open files below a folder without ever following a symbolic link, whoever renames things meanwhile."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Who may write a folder need not be allowed to read it.
_ON_THE_WAY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A FIFO without a writer must not block, and neither must a file on which another process holds a lease.
UNTRUSTED_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY


def open_folder(name: str, *, dir_fd: int) -> int:
    """Descriptor of the folder ``name`` (one component) in the folder ``dir_fd``; OSError as for ``open``."""
    return os.open(name, _FOLDER, dir_fd=dir_fd)


@contextmanager
def reached_folder(root: str, path: str) -> Iterator[str]:
    """A name of the folder ``path`` below the folder ``root``, made where it is missing; good until the block ends.

    It leads to that folder alone: whoever puts a symbolic link in its way is not followed. OSError as for ``open`` and
    ``mkdir``; ENOTDIR where a link, or anything else, is in the way.
    """
    folder_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in filter(None, path.split("/")):
            try:
                inner_fd = os.open(name, _ON_THE_WAY, dir_fd=folder_fd)
            except FileNotFoundError:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=folder_fd)
                inner_fd = os.open(name, _ON_THE_WAY, dir_fd=folder_fd)
            os.close(folder_fd)
            folder_fd = inner_fd
        yield f"/proc/self/fd/{folder_fd}"
    finally:
        os.close(folder_fd)


@contextmanager
def parent_folder(root_fd: int, path: str) -> Iterator[tuple[int, str]]:
    """Descriptor of the folder that holds ``path`` (relative to ``root_fd``), and the last component of ``path``."""
    *folders, last = path.split("/")
    folder_fd = os.dup(root_fd)
    try:
        for name in folders:
            inner_fd = open_folder(name, dir_fd=folder_fd)
            os.close(folder_fd)
            folder_fd = inner_fd
        yield folder_fd, last
    finally:
        os.close(folder_fd)


def open_file(root_fd: int, path: str) -> int:
    """Read-only descriptor of ``path`` (relative to ``root_fd``), opened without blocking; OSError as for ``open``."""
    with parent_folder(root_fd, path) as (folder_fd, name):
        return os.open(name, UNTRUSTED_FILE, dir_fd=folder_fd)
