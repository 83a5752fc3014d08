"""What every case is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from benchmarks.clips import ClipStore


@dataclass(frozen=True, slots=True)
class Context:
    """Options of the run, and where things are.

    Attributes:
        folder: For this run's files; removed afterwards. On the same file system as the clips.
        clips: Makes clips, and keeps them from run to run.
        models: Models by name: a bundle's folder or a checkpoint. The first one is what ships.
        rounds: How often a short measurement is repeated; medians are told.
        files: Clips in the folder of the throughput case.
        tiny_files: Files of the overhead case.
        labelled: A folder of videos (with ``labels.csv``, where there is one); None: that case is skipped.
        quick: Shorter clips and fewer rounds: for trying out the harness, not for figures.
        say: Tells the person at the terminal what is being done.
    """

    folder: Path
    clips: ClipStore
    models: Mapping[str, Path]
    rounds: int
    files: int
    tiny_files: int
    labelled: Path | None
    quick: bool
    say: Callable[[str], None]
