"""Runs of pytest that are stuck on purpose: each ends by itself, says where it was stuck, and does not pass."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]

STUCK = {
    # Holds the interpreter's lock all the while: no other thread, and no signal handler of Python's, has a turn.
    "in_c_code": """
        import ctypes
        def test_it():
            mutex = ctypes.create_string_buffer(64)
            for _ in range(2):
                ctypes.PyDLL(None).pthread_mutex_lock(mutex)
    """,
    "swallows_what_should_end_it": """
        import time
        def test_it():
            while True:
                try:
                    time.sleep(60)
                except BaseException:
                    pass
    """,
    "in_a_fixture_after_a_failure": """
        import threading
        import pytest
        @pytest.fixture
        def stuck():
            yield
            threading.Event().wait()
        def test_it(stuck):
            assert False
    """,
    "at_the_end_of_the_process": """
        import threading
        def test_it():
            threading.Thread(target=threading.Event().wait).start()
    """,
}


def test_a_stuck_run_ends_by_itself(tmp_path: Path) -> None:
    runs = {}
    for name, text in STUCK.items():
        path = tmp_path / name / "test_stuck.py"
        path.parent.mkdir()
        path.write_text("\n".join(line.removeprefix(" " * 8) for line in text.splitlines()))
        command = [sys.executable, "-m", "pytest", "-p", "tests.watchdog", "-c", REPOSITORY / "pyproject.toml"]
        limits = ["-o", "timeout=0.3", "-o", "faulthandler_timeout=0.6"]
        runs[name] = subprocess.Popen(
            [*command, *limits, "-p", "no:cacheprovider", "-p", "pytest_timeout", path],
            cwd=REPOSITORY,
            env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        for name, run in runs.items():
            output, _ = run.communicate(timeout=60)
            assert run.returncode != 0, (name, output)
            assert "Timeout (0:00:00.600000)!" in output, (name, output)
            stacks = output.partition("Timeout (0:00:00.600000)!")[2]
            where = "threading.py" if name == "at_the_end_of_the_process" else "test_stuck.py"
            assert where in stacks, (name, output)
    finally:
        for run in runs.values():
            run.kill()
            run.communicate()
