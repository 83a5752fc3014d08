"""Files that cannot be claimed: how long they are left alone, what is told of them, when they are forgotten."""

from __future__ import annotations

from dfwatch.errors import UnclaimableError
from dfwatch.inbox.watching import ScanResult
from dfwatch.jobs.obstacles import Obstacles

DENIED = UnclaimableError("claiming", "clip.mp4", "Permission denied")


def test_pauses_grow_and_end_with_the_obstacle() -> None:
    now_s = 0.0
    obstacles = Obstacles(lambda: now_s)
    assert not obstacles.hold("clip.mp4")
    obstacles.met("clip.mp4", DENIED)
    for pause_s in (5.0, 10.0, 20.0):
        assert obstacles.hold("clip.mp4")
        now_s += pause_s
        assert not obstacles.hold("clip.mp4")
        obstacles.met("clip.mp4", DENIED)
    obstacles.overcome("clip.mp4")
    assert not obstacles.hold("clip.mp4")


def test_a_file_that_was_taken_away_is_forgotten_once_the_inbox_was_seen_without_it() -> None:
    obstacles = Obstacles()
    for name in ("stays.mp4", "goes.mp4", "private/clip.mp4"):
        obstacles.met(name, DENIED)
    scan = ScanResult(unread=frozenset({"private", "stays"}))
    # Met after the look that found it.
    obstacles.looked_through(scan.may_hide)
    assert obstacles.count == 3
    obstacles.hold("stays.mp4")
    obstacles.looked_through(scan.may_hide)
    assert obstacles.told() == ("stays.mp4: Permission denied", "private/clip.mp4: Permission denied")
    assert obstacles.hold("stays.mp4")


def test_all_are_counted_though_few_are_told() -> None:
    obstacles = Obstacles()
    for number in range(25):
        obstacles.met(f"{number}.mp4", DENIED)
    assert obstacles.count == 25
    assert len(obstacles.told()) == 21
    assert obstacles.told()[-1] == "5 more"
