"""Types of command-line options whose values lie in a range."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_Number = TypeVar("_Number", int, float)


def in_range(kind: type[_Number], least: _Number, most: _Number, what: str = "") -> Callable[[str], _Number]:
    """From an option's text to a number of this kind and range; ``what`` it is, in words, is for the complaint."""
    what = what or ("whole number" if kind is int else "number")

    def convert(text: str) -> _Number:
        try:
            value = kind(text)
        except ValueError:
            value = None
        # Not "value < least": NaN compares with nothing.
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no {what} from {least} to {most}")
        return value

    return convert
