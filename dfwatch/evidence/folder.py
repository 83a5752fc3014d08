"""A folder of evidence: published whole and durable, or not at all.

It is published before the sidecar that refers to it. A crash in between leaves a folder that nothing refers to; the
next attempt at the same job puts its own in its place, under the same name.
"""

from __future__ import annotations

import errno
import os
import shutil
from typing import TYPE_CHECKING

from dfwatch.errors import StorageError
from dfwatch.storage.durable import fitting_name, fsync_folder
from dfwatch.storage.layout import is_utf8
from dfwatch.storage.placement import make_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dfwatch.storage.layout import DroppedName


def folder_names(name: str, job_id: str) -> list[str]:
    """The folder's names, in the order in which they are tried: no other job's has them, and JSON can hold them.

    The last one is for file systems that take no longer name.
    """
    fitting, short = fitting_name(name, f".{job_id}.evidence"), f"{job_id}.evidence"
    return [fitting, short] if is_utf8(fitting) else [short]


def publish_folder(base: str, dropped: DroppedName, job_id: str, files: Mapping[str, bytes]) -> str:
    """Write a folder of files beside where the job's sidecar will be; returns its path.

    Args:
        base: Top folder of the sidecar.
        dropped: Name and subfolder of the video.
        job_id: The job.
        files: Content by file name.

    Raises:
        StorageError: The disk did not take it; nothing half-written is visible.
    """
    try:
        parent = make_folder(base, dropped, job_id)
        temporary = os.path.join(parent, f".{job_id}.evidence.tmp")
        _remove(temporary)
        try:
            os.mkdir(temporary)
            for name, data in files.items():
                with open(os.path.join(temporary, name), "xb") as stream:
                    stream.write(data)
                    stream.flush()
                    os.fsync(stream.fileno())
            fsync_folder(temporary)
            path = _put(temporary, [os.path.join(parent, name) for name in folder_names(dropped.name, job_id)])
        except BaseException:
            _remove(temporary)
            raise
        fsync_folder(parent)
    except OSError as exc:
        raise StorageError(
            "writing the evidence of", dropped.shown, exc.strerror or exc, hint="check the disk and results/"
        ) from exc
    return path


def _put(temporary: str, paths: Sequence[str]) -> str:
    """Rename the folder to the first path that the file system takes, in place of what is there."""
    *longer, last = paths
    for path in longer:
        _remove(path)
        try:
            os.rename(temporary, path)
        except OSError as exc:
            if exc.errno != errno.ENAMETOOLONG:
                raise
        else:
            return path
    _remove(last)
    os.rename(temporary, last)
    return last


def _remove(path: str) -> None:
    if os.path.lexists(path):
        shutil.rmtree(path)
