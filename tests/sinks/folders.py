"""A folder that can be taken away and brought back, for the sinks whose destination is a file."""

from __future__ import annotations

import os
from pathlib import Path


class Removable:
    """``path`` is a link to a folder; while it is away, to a file, which nobody can make a folder of.

    Both changes are atomic: a sink that makes missing folders must find no moment in which there is none.
    """

    def __init__(self, top: Path) -> None:
        self.path = top / "out"
        self._folder = top / "folder"
        self._folder.mkdir()
        self._obstacle = top / "obstacle"
        self._obstacle.touch()
        self.bring_back()

    def take_away(self) -> None:
        self._point_to(self._obstacle)

    def bring_back(self) -> None:
        self._point_to(self._folder)

    def _point_to(self, target: Path) -> None:
        link = self.path.with_name("new")
        link.symlink_to(target)
        os.replace(link, self.path)
