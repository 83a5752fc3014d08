"""The scripted service with a journal that takes no ending in the first seconds."""

from __future__ import annotations

import sys
import time
from typing import Any

from dfwatch.errors import StorageError
from dfwatch.journal import Journal
from tests.service.scripted import main

_SICK_S = 2.5
_closed = Journal.closed
_refused_at_s: list[float] = []


def _refuse_at_first(journal: Journal, *args: Any, **kwargs: Any) -> None:
    _refused_at_s.append(time.monotonic())
    if _refused_at_s[-1] - _refused_at_s[0] < _SICK_S:
        raise StorageError("writing to the journal", "it", "database or disk is full")
    _closed(journal, *args, **kwargs)


Journal.closed = _refuse_at_first  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
