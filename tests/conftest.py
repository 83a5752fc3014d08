from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import hypothesis
import pytest

from dfwatch.inference.openmp import let_threads_sleep

if TYPE_CHECKING:
    from tests.browser import Browser
from tests.watchdog import pytest_exception_interact, pytest_unconfigure

__all__ = ["pytest_addoption", "pytest_exception_interact", "pytest_unconfigure"]

# Before any test module imports torch.
let_threads_sleep()
# A busy machine is no failure; how long a test may take is pytest-timeout's business.
hypothesis.settings.register_profile("dfwatch", deadline=None)
hypothesis.settings.load_profile("dfwatch")

# OpenVINO is tested in processes of its own (tests/openvino_process.py); here it counts as not installed.
sys.modules["openvino"] = None  # type: ignore[assignment]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden files instead of comparing with them")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium; the test is skipped where there is none."""
    from tests.browser import Browser

    made = Browser()
    yield made
    made.remove()
