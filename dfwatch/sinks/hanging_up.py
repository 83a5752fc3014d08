"""A time limit for a whole exchange, where a library has one only for each wait within it, or none.

A server that sends a byte of its headers now and then, or of the TLS handshake, makes each wait of urllib3 end in time
and the exchange never; libpq waits for an answer as long as the server is there. So open connections are known from
below TLS, and are shut down when time is up: whoever waits for them meets their end at once.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOOK_AGAIN_S: Final = 0.05


class HangingUp:
    """Some open connections, and the time limit over them."""

    def __init__(self) -> None:
        self._lines: set[socket.socket] = set()
        self._deadline_s = math.inf
        self._least_s = 0.0

    @property
    def late(self) -> bool:
        """Whether the time of the last ``at`` is up."""
        return time.monotonic() >= self._deadline_s

    def watch(self, fd: int) -> socket.socket:
        """Watch over the connection that ``fd`` belongs to, through a descriptor of its own; returns that.

        Whoever closes the connection hands it to ``forget``, or the other end would not hear of it.
        """
        line = socket.socket(fileno=os.dup(fd))
        self._deadline_s = max(self._deadline_s, time.monotonic() + self._least_s)
        self._lines.add(line)
        return line

    def forget(self, line: socket.socket) -> None:
        """Let go of what ``watch`` returned."""
        self._lines.discard(line)
        line.close()

    def over(self, pool: Any) -> Any:  # noqa: ANN401 - urllib3 is an extra
        """Watch over the connections of a urllib3 pool; returns it."""
        watch, forget = self.watch, self.forget

        class Connection(pool.ConnectionCls):  # type: ignore[misc]
            """TLS takes the descriptor out of the socket that it is given; a second one reaches the same line."""

            line: socket.socket | None = None

            def _new_conn(self) -> socket.socket:
                opened: socket.socket = super()._new_conn()
                self.line = watch(opened.fileno())
                # What is left of the limit for connecting is none for TLS, or for sending.
                opened.settimeout(None)
                return opened

            def close(self) -> None:
                super().close()
                if self.line is not None:
                    forget(self.line)
                    self.line = None

        pool.ConnectionCls = Connection
        return pool

    @contextmanager
    def at(self, deadline_s: float, *, least_s: float = 0.0) -> Iterator[None]:
        """Shut all connections down if the block still runs when the monotonic clock shows ``deadline_s``.

        Args:
            deadline_s: When time is up.
            least_s: What a connection that is made within the block has at any rate: other addresses of its host, which
                did not answer, may have used the time up.
        """
        self._deadline_s, self._least_s = deadline_s, least_s
        ended = threading.Event()
        thread = threading.Thread(target=self._mind, args=(ended,), name="hanging-up", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _mind(self, ended: threading.Event) -> None:
        # Time that is up may be put off again, by a connection that was not there yet.
        while not ended.wait(max(_LOOK_AGAIN_S, self._deadline_s - time.monotonic())):
            if self.late:
                self._shut_down()

    def _shut_down(self) -> None:
        for line in list(self._lines):
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
