"""Programs of the machine that some tests run: found, or the test is skipped with a reason.

``make test-programs`` installs them. With ``DFWATCH_REQUIRE_PROGRAMS=1``, as in CI, a missing one fails the test, so
that no test stops running unnoticed.
"""

from __future__ import annotations

import os
import shutil
from glob import glob

import pytest

# Debian keeps servers out of an ordinary user's PATH.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", "/usr/local/sbin"])


def find(*names: str) -> str | None:
    """Path of the first of these programs that is there: names, or patterns of paths; None if there is none."""
    for name in names:
        if "/" in name:
            if found := sorted(glob(name)):
                return found[-1]
        elif path := shutil.which(name, path=_PATH):
            return path
    return None


def require(*names: str) -> str:
    """Path of the first of these programs that is there; without one the test is skipped, or fails where CI runs it."""
    if path := find(*names):
        return path
    reason = f"the program {os.path.basename(names[0])} is not installed (make test-programs)"
    if os.environ.get("DFWATCH_REQUIRE_PROGRAMS") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
