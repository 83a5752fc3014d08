"""Pure: what a name in the inbox means, by the configured patterns alone."""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dfwatch.config import WatchSettings

_PLAIN = re.compile(r"[^*?\[]*")


class NameRules:
    """Tells ignored names and marker files from candidates.

    Upper and lower case are the same for ignored names, because senders on Windows do not tell them apart. Each method
    takes one component of a path; the walk does not enter an ignored folder, so that every component is asked.
    """

    def __init__(self, settings: WatchSettings) -> None:
        endings: list[str] = []
        beginnings: list[str] = []
        exact: set[str] = set()
        others: list[str] = []
        patterns = [pattern.lower() for pattern in settings.ignore]
        if settings.rename_from:
            patterns.append(f"*{glob_escape(settings.rename_from.lower())}")
        # An inbox may hold many thousand names: plain comparisons where a pattern allows it.
        for pattern in patterns:
            if _PLAIN.fullmatch(pattern):
                exact.add(pattern)
            elif pattern.startswith("*") and _PLAIN.fullmatch(pattern, 1):
                endings.append(pattern[1:])
            elif pattern.endswith("*") and _PLAIN.fullmatch(pattern, 0, len(pattern) - 1):
                beginnings.append(pattern[:-1])
            else:
                others.append(fnmatch.translate(pattern))
        self._endings = tuple(endings)
        self._beginnings = tuple(beginnings)
        self._exact = frozenset(exact)
        self._other = re.compile("|".join(others)) if others else None
        self._marker = settings.marker

    def ignored(self, component: str) -> bool:
        """Whether an entry of this name is left where it is (a folder: with all that is in it)."""
        lowered = component.lower()
        return (
            lowered.endswith(self._endings)
            or lowered.startswith(self._beginnings)
            or lowered in self._exact
            or (self._other is not None and self._other.match(lowered) is not None)
        )

    def marker_for(self, component: str) -> str | None:
        """The name that a marker file of this name speaks for; None where it is no marker."""
        marker = self._marker
        if marker and component.endswith(marker) and len(component) > len(marker):
            return component[: -len(marker)]
        return None


def glob_escape(text: str) -> str:
    """``text`` as a shell pattern that matches only itself."""
    return re.sub(r"([*?\[])", r"[\1]", text)
