from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.clips import make_clip, make_still
from tests.models.seeded import example_bundle, seeded_bundle


@pytest.fixture(autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Measurements of this machine stay out of the home of whoever runs the tests."""
    home = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real, small model with seeded weights, on disk."""
    folder = tmp_path_factory.mktemp("model") / "bundle"
    seeded_bundle(folder, example_bundle())
    return folder


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A face in H.264, no face in VP9, a picture of a face, a playlist, half of a video."""
    folder = tmp_path_factory.mktemp("videos")
    make_clip(folder / "face.mp4", seconds=2.0)
    make_clip(folder / "noface.webm", codec="libvpx-vp9", seconds=1.0, faces=())
    make_still(folder / "picture.jpg")
    (folder / "playlist.mp4").write_text("ffconcat version 1.0\nfile face.mp4\n")
    (folder / "half.mp4").write_bytes((folder / "face.mp4").read_bytes()[:4000])
    return folder


@pytest.fixture
def config(tmp_path: Path, bundle_folder: Path) -> Path:
    path = tmp_path / "config.yaml"
    settings = {
        "root": str(tmp_path / "root"),
        "model": {"path": str(bundle_folder), "engine": "torch", "precision": "float32", "threads": 1},
        "watch": {"quiet_s": 0.2, "short_quiet_s": 0.6, "scan_interval_s": 0.2},
        "log": {"format": "json"},
    }
    path.write_text(yaml.safe_dump(settings))
    return path
