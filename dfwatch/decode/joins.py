"""Pure: recordings that were joined with the time stamps that each of them had, put one after another.

Transport and program streams may simply be strung together (``cat``, recorders, downloaders of segments). Every
recording then counts its time anew, so that frames share their times with others, and a seek by time finds any of them;
or a clock that went on leaves hours between them in which nothing is shown.
Players show them one after another; so does whoever shifts each one's time stamps to the end of the one before.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from dfwatch.decode.holes import REORDERED_PACKETS, reordering, share_behind, usual_step

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dfwatch.decode.holes import PacketLog

# Half of what 33 bits of 90 kHz hold: FFmpeg takes a large step back for such a counter's overflow, and adds it.
_OVERFLOW_S = 2**32 / 90_000
# Signals are lost, screens stand still and cameras wait for something to move for shorter times than this, mostly.
LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True, slots=True)
class Joins:
    """The recordings of a file, in its order.

    Attributes:
        places: Where each recording's first packet lies in the file, in bytes, ascending.
        shifts: What is added to the time stamps of each, in the stream's unit.
        lasts: Shifted time stamp of the last frame of each. FFmpeg may give that frame the time of what follows it in
            the file, which is another recording's.
        key_stamps: Shifted time stamps of the key frames, ascending.
        key_places: Where these key frames lie in the file.
    """

    places: tuple[int, ...]
    shifts: tuple[int, ...]
    lasts: tuple[int, ...]
    key_stamps: Sequence[int]
    key_places: Sequence[int]

    def recording_at(self, place: int) -> int:
        """Which recording, from 0, a packet belongs to that lies there."""
        return max(0, bisect_right(self.places, place) - 1)

    def place_before(self, stamp: int) -> int:
        """Where the last key frame at or before a shifted time stamp lies."""
        return self.key_places[max(0, bisect_right(self.key_stamps, stamp) - 1)]


def longest_pause_s(content_s: float, slices: int) -> float:
    """How far time may leap ahead within one recording, in seconds.

    A gap in one recording and the start of another one look alike, but to mistake them does not cost the same. Another
    recording that is taken for a gap leaves a sample of a few frames, as the gap gets nearly all slices of the playing
    time. A gap that is taken for another recording leaves a full sample, a warning, and times that lack the gap. So the
    border lies where a gap begins to do harm: where it is as long as a slice of what is there to be seen. Shorter than
    a minute, it is a gap all the same: those are the usual ones, and a sample that is thinner for one tells so.

    Args:
        content_s: How long all frames are shown.
        slices: Into how many slices the playing time will be cut.
    """
    return max(LONGEST_PAUSE_S, content_s / slices)


def find_joins(
    log: PacketLog, keys: Sequence[int], unit_s: float, slices: int, others_go_on: Callable[[int], bool]
) -> Joins | None:
    """Find recordings that begin where time stamps step back or leap ahead for good; None where there is only one.

    Args:
        log: All packets of the video; where there are several recordings, its time stamps are shifted.
        keys: Positions of the key frames among them.
        unit_s: Seconds of one unit of time stamps.
        slices: Into how many slices the playing time will be cut.
        others_go_on: Whether other streams go on while no picture is shown, before the packet at a position.
    """
    step = log.usual_step()
    pause_s = longest_pause_s(len(log.stamps) * step * unit_s, slices)
    if not may_be_joined(log.stamps, unit_s, step * unit_s, pause_s):
        return None
    starts = _starts(log.stamps, frozenset(keys), reordering(step, unit_s), pause_s / unit_s, others_go_on)
    firsts = [log.places[start] for start in starts]
    # Places that do not ascend tell no recording from the other.
    if len(starts) < 2 or not keys or any(one >= other for one, other in pairwise(firsts)):
        return None
    shifts, lasts, free = [], [], min(log.stamps[:REORDERED_PACKETS])
    for start, end in pairwise([*starts, len(log.stamps)]):
        stamps = log.stamps[start:end]
        shift = free - min(stamps[:REORDERED_PACKETS])
        step = round(usual_step(np.sort(np.asarray(stamps))))
        last = _last_stamp(stamps, step, pause_s / unit_s)
        log.shift(start, end, shift, latest=last + shift)
        free = max(shift + last + step, *log.ends[start:end])
        shifts.append(shift)
        lasts.append(shift + last)
    by_time = sorted(keys, key=log.stamps.__getitem__)
    return Joins(
        tuple(firsts),
        tuple(shifts),
        tuple(lasts),
        array("q", [log.stamps[position] for position in by_time]),
        array("q", [log.places[position] for position in by_time]),
    )


def may_be_joined(stamps: Sequence[int], unit_s: float, frame_s: float, pause_s: float) -> bool:
    """Whether some of the time stamps, in the file's order, tell of more than one recording.

    Args:
        stamps: Time stamps at some places of the file.
        unit_s: Seconds of one unit of them.
        frame_s: Usual time from frame to frame, in seconds.
        pause_s: Longest time between two of them, in seconds, that tells nothing.
    """
    if not stamps:
        return False
    behind = share_behind(stamps, reordering(frame_s / unit_s, unit_s))
    if behind > 0 or max(stamps) - min(stamps) > _OVERFLOW_S / unit_s:
        return True
    return bool(np.diff(np.sort(np.asarray(stamps, np.int64))).max(initial=0) > pause_s / unit_s)


def _starts(
    stamps: Sequence[int],
    keys: frozenset[int],
    allowed: float,
    pause: float,
    others_go_on: Callable[[int], bool],
) -> list[int]:
    """Positions of the packets with which recordings begin."""
    starts, latest = [0], stamps[0]
    # Where a packet was ahead whose followers were not.
    ahead_at = -REORDERED_PACKETS
    for position, stamp in enumerate(stamps):
        if -allowed <= stamp - latest <= pause:
            latest = max(latest, stamp)
            continue
        following = stamps[position + 1 : position + 1 + REORDERED_PACKETS]
        if len(following) < REORDERED_PACKETS or not _go_on_from(stamp, latest, following):
            ahead_at = position if stamp > latest else ahead_at
            continue
        # The first frame after a pause is coded before the last ones of it; but see ``Joins.lasts``. And where there is
        # sound throughout, time has passed.
        is_amid = position - ahead_at < REORDERED_PACKETS and position not in keys
        is_pause = stamp > latest and (is_amid or others_go_on(position))
        if not is_pause:
            starts.append(position)
        latest = stamp
    return starts


def _last_stamp(stamps: Sequence[int], step: int, pause: float) -> int:
    """Time stamp of a recording's last frame; see ``Joins.lasts``."""
    tail = np.sort(np.asarray(stamps, np.int64))[-REORDERED_PACKETS:]
    leaps = np.flatnonzero(np.diff(tail) > pause)
    return int(tail[leaps[0]]) + step if len(leaps) else int(tail[-1])


def _go_on_from(stamp: int, latest: int, following: Sequence[int]) -> bool:
    """Whether packets go on from this time stamp, and not from the latest one before; else it is simply wrong."""
    values = np.asarray(following, np.int64)
    ahead = usual_step(np.sort(values)) * np.arange(1, len(values) + 1)
    return bool((np.abs(values - stamp - ahead) < np.abs(values - latest - ahead)).all())
