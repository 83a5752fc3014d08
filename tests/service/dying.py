"""The scripted service, killed whenever it looks whether a job was published before."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from dfwatch.jobs.publisher import Publisher
from tests.service.scripted import main


def _die(*_args: object) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


Publisher.published_before = _die  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
