"""Removes subfolders that senders left behind empty, where that is configured."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import structlog

from dfwatch.inbox.beneath import parent_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dfwatch.inbox.completeness import Fingerprint

_log = structlog.get_logger(__name__)


class EmptyFolders:
    """Remembers since when folders have been empty."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[Fingerprint, float]] = {}

    def sweep(self, inbox_fd: int, empty: Mapping[str, Fingerprint], now_s: float, *, age_s: float) -> None:
        """Remove the folders that held nothing, unchanged, for ``age_s``; 0: never.

        The age matters: a sender that has just made a folder is about to write into it. What is not empty any more
        cannot be removed in this way.

        Args:
            inbox_fd: Descriptor of the inbox.
            empty: Path below the inbox → fingerprint of the folders that hold nothing now.
            now_s: Monotonic time.
            age_s: How long a folder must have been empty.
        """
        before, self._since = self._since, {}
        if not age_s:
            return
        for path, fingerprint in empty.items():
            known, since_s = before.get(path, (fingerprint, now_s))
            if known != fingerprint:
                since_s = now_s
            if now_s - since_s < age_s:
                self._since[path] = (fingerprint, since_s)
                continue
            try:
                with parent_folder(inbox_fd, path) as (folder_fd, name):
                    os.rmdir(name, dir_fd=folder_fd)
            except OSError:
                # Filled, gone, or not ours to remove; its age starts anew.
                continue
            _log.info("empty_folder_removed", path=path)
