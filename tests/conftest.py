from __future__ import annotations

import pytest

from dfwatch.inference.openmp import let_threads_sleep
from tests.watchdog import pytest_exception_interact, pytest_unconfigure

__all__ = ["pytest_addoption", "pytest_exception_interact", "pytest_unconfigure"]

# Before any test module imports torch.
let_threads_sleep()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden files instead of comparing with them")
