"""Ends a test run that is stuck, with the stacks of all its threads, wherever it is stuck.

Three guards, each for what the one before cannot end:

* pytest-timeout (``timeout`` in pyproject.toml) fails a test by an exception in the main thread, and the run goes on.
  A main thread that is in C code, or code that swallows the exception, does not care.
* faulthandler (``faulthandler_timeout``), which needs no interpreter, ends the run. pytest calls it off when a test
  fails, and has it watch single tests only: here it also watches what follows a failure, and the end of the process,
  where threads that somebody forgot are waited for.
* ``.ci/run`` ends everything after a while.

A run without limits: ``--timeout 0 -o faulthandler_timeout=0``.
"""

from __future__ import annotations

import faulthandler

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key

_STDERR_FD = 2


def _watch(config: pytest.Config, file: int) -> None:
    limit_s = float(config.getini("faulthandler_timeout") or 0.0)
    if limit_s > 0:
        faulthandler.dump_traceback_later(limit_s, file=file, exit=True)


@pytest.hookimpl(trylast=True)
def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    """Watch what follows a failure, when fixtures are torn down; pytest calls it off at the end of the test."""
    if isinstance(node, pytest.Item):
        # Descriptor 2 is a file that pytest captures in, and throws away.
        _watch(node.config, node.config.stash[fault_handler_stderr_fd_key])


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Watch the end of the process, which waits for threads and handlers."""
    _watch(config, _STDERR_FD)
