"""Optional dependencies: imported where they are needed, and named with the pip command where they are missing."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from dfwatch.errors import MissingExtraError

if TYPE_CHECKING:
    from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, which the extra ``dfwatch[extra]`` brings.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        raise MissingExtraError(
            "using the sink", extra, f"the Python package {exc.name or module} is missing", hint=pip_command(extra)
        ) from exc


def pip_command(extra: str) -> str:
    """What to type to get the extra."""
    return f"pip install 'dfwatch[{extra}]'"
