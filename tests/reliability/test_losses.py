"""What events lose, the scans find: many files at once, by the whole service."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable

from tests.reliability.world import World

FILES = int(os.environ.get("DFWATCH_FILES", "1500"))


def test_many_small_files_as_fast_as_the_disk_takes_them(worlds: Callable[..., World]) -> None:
    """1,500 in the suite; ``DFWATCH_FILES=20000`` for the number of the issue, ``-s`` for the figures."""
    world = worlds()
    world.start()
    world.wait_for(lambda: world.health().get("pid") == world.pid, "it is ready")
    began_s = time.monotonic()
    for number in range(FILES):
        (world.inbox / f"{number}.mp4").write_text(f"noface {number}")
    dropped_s = time.monotonic() - began_s
    world.wait_for(lambda: not world.waiting(), "all are done", 30 + FILES / 20)
    took_s = time.monotonic() - began_s
    watch = world.health()["watch"]
    print(
        f"\n{FILES} files dropped in {dropped_s:.1f} s, all judged after {took_s:.1f} s "
        f"({FILES / took_s:.0f} a second), {watch['scans']} scans, the last one {watch['last_scan_ms']:.1f} ms"
    )
    assert world.put_away() == Counter(f"noface {number}" for number in range(FILES))
    assert len(world.sidecar_paths()) == FILES
    assert world.rows() == {"done": FILES}
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
