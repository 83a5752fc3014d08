"""A progress line at a terminal, for work that takes long; silent everywhere else."""

from __future__ import annotations

import shutil
import threading
import time
from typing import TYPE_CHECKING, Self, TextIO

from dfwatch.printable import printable

if TYPE_CHECKING:
    from types import TracebackType

_SHOW_AFTER_S = 0.8
_REDRAW_S = 0.2
_BAR_CELLS = 20


class Progress:
    """How many of some files are done, and which one is in work for how long.

    Args:
        stream: Where to draw; nothing is drawn unless it is a terminal.
        total: Number of files.
    """

    def __init__(self, stream: TextIO, total: int) -> None:
        self._stream = stream
        self._total = total
        self._finished = 0
        self._label = ""
        self._since_s = self._began_s = time.monotonic()
        self._drawn = False
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._redraw, name="progress", daemon=True)

    def __enter__(self) -> Self:
        if self._stream.isatty():
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._lock:
            self._clear()

    def begin(self, label: str) -> None:
        """Something with this name begins."""
        with self._lock:
            self._label, self._since_s = label, time.monotonic()

    def done(self) -> None:
        """One file is done; the line is cleared, so that its result can be printed."""
        with self._lock:
            self._finished += 1
            self._clear()

    def _redraw(self) -> None:
        while not self._ended.wait(_REDRAW_S):
            with self._lock:
                now_s = time.monotonic()
                if now_s - self._began_s >= _SHOW_AFTER_S:
                    self._draw(now_s)

    def _draw(self, now_s: float) -> None:
        cells = _BAR_CELLS * self._finished // self._total
        bar = "█" * cells + "░" * (_BAR_CELLS - cells)
        text = f"{bar} {self._finished}/{self._total}  {now_s - self._since_s:.0f} s  {printable(self._label)}"
        width = shutil.get_terminal_size().columns
        self._stream.write("\r\x1b[K" + text[: width - 1])
        self._stream.flush()
        self._drawn = True

    def _clear(self) -> None:
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._drawn = False
