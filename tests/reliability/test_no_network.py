"""The shipped model on a machine without any network: nothing is fetched at run time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import programs
from tests.clips import make_clip
from tests.service.daemon import REPOSITORY


def test_the_shipped_model_judges_without_a_network(tmp_path: Path) -> None:
    """Not even loopback is up in a network namespace of its own."""
    alone = [programs.require("unshare"), "--map-root-user", "--net"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("network namespaces are not allowed here")
    clip = make_clip(tmp_path / "clip.mp4", seconds=1.0, size=(320, 240))
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [*alone, sys.executable, "-m", "dfwatch", "scan", "--json", str(clip)],
        cwd=REPOSITORY,
        # A cache that somebody filled earlier does not count.
        env={"PATH": "/usr/bin:/bin", "HOME": str(home), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["status"], len(document["tracks"])) == ("done", 1)
    assert document["verdict"] in {"FAKE", "REAL", "INCONCLUSIVE"}
    assert 0.0 <= document["p_fake"] <= 1.0
    assert document["model"]["weights_sha256"]
