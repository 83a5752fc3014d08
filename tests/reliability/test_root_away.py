"""The whole root is taken away under the running service, and comes back: unmounted, renamed, replaced."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.reliability.served import below
from tests.reliability.world import World


class Disk:
    """Where the root's files really are, and how they are taken away and put back."""

    def __init__(self, world: World, *, mounted: bool) -> None:
        self.world = world
        self.mounted = mounted
        self.disk = world.folder / "disk"
        if not mounted:
            return
        # A bind mount comes and goes as a disk does, with the same device and inode.
        world.root.rename(self.disk)
        world.root.mkdir()
        if self._mount():
            world.root.rmdir()
            self.disk.rename(world.root)
            pytest.skip("mounting is not allowed here")

    def _mount(self) -> int:
        command = ["mount", "--bind", self.disk, self.world.root]
        return subprocess.run(command, capture_output=True, check=False).returncode

    def take_away(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "--lazy", self.world.root], check=True)
        else:
            self.world.root.rename(self.disk)

    def put_back(self) -> None:
        if self.mounted:
            assert self._mount() == 0
        else:
            self.disk.rename(self.world.root)

    def close(self) -> None:
        self.world.kill()
        while os.path.ismount(self.world.root):
            subprocess.run(["umount", "--lazy", self.world.root], check=True)


@pytest.fixture(params=["unmounted", "renamed"])
def disk(request: pytest.FixtureRequest, worlds: Callable[..., World]) -> Iterator[Disk]:
    if request.param == "unmounted" and os.geteuid() != 0:
        pytest.skip("only root can mount")
    disk = Disk(worlds(), mounted=request.param == "unmounted")
    yield disk
    disk.close()


def test_a_root_that_is_away_is_waited_for(disk: Disk) -> None:
    """With files waiting, being read, and to be published: nothing is written where the root was, and nothing lost."""
    world = disk.world
    expected = Counter(f"slow 0.6 number {number}" for number in range(8)) + Counter(["real before"])
    (world.inbox / "before.mp4").write_text("real before")
    world.start()
    world.settle()
    for number in range(8):
        (world.inbox / f"{number}.mp4").write_text(f"slow 0.6 number {number}")
    world.wait_for(world.reading, "some are being read")
    pid = world.pid
    # The disk is sick first, so that verdicts wait to be published when it goes.
    world.faults.set("fsync", number=errno.EIO)
    world.wait_for(lambda: "writing the sidecar" in world.log.read_text(), "a verdict waits")
    disk.take_away()
    world.faults.set()
    world.wait_for(lambda: "the root " in world.log.read_text(), "the log says so")
    time.sleep(0.8)  # what was being read is ready to be published by now
    left: list[Path] = below(world.root) if world.root.exists() else []
    assert left == []
    disk.put_back()
    files = lambda: [path for path in below(world.root / "work") if path.name == "source"] + below(world.inbox)  # noqa: E731
    world.wait_for(lambda: not files(), "all are done")
    assert world.pid == pid
    assert world.stop() == 0
    # A claim that was cut short may have left its folder, which the next start removes.
    world.start()
    world.settle()
    assert world.put_away() == expected
    assert Counter(document["verdict"] for document in world.sidecars().values()) == {"FAKE": 8, "REAL": 1}
    assert world.rows() == {"done": 9}
    assert world.stop() == 0
    assert not world.complaints.exists()


def test_another_root_in_its_place_is_begun_anew(worlds: Callable[..., World]) -> None:
    """As a network disk that is mounted again, with another device number, or a backup that was put there."""
    world = worlds()
    world.start()
    (world.inbox / "clip.mp4").write_text("real clip")
    world.settle()
    old = world.folder / "old root"
    other = worlds()
    (other.inbox / "other.mp4").write_text("fake other")
    other.start()
    other.settle()
    other.stop()
    world.root.rename(old)
    other.root.rename(world.root)
    other.root.mkdir()
    (world.inbox / "late.mp4").write_text("fake late")
    [status] = world.wait_for(world.ended_or_none, "it ends")
    assert status != 0
    world.start()
    world.settle()
    assert world.put_away() == Counter(["fake other", "fake late"])
    assert len(world.sidecars()) == 2
