"""What events lose, the scans find: many files at once, by the whole service."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable

import pytest

from dfwatch.config import OutcomeSettings
from dfwatch.inbox.walk import MAX_DEPTH
from tests.reliability.world import World


@pytest.mark.parametrize(("busy_threads", "files"), [(0, 1000), (4, 20)])
def test_many_small_files_as_fast_as_the_disk_takes_them(
    worlds: Callable[..., World], busy_threads: int, files: int
) -> None:
    """A few in the suite; ``DFWATCH_FILES=20000`` for the number that events were lost of, ``-s`` for figures.

    Busy threads take most of the interpreter's time from the one that listens, so that the kernel's queue overflows.
    """
    files = int(os.environ.get("DFWATCH_FILES", files))
    world = worlds()
    world.start(busy_threads=busy_threads)
    world.wait_for(lambda: world.health().get("pid") == world.pid, "it is ready")
    began_s = time.monotonic()
    for number in range(files):
        (world.inbox / f"{number}.mp4").write_text(f"noface {number}")
    dropped_s = time.monotonic() - began_s
    world.wait_for(lambda: not world.waiting(), "all are done", 30 + files / 2)
    took_s = time.monotonic() - began_s
    watch = world.health()["watch"]
    print(
        f"\n{files} files, {busy_threads} busy threads: dropped in {dropped_s:.1f} s, all judged after {took_s:.1f} s "
        f"({files / took_s:.0f} a second), {watch['scans']} scans, the last one {watch['last_scan_ms']:.1f} ms"
    )
    assert world.put_away() == Counter(f"noface {number}" for number in range(files))
    assert len(world.sidecar_paths()) == files
    assert world.rows() == {"done": files}
    assert world.stop() == 0


def test_the_inbox_taken_away_and_put_back(world: World) -> None:
    """As when the disk is unmounted for a while: it is told, nothing else stops, and what comes later is found."""
    world.start()
    (world.inbox / "before.mp4").write_text("real before")
    world.settle()
    away = world.folder / "away"
    world.inbox.rename(away)
    world.wait_for(lambda: world.health().get("deaf"), "status says that the inbox is gone")
    (away / "meanwhile.mp4").write_text("real meanwhile")
    away.rename(world.inbox)
    world.settle()
    (world.inbox / "after.mp4").write_text("real after")
    world.settle()
    world.wait_for(lambda: not world.health().get("deaf"), "it listens again")
    assert world.put_away() == Counter(["real before", "real meanwhile", "real after"])


def test_files_that_were_kept_and_are_gone_are_forgotten(worlds: Callable[..., World]) -> None:
    """Or the journal would grow for ever. What is there, or only out of sight, is remembered."""
    world = worlds(outcome=OutcomeSettings(real="keep"))
    for name in ("gone.mp4", "stays.mp4"):
        (world.inbox / name).write_text(f"real {name}")
    # One that cannot be looked into hides nothing but what is in it.
    (world.inbox / "/".join(["deep"] * MAX_DEPTH)).mkdir(parents=True)
    world.start()
    world.settle()
    assert set(world.kept()) == {"gone.mp4", "stays.mp4"}
    (world.inbox / "gone.mp4").unlink()
    world.wait_for(lambda: set(world.kept()) == {"stays.mp4"}, "what is gone is forgotten")
    aside = world.root / "aside"
    world.inbox.rename(aside)
    world.inbox.mkdir()
    time.sleep(1.0)
    world.inbox.rmdir()
    aside.rename(world.inbox)
    (world.inbox / "last.mp4").write_text("fake")
    world.settle()
    assert set(world.kept()) == {"stays.mp4"}
    assert len(world.sidecars()) == 3
