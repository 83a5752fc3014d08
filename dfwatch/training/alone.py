"""One command at a time for one folder."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from dfwatch.errors import TrainingError
from dfwatch.storage.folderlock import lock_folder

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def alone_in(folder: str) -> Iterator[None]:
    """Make a folder where it is missing, and keep other commands that ask here out of it.

    Raises:
        TrainingError: When it cannot be made or opened, or another process is at work in it.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise TrainingError("opening the folder", folder, error.strerror or error) from error
    try:
        try:
            lock_folder(fd)
        except BlockingIOError as error:
            raise TrainingError(
                "working in", folder, "another command is at work in it", hint="wait for it, or use another folder"
            ) from error
        yield
    finally:
        os.close(fd)
