"""Child processes of the benchmark: run from this checkout, and asked for what they found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]


def environment(**more: str) -> dict[str, str]:
    """This process's environment, with this checkout's packages first, and ``more``."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), **more}


def found_by(module: str, *arguments: str, limit_s: float) -> dict[str, Any]:
    """Run a module; its last line is the JSON object that it found.

    Raises:
        subprocess.CalledProcessError: It failed.
        subprocess.TimeoutExpired: It took longer than ``limit_s``, and was killed.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=limit_s,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
