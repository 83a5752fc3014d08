"""Other users, for tests of permissions."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

NOBODY: Final = 65534


@contextlib.contextmanager
def somebody_else() -> Iterator[None]:
    """As a user without special powers: root may do everything, so as root no permission could be tested."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
