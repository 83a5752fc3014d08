"""Where a destination is, as settings write it: what is wrong with a URL or with the name of a host.

No complaint repeats the text: what was mistyped may be a secret.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Collection

# White space and control characters, and what begins another part of a URL.
_NOT_IN_HOSTS: Final = re.compile(r"[\s\x00-\x20\x7f/\\@?#\[\]]")


def url_complaint(url: str, schemes: Collection[str], *, needs_host: bool = True) -> str:
    """What is wrong with a URL; empty when nothing is."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return "is not a URL"
    if parts.scheme not in schemes or ((host or needs_host) and host_complaint(host)):
        return "is not a URL"
    try:
        usable = parts.port != 0
    except ValueError:
        usable = False
    return "" if usable else "has a port that is not a number from 1 to 65535"


def host_complaint(host: str) -> str:
    """What is wrong with the name or the address of a host; empty when nothing is."""
    try:
        # An empty part between two dots, or one that is too long, is an error at each use.
        host.encode("idna")
    except UnicodeError:
        return "is not the name or the address of a host"
    # One colon is a port's; an address of IPv6 has more.
    wrong = not host or _NOT_IN_HOSTS.search(host) is not None or host.count(":") == 1
    return "is not the name or the address of a host" if wrong else ""
