"""Pure: recordings that were joined with the time stamps that each of them had, put one after another.

Transport and program streams may simply be strung together (``cat``, recorders, downloaders of segments). Every
recording then counts its time anew, so that frames share their times with others, and a seek by time finds any of them.
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
    from collections.abc import Sequence

    from dfwatch.decode.holes import PacketLog

# Half of what 33 bits of 90 kHz hold: FFmpeg takes a large step back for such a counter's overflow, and adds it.
_OVERFLOW_S = 2**32 / 90_000


@dataclass(frozen=True, slots=True)
class Joins:
    """The recordings of a file, in its order.

    Attributes:
        places: Where each recording's first packet lies in the file, in bytes, ascending.
        shifts: What is added to the time stamps of each, in the stream's unit.
        key_stamps: Shifted time stamps of the key frames, ascending.
        key_places: Where these key frames lie in the file.
    """

    places: tuple[int, ...]
    shifts: tuple[int, ...]
    key_stamps: Sequence[int]
    key_places: Sequence[int]

    def recording_at(self, place: int) -> int:
        """Which recording, from 0, a packet belongs to that lies there."""
        return max(0, bisect_right(self.places, place) - 1)

    def shift_at(self, place: int) -> int:
        """What is added to the time stamps of a packet that lies there."""
        return self.shifts[self.recording_at(place)]

    def place_before(self, stamp: int) -> int:
        """Where the last key frame at or before a shifted time stamp lies."""
        return self.key_places[max(0, bisect_right(self.key_stamps, stamp) - 1)]


def find_joins(log: PacketLog, keys: Sequence[int], unit_s: float) -> Joins | None:
    """Find recordings that begin where time stamps step back and stay back; None where there is only one.

    Args:
        log: All packets of the video; where there are several recordings, its time stamps are shifted.
        keys: Positions of the key frames among them.
        unit_s: Seconds of one unit of time stamps.
    """
    step = log.usual_step()
    if not may_be_joined(log.stamps, unit_s, step * unit_s):
        return None
    starts = _starts(log.stamps, reordering(step, unit_s), _OVERFLOW_S / unit_s)
    firsts = [log.places[start] for start in starts]
    # Places that do not ascend tell no recording from the other.
    if len(starts) < 2 or not keys or any(one >= other for one, other in pairwise(firsts)):
        return None
    shifts, free = [], min(log.stamps[:REORDERED_PACKETS])
    for start, end in pairwise([*starts, len(log.stamps)]):
        stamps = log.stamps[start:end]
        shift = free - min(stamps[:REORDERED_PACKETS])
        step = round(usual_step(np.sort(np.asarray(stamps))))
        last_end = max(log.ends[start:end])
        free = shift + max(last_end, max(stamps) + step)
        shifts.append(shift)
        log.shift(start, end, shift)
    by_time = sorted(keys, key=log.stamps.__getitem__)
    return Joins(
        tuple(firsts),
        tuple(shifts),
        array("q", [log.stamps[position] for position in by_time]),
        array("q", [log.places[position] for position in by_time]),
    )


def may_be_joined(stamps: Sequence[int], unit_s: float, frame_s: float) -> bool:
    """Whether some of the time stamps, in the file's order, tell of more than one recording.

    Args:
        stamps: Time stamps at some places of the file.
        unit_s: Seconds of one unit of them.
        frame_s: Usual time from frame to frame, in seconds.
    """
    if not stamps:
        return False
    behind = share_behind(stamps, reordering(frame_s / unit_s, unit_s))
    return behind > 0 or max(stamps) - min(stamps) > _OVERFLOW_S / unit_s


def _starts(stamps: Sequence[int], allowed: float, overflow: float) -> list[int]:
    """Positions of the packets with which recordings begin."""
    starts, latest = [0], stamps[0]
    for position, stamp in enumerate(stamps):
        if -allowed <= stamp - latest <= overflow:
            latest = max(latest, stamp)
            continue
        following = stamps[position + 1 : position + 1 + REORDERED_PACKETS]
        if len(following) == REORDERED_PACKETS and _go_on_from(stamp, latest, following):
            starts.append(position)
            latest = stamp
    return starts


def _go_on_from(stamp: int, latest: int, following: Sequence[int]) -> bool:
    """Whether packets go on from this time stamp, and not from the latest one before; else it is simply wrong."""
    values = np.asarray(following, np.int64)
    ahead = usual_step(np.sort(values)) * np.arange(1, len(values) + 1)
    return bool((np.abs(values - stamp - ahead) < np.abs(values - latest - ahead)).all())
