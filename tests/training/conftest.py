from __future__ import annotations

import numpy as np
import pytest

from dfwatch.training.packs import Pack, PackWriter
from tests.training.made import face_like, jpeg, record


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data folder with one pack, `made`: 60 groups of a real and a fake, which has a bright spot in its middle."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(5)
    with PackWriter(str(root / "made"), shard_limit_bytes=64_000) as writer:
        for number in range(60):
            real = face_like(rng)
            fake = real.copy()
            fake[24:40, 24:40] = np.clip(fake[24:40, 24:40].astype(int) + 70, 0, 255).astype(np.uint8)
            group = f"group{number}"
            writer.add(jpeg(real), record(f"real{number}", "REAL", group))
            writer.add(jpeg(fake), record(f"fake{number}", "FAKE", group, manipulation="spot"))
    return str(root)


@pytest.fixture(scope="session")
def pack(data_root: str) -> Pack:
    return Pack(f"{data_root}/made")
