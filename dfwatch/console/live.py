"""A terminal's second screen that is redrawn in place: no scrolling, no flicker, and the first one back at the end."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Final, TextIO

from dfwatch.operation.wake import Wake

if TYPE_CHECKING:
    from collections.abc import Callable

_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[2J"
_COLUMNS: Final = 80
_ROWS: Final = 24
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
# Terminals that know synchronised updates show a frame only when it is whole; others ignore the marks.
_BEGIN_FRAME: Final = "\x1b[?2026h\x1b[H"
_END_FRAME: Final = "\x1b[J\x1b[?2026l"


def redraw(stream: TextIO, frame: Callable[[int, int], list[str]], interval_s: float) -> None:
    """Draw ``frame(columns, rows)`` again and again until Ctrl-C or SIGTERM, and at once when the window changes size.

    Args:
        stream: The terminal.
        frame: The lines to show, each no longer than the columns, no more than the rows.
        interval_s: Seconds between two frames.
    """
    wake, ended = Wake(), False

    def resized(_number: int, _frame: object) -> None:
        wake.set()

    def end(_number: int, _frame: object) -> None:
        nonlocal ended
        ended = True
        wake.set()

    handlers = {signal.SIGWINCH: resized, signal.SIGTERM: end, signal.SIGINT: end}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    stream.write(_ENTER)
    try:
        while not ended:
            wake.clear()
            # Not shutil's, which prefers COLUMNS and LINES: those do not change when the window does.
            size = os.get_terminal_size(stream.fileno())
            # What is written into the last column may be erased with the rest of its line.
            lines = frame((size.columns or _COLUMNS) - 1, size.lines or _ROWS)
            # Each line erases what is left of the one before it: nothing is ever blank in between.
            stream.write(_BEGIN_FRAME + "\n".join(f"{line}\x1b[K" for line in lines) + _END_FRAME)
            stream.flush()
            wake.wait(interval_s)
    finally:
        stream.write(_LEAVE)
        stream.flush()
        for number, handler in before.items():
            signal.signal(number, handler)
        wake.close()
