"""Colours, where they are wanted."""

from __future__ import annotations

import os
from typing import TextIO

_CODES = {"red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def wants_colour(stream: TextIO) -> bool:
    """Whether a stream is a terminal that shows colours (see no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, *, coloured: bool) -> str:
    """``text`` in bold and this colour: red, green, yellow or cyan."""
    return f"\x1b[1;{_CODES[colour]}m{text}\x1b[0m" if coloured else text


def dim(text: str, *, coloured: bool) -> str:
    """``text`` in the background."""
    return f"\x1b[2m{text}\x1b[0m" if coloured else text
