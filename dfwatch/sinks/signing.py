"""Signatures of Standard Webhooks 1.0 (https://www.standardwebhooks.com), symmetric: ``v1,`` and HMAC-SHA256."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

from dfwatch.errors import SinkError

_PREFIX: Final = "whsec_"
# What the specification asks of a secret.
_LEAST_BYTES, _MOST_BYTES = 24, 64


def parse_keys(text: str, where: str) -> list[bytes]:
    """The keys of a secret: one ``whsec_`` and base64 on each line, several while a key is being replaced.

    Raises:
        SinkError: A line is no such key; the text of the error does not repeat it.
    """
    keys = []
    for number, line in enumerate(text.split(), start=1):
        try:
            key = base64.b64decode(line.removeprefix(_PREFIX), validate=True)
        except binascii.Error:
            key = b""
        if not line.startswith(_PREFIX) or not _LEAST_BYTES <= len(key) <= _MOST_BYTES:
            raise SinkError(
                "reading the secret",
                where,
                f"line {number} is not 'whsec_' and {_LEAST_BYTES} to {_MOST_BYTES} bytes in base64",
                hint='make one: echo "whsec_$(head -c 32 /dev/urandom | base64)"',
            )
        keys.append(key)
    return keys


def signature_headers(keys: list[bytes], message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """The three headers of a signed message; one signature for each key."""
    signed = f"{message_id}.{timestamp_s}.".encode("ascii") + body
    signatures = (base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode("ascii") for key in keys)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
