from __future__ import annotations

import pytest

from dfwatch.inference.openmp import let_threads_sleep

# Before any test module imports torch.
let_threads_sleep()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden files instead of comparing with them")
