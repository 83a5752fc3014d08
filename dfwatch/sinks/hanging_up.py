"""A time limit for a whole exchange over HTTP, which urllib3 has only for each wait within one.

A server that sends a byte of its headers now and then, or of the TLS handshake, makes each wait end in time and the
exchange never. So open connections are known from below TLS, and are shut down when time is up: whoever waits for
them meets their end at once.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class HangingUp:
    """The open connections of some pools, and the time limit over them."""

    def __init__(self) -> None:
        self._lines: set[socket.socket] = set()

    def over(self, pool: Any) -> Any:  # noqa: ANN401 - urllib3 is an extra
        """Watch over the connections of a urllib3 pool; returns it."""
        lines = self._lines

        class Connection(pool.ConnectionCls):  # type: ignore[misc]
            """TLS takes the descriptor out of the socket that it is given; a second one reaches the same line."""

            line: socket.socket | None = None

            def _new_conn(self) -> socket.socket:
                opened: socket.socket = super()._new_conn()
                self.line = opened.dup()
                lines.add(self.line)
                return opened

            def close(self) -> None:
                super().close()
                # Or the other end would not hear of it.
                if self.line is not None:
                    lines.discard(self.line)
                    self.line.close()
                    self.line = None

        pool.ConnectionCls = Connection
        return pool

    @contextmanager
    def at(self, deadline_s: float) -> Iterator[None]:
        """Shut all connections down if the block still runs when the monotonic clock shows ``deadline_s``."""
        timer = threading.Timer(max(0.0, deadline_s - time.monotonic()), self._shut_down)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()

    def _shut_down(self) -> None:
        for line in list(self._lines):
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
