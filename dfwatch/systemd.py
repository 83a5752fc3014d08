"""Telling systemd how the service is: the protocol of sd_notify(3), without libsystemd.

Outside systemd (no ``NOTIFY_SOCKET``) every message is silently dropped, so callers need no conditions.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

from dfwatch.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

_SEND_TIMEOUT_S = 1.0
_MAX_STATUS = 400


class Notifier:
    """Sends state to the service manager.

    Each method returns whether the message was handed over: False outside systemd, and when the manager's socket is
    gone or full; a service has nothing better to do about that than to go on.
    """

    def __init__(self, address: str = "") -> None:
        """Use the socket at ``address``: a path, or an abstract name when it begins with @; "" drops all messages."""
        self._address = "\0" + address[1:] if address.startswith("@") else address

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Notifier:
        """The notifier that ``NOTIFY_SOCKET`` asks for. Other address families (vsock) count as none."""
        address = environment.get("NOTIFY_SOCKET", "")
        return cls(address if address.startswith(("/", "@")) else "")

    def ready(self, status: str = "") -> bool:
        """Start-up, or the reload that ``reloading`` announced, is over."""
        return self._send("READY=1", *_status(status))

    def status(self, text: str) -> bool:
        """One line for ``systemctl status``; what is not printable is escaped."""
        return self._send(*_status(text))

    def watchdog(self) -> bool:
        """The service made progress. See ``heartbeat`` for who may call this."""
        return self._send("WATCHDOG=1")

    def reloading(self, monotonic_us: int | None = None) -> bool:
        """The configuration is being read again; ``ready`` must follow.

        ``monotonic_us`` is CLOCK_MONOTONIC in microseconds, by default now; systemd 253 and later ask for it
        (``Type=notify-reload``), earlier ones ignore it.
        """
        if monotonic_us is None:
            monotonic_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        return self._send("RELOADING=1", f"MONOTONIC_USEC={monotonic_us}")

    def stopping(self, status: str = "") -> bool:
        """The service has begun to stop."""
        return self._send("STOPPING=1", *_status(status))

    def extend_timeout(self, seconds: float) -> bool:
        """Give the start, stop or run time in progress at least ``seconds`` more from now (EXTEND_TIMEOUT_USEC)."""
        return self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def _send(self, *lines: str) -> bool:
        if not self._address or not lines:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                # A manager that does not read must not hang the service, which would then miss its watchdog too.
                sender.settimeout(_SEND_TIMEOUT_S)
                sender.connect(self._address)
                sender.sendall("\n".join(lines).encode())
        except OSError:
            return False
        return True


def watchdog_interval_s(environment: Mapping[str, str] = os.environ, pid: int | None = None) -> float | None:
    """Seconds within which systemd expects ``watchdog`` again and again; None when it expects nothing of us.

    Send at half of this (sd_watchdog_enabled(3)).
    """
    microseconds = environment.get("WATCHDOG_USEC", "")
    meant = environment.get("WATCHDOG_PID", "")
    if not (microseconds.isascii() and microseconds.isdigit()) or int(microseconds) == 0:
        return None
    if meant and meant != str(os.getpid() if pid is None else pid):
        return None
    return int(microseconds) / 1e6


def _status(text: str) -> tuple[str, ...]:
    # A line break in a file name must not begin a field of its own, such as STOPPING=1.
    return (f"STATUS={printable(text)[:_MAX_STATUS]}",) if text else ()
