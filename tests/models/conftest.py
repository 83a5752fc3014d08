from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dfwatch.inference.openmp import let_threads_sleep

let_threads_sleep()

import torch  # noqa: E402 - after the line above, which must come first

from tests.models.seeded import example_bundle, seeded_bundle  # noqa: E402 - imports torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dfwatch.models.bundle import Bundle


@pytest.fixture(autouse=True)
def few_threads() -> Iterator[None]:
    """One thread unless a test asks for more: small networks run no quicker on two, and other tests run beside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """EfficientNet-Lite0 at 64 px with seeded weights, on disk; not to be changed."""
    return seeded_bundle(tmp_path_factory.mktemp("small") / "bundle", example_bundle())
