from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.daemon import Daemon


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Makes daemons (not started yet); whatever still runs at the end of the test is killed."""
    made: list[Daemon] = []

    def make(changes: dict[str, Any] | None = None, folder: str = "a") -> Daemon:
        (tmp_path / folder).mkdir(exist_ok=True)
        made.append(Daemon(tmp_path / folder, changes))
        return made[-1]

    yield make
    for daemon in made:
        daemon.kill()


@pytest.fixture
def daemon(daemons: Callable[..., Daemon]) -> Daemon:
    return daemons()
