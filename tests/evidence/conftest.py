from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dfwatch.config import FaceSettings, ModelSettings, ReaderSettings
from dfwatch.detector import Detector
from dfwatch.reader import Reader
from dfwatch.reading import Reading
from tests.clips import make_clip
from tests.models.seeded import example_bundle, seeded_bundle
from tests.service.conftest import daemon, daemons

__all__ = ["daemon", "daemons"]

SIDE_PX = 200
FRAMES = 6


@pytest.fixture(scope="package")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    """A real model with made-up weights."""
    folder = tmp_path_factory.mktemp("model") / "bundle"
    seeded_bundle(folder, example_bundle())
    return Detector.load(folder, ModelSettings(device="cpu", precision="float32", threads=1))


@pytest.fixture(scope="package")
def read(tmp_path_factory: pytest.TempPathFactory, detector: Detector) -> Iterator[Reading]:
    """A real video, read with thumbnails by the confined reader."""
    clip: Path = tmp_path_factory.mktemp("clip") / "clip.mov"
    # Stored lying on its side: boxes and thumbnails are those of the upright picture.
    make_clip(clip, seconds=2.0, size=(640, 360), rotation=90)
    with (
        Reader(ReaderSettings(frames=FRAMES), FaceSettings(), thumbnail_side_px=SIDE_PX) as reader,
        clip.open() as file,
    ):
        yield reader.read(file.fileno(), detector.bundle.crop)
