"""Keeping others out of a folder by a lock that the kernel lets go of when its holder dies, however it dies."""

from __future__ import annotations

import fcntl


def lock_folder(fd: int) -> None:
    """Lock an open folder for as long as its descriptor is open.

    Some network file systems lock no folders: there nobody is kept out.

    Raises:
        BlockingIOError: Another process holds it.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return
