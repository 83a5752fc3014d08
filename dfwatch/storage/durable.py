"""File operations that survive power loss and never replace what is there."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from dfwatch.storage.crashpoints import crash_point

if TYPE_CHECKING:
    from collections.abc import Callable

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
# What kernels and file systems answer that do not know RENAME_NOREPLACE.
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}
# What file systems answer that have no hard links, and kernels that allow none to other people's files
# (fs.protected_hardlinks).
_NO_LINKS = _UNSUPPORTED | {errno.EPERM, errno.EMLINK}
NAME_MAX_BYTES = 255

_looking = threading.Lock()


@functools.cache
def _libc_renameat2() -> Callable[[bytes, bytes], int] | None:
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]

    def renameat2(source: bytes, target: bytes) -> int:
        result: int = function(_AT_FDCWD, source, _AT_FDCWD, target, _RENAME_NOREPLACE)
        return ctypes.get_errno() if result else 0

    return renameat2


def rename_new(source: str, target: str) -> None:
    """Rename, atomically, unless something is there.

    Raises:
        FileExistsError: ``target`` exists; nothing was changed.
        OSError: As of ``rename(2)``.
    """
    renameat2 = _libc_renameat2()
    error = errno.ENOSYS if renameat2 is None else renameat2(os.fsencode(source), os.fsencode(target))
    if not error:
        return
    if error not in _UNSUPPORTED:
        raise OSError(error, os.strerror(error), source, None, target)
    _link_and_unlink(source, target)


def _link_and_unlink(source: str, target: str) -> None:
    """Where the kernel cannot rename without replacing: a hard link refuses to replace."""
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        # A crash between the two calls left both names; what is missing is the second one.
        if not os.path.samestat(os.lstat(source), os.lstat(target)):
            raise
    except OSError as exc:
        if exc.errno not in _NO_LINKS:
            raise
        _look_and_rename(source, target)
        return
    try:
        os.unlink(source)
    except OSError:
        if not _take_back(source, target):
            raise


def _take_back(source: str, target: str) -> bool:
    """Undo the link of a file whose old name cannot be removed; True if that name is gone after all.

    Servers do what they were told and fail to say so. What would be removed then is the last name of the file.
    """
    # Opening the folder makes a network file system ask its server anew.
    with suppress(OSError):
        fsync_folder(os.path.dirname(source) or ".")
    try:
        there = os.lstat(source)
    except FileNotFoundError:
        return True
    # One file under two names would be taken twice.
    with suppress(OSError):
        if os.path.samestat(there, os.lstat(target)):
            os.unlink(target)
    return False


def _look_and_rename(source: str, target: str) -> None:
    """Where there are no links either, or none to other people's files: nothing in this process comes in between."""
    with _looking:
        try:
            os.lstat(target)
        except FileNotFoundError:
            os.rename(source, target)
        else:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), source, None, target)


def may_write(folder: str) -> bool:
    """Whether we may make files in a folder; False also where that cannot be told."""
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=True)


def fsync_folder(path: str) -> None:
    """Make the entries of a folder durable."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        # Who may write a folder need not be allowed to read it, and what cannot be opened goes to the disk only with
        # everything else.
        if not may_write(path):
            raise
        os.sync()
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_new(path: str, data: bytes, *, temporary: str, mode: int = 0o644) -> None:
    """Publish a whole, durable file under a name that is free; readers see all of it or nothing.

    Args:
        path: The final name.
        data: The content.
        temporary: Name in the same folder under which it is written first; replaced if a crash left one.
        mode: Permissions, before the umask.

    Raises:
        FileExistsError: ``path`` exists; it is left as it is and the temporary file is removed.
        OSError: The disk's answer; nothing is left behind.
    """
    with suppress(FileNotFoundError):
        os.unlink(temporary)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        with open(fd, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        crash_point("sidecar.written")
        rename_new(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    crash_point("sidecar.renamed")
    fsync_folder(os.path.dirname(path) or ".")


def fitting_name(name: str, suffix: str) -> str:
    """``name + suffix``, with ``name`` cut at its end so that the file system takes the whole (255 bytes).

    Whole characters are cut off: there are file systems that take UTF-8 only, and programs that read nothing else.
    """
    room = NAME_MAX_BYTES - len(os.fsencode(suffix))
    while len(os.fsencode(name)) > room:
        name = name[:-1]
    return name + suffix
