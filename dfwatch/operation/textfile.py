"""Metrics as a file for node_exporter's textfile collector: for units that have no network.

A thread of its own writes it, so that ages grow on while the service's main thread hangs; if the file itself grows old
(``node_textfile_mtime_seconds``), the whole process is gone or stopped.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

_log = structlog.get_logger(__name__)


class Textfile:
    """Writes a ``.prom`` file again and again; readers see all of it or the one before.

    Args:
        path: The file; its folder must exist and be writable.
        interval_s: Seconds between two writes.
        exposition: The content.
    """

    def __init__(self, path: str, interval_s: float, exposition: Callable[[], bytes]) -> None:
        self._path = path
        self._interval_s = interval_s
        self._exposition = exposition
        self._trouble = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics-file", daemon=True)

    def start(self) -> None:
        """Write now and from now on. Never fails: see ``http.Listener.start``."""
        self._write()
        self._thread.start()

    def close(self) -> None:
        """Write a last time and stop."""
        self._ended.set()
        self._thread.join(timeout=5.0)
        self._write()

    def _run(self) -> None:
        while not self._ended.wait(self._interval_s):
            self._write()

    def _write(self) -> None:
        # The collector reads names that end in .prom, and no others.
        temporary = f"{self._path}.{os.getpid()}.tmp"
        try:
            with open(temporary, "wb") as stream:
                stream.write(self._exposition())
                # node_exporter runs as another user, and nothing in here is secret.
                os.fchmod(stream.fileno(), 0o644)
            os.replace(temporary, self._path)
        except OSError as error:
            with suppress(OSError):
                os.unlink(temporary)
            if self._trouble != str(error):
                _log.error("the metrics file cannot be written; tried again", path=self._path, cause=error.strerror)
            self._trouble = str(error)
        else:
            self._trouble = ""
