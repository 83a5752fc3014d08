"""Whether the root is still the one that the service began with: disks are unmounted, and folders renamed, any time.

What lies at the root's path then is another folder. Were the service to make its own folders there, it would publish
into it, and what it published would vanish when the disk comes back.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dfwatch.errors import StorageError

if TYPE_CHECKING:
    from dfwatch.storage.layout import Layout


class RootGuard:
    """Knows the root, and the journal in it, by device and inode.

    Args:
        layout: The service's folders, which are there, as is the journal.

    Raises:
        StorageError: The root cannot be looked at.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        try:
            self._identity = _identity(layout.root)
            self._journal = _identity(layout.journal) if os.path.exists(layout.journal) else None
        except OSError as exc:
            raise StorageError("looking at the root", layout.root, exc.strerror or exc, hint="check the disk") from exc

    def check(self) -> None:
        """Say so if the root is not there.

        Raises:
            StorageError: It was unmounted, renamed or replaced; retryable, because it may come back.
        """
        try:
            if _identity(self._layout.root) == self._identity:
                return
            cause = "the root was unmounted or replaced: another folder lies at its path"
        except OSError as exc:
            cause = f"the root is gone: {exc.strerror or exc}"
        raise StorageError("using the root", self._layout.root, cause, hint="mount it, or put it back")

    def journal_lost(self) -> bool:
        """Whether another journal lies there, or none: what is written into the open one is seen by nobody."""
        try:
            return self._journal is not None and _identity(self._layout.journal) != self._journal
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def replaced(self) -> bool:
        """Whether another service's root lies there: this one was mounted anew as another device, or restored."""
        try:
            return _identity(self._layout.root) != self._identity and os.path.exists(self._layout.lock)
        except OSError:
            return False


def _identity(path: str) -> tuple[int, int]:
    info = os.stat(path)
    return info.st_dev, info.st_ino
