"""A device that runs out of memory or is lost in the middle: smaller batches, a restart, and never a wrong verdict."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reliability.sick_device import BATCH, sick_detector
from tests.reliability.world import World

# torch is loaded at each start.
START_S = 100.0

VERDICTS = {"fake": "FAKE", "real": "REAL", "unsure": "INCONCLUSIVE"}


@pytest.fixture
def room(tmp_path: Path) -> Path:
    path = tmp_path / "room"
    path.write_text("1000")
    return path


@pytest.fixture
def world(worlds: Callable[..., World], room: Path) -> World:
    world = worlds()
    world.make_scorer = functools.partial(sick_detector, room)
    return world


def drop(world: World, *names: str) -> None:
    for name in names:
        whole = world.folder / "whole"
        whole.write_text(name.split()[0])
        os.rename(whole, world.inbox / f"{name}.mp4")


def start(world: World) -> None:
    world.start()
    world.wait_for(lambda: world.health().get("pid") == world.pid, "it is ready", START_S)


def batch_sizes(world: World) -> dict[str, int]:
    """By file; all verdicts are checked, and that no file is blamed."""
    documents = {document["subject"]["name"].removesuffix(".mp4"): document for document in world.sidecars().values()}
    for name, document in documents.items():
        assert (document["status"], document["verdict"]) == ("done", VERDICTS[name.split()[0]]), name
        assert document["attempt"] == 1, name
    return {name: document["runtime"]["batch_size"] for name, document in documents.items()}


def test_out_of_memory_halves_the_batch_and_the_sidecar_says_so(world: World, room: Path) -> None:
    start(world)
    drop(world, "fake 1", "real 1")
    world.settle()
    room.write_text("3")
    drop(world, "fake 2", "real 2", "unsure 2")
    world.settle()
    assert batch_sizes(world) == {"fake 1": BATCH, "real 1": BATCH, "fake 2": 2, "real 2": 2, "unsure 2": 2}
    assert world.stop() == 0


@pytest.mark.parametrize("trouble", ["0", "lost"])
def test_a_device_that_does_not_come_back_is_got_back_by_a_restart(world: World, room: Path, trouble: str) -> None:
    """No memory for one crop, or a failure: the service ends, for systemd to start it again, and nothing is said."""
    start(world)
    drop(world, "fake 1")
    world.settle()
    room.write_text(trouble)
    drop(world, "fake 2", "real 2", "unsure 2")
    [status] = world.wait_for(world.ended_or_none, "the service ends")
    assert status != 0
    assert batch_sizes(world) == {"fake 1": BATCH}
    room.write_text("1000")
    start(world)
    world.settle()
    assert batch_sizes(world) == dict.fromkeys(("fake 1", "fake 2", "real 2", "unsure 2"), BATCH)
    assert world.stop() == 0
