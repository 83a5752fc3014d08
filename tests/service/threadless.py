"""The scripted service on a machine that starts no threads for as long as a file called ``no threads`` is there."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from tests.service.scripted import main

_start = threading.Thread.start
_trouble = Path(sys.argv[1]).with_name("no threads")


def _refuse(thread: threading.Thread) -> None:
    if _trouble.exists():
        # What CPython makes of EAGAIN.
        raise RuntimeError("can't start new thread")
    _start(thread)


threading.Thread.start = _refuse  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
