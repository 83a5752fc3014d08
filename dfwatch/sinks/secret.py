"""Secrets: the configuration names where one is kept and never holds one.

``file:/etc/dfwatch/hook.key`` is a file, ``credential:NAME`` a systemd credential (``LoadCredential=``, found below
``$CREDENTIALS_DIRECTORY``), ``env:NAME`` an environment variable. They are read at each use, so a key that was replaced
is taken without a restart.
"""

from __future__ import annotations

import os
import re

from dfwatch.errors import SinkError

_MOST_BYTES = 64 * 1024
_CREDENTIAL = re.compile(r"[A-Za-z0-9._-]+")
FORMS = "file:/PATH, credential:NAME or env:NAME"


def complaint(reference: str) -> str:
    """What is wrong with a reference to a secret; empty when nothing is. Never repeats the text: it may be a secret."""
    kind, _, rest = reference.partition(":")
    if kind == "file" and os.path.isabs(rest):
        return ""
    if kind == "credential" and _CREDENTIAL.fullmatch(rest) and rest not in {".", ".."}:
        return ""
    if kind == "env" and rest.isidentifier():
        return ""
    return "does not say where the secret is kept"


def read_secret(reference: str) -> str:
    """The secret, without white space around it.

    Raises:
        SinkError: It cannot be read or is empty.
    """
    kind, _, rest = reference.partition(":")
    if kind == "env":
        text = os.environ.get(rest, "")
    else:
        path = rest if kind == "file" else os.path.join(os.environ.get("CREDENTIALS_DIRECTORY", ""), rest)
        if not os.path.isabs(path):
            raise SinkError(
                "reading the secret",
                reference,
                "there is no $CREDENTIALS_DIRECTORY",
                hint="LoadCredential= in the unit gives it to the service; a shell has none, see docs/sinks.md",
            )
        try:
            # An editor's byte order mark is no part of the secret.
            with open(path, encoding="utf-8-sig") as stream:
                text = stream.read(_MOST_BYTES)
        except (OSError, UnicodeDecodeError) as exc:
            cause = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
            raise SinkError("reading the secret", reference, cause) from None
    if not text.strip():
        raise SinkError("reading the secret", reference, "it is empty or not there")
    return text.strip()
