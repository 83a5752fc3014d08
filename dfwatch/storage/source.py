"""Opening a file that nobody vouches for, and telling later whether it is still the same."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from dfwatch.errors import FileChangedError, RefusedError, StorageError
from dfwatch.inbox.beneath import UNTRUSTED_FILE
from dfwatch.inbox.completeness import Fingerprint
from dfwatch.reasons import Reason

# What is answered where nothing can be: below a file, or under a name that is longer than any.
_NOT_THERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})


def open_regular(path: str, shown: str) -> tuple[int, Fingerprint]:
    """Open a file for reading if it is a regular one, without following links or waiting for a pipe.

    Args:
        path: The file.
        shown: How it is called in errors.

    Returns:
        A descriptor, which the caller closes, and the file's fingerprint at this moment.

    Raises:
        RefusedError: It is a link, a pipe, a socket, a device or empty, is not there, or may not be read.
        StorageError: The disk failed.
    """
    try:
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            raise _refused(shown, Reason.SYMLINK, "it is a symbolic link", "drop the file itself")
        if not stat.S_ISREG(mode):
            raise _refused(shown, Reason.NOT_A_REGULAR_FILE, f"it is {_kind(mode)}, not a file", "drop a video file")
        fd = os.open(path, UNTRUSTED_FILE)
    except PermissionError as exc:
        raise _refused(shown, Reason.UNREADABLE, "permission denied", "let the service's user read it") from exc
    except OSError as exc:
        if exc.errno in _NOT_THERE:
            raise RefusedError("opening", shown, "it is not there", reason=Reason.VANISHED) from exc
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
    return fd, Fingerprint.from_stat(info)


def check_unchanged(fd: int, path: str, shown: str, before: Fingerprint) -> None:
    """Make sure that a file is still the one, with the bytes, that ``before`` was taken of.

    Raises:
        FileChangedError: It was written to, replaced or removed.
    """
    try:
        now, there = Fingerprint.from_stat(os.fstat(fd)), Fingerprint.from_stat(os.lstat(path))
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise FileChangedError("checking", shown, "it was removed", reason=Reason.VANISHED) from exc
    if not (now.same_bytes(before, renamed=False) and there.same_bytes(before, renamed=False)):
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
