"""Addresses to listen on."""

from __future__ import annotations

import ipaddress


def split_address(text: str) -> tuple[str, int]:
    """``127.0.0.1:9464`` or ``[::1]:9464`` as host and port.

    Raises:
        ValueError: It is not an IP address with a port from 0 to 65535.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} does not end in a port")
    return str(ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))), int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    return ipaddress.ip_address(host).is_loopback
