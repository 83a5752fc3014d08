"""Pure: what the packets of a file, in the order in which they lie there, tell of frames that are missing or misplaced.

A frame is missing where no picture begins for long after the one before has ended. Whether it was never there (a screen
that stood still) or is lost, the bytes in between tell: a file that was whole once leaves none that belong to nothing.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dfwatch.sampling import slice_bounds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# No codec shows its first frame later than this many packets.
REORDERED_PACKETS = 17
# A time that lies further back than this is no matter of reordering, whatever the frame rate.
BACK_S = 1.0
# Frames of a video with few pictures are far apart, and not evenly.
UNUSUAL = 10.0
LOST_SHARE = 0.1
# Tables of a transport stream, repeated after a pause, may take as much and more than a tenth of a file of few frames.
LOST_BYTES = 2048


@dataclass(frozen=True, slots=True)
class Hole:
    """Playing time in which no frame is shown, in seconds: from the end of one to the start of the next.

    ``lost``: the file shows that there were frames.
    """

    start_s: float
    end_s: float
    lost: bool

    def slices(self, duration_s: float, count: int) -> int:
        """How many of ``count`` slices of the playing time lie inside."""
        bounds = slice_bounds(duration_s, count)
        return sum(self.start_s <= start and min(end, duration_s) <= self.end_s for start, end in bounds)


def _numbers() -> array[int]:
    return array("q")


@dataclass(slots=True)
class PacketLog:
    """The video's packets in the file's order, and what lies between them.

    Attributes:
        stamps: Presentation times, in the stream's unit.
        ends: The same with the frame's duration added, where the container states one.
        places: Where each packet lies in the file, in bytes.
        sizes: How many bytes it has.
        corrupt: Positions of packets that the demuxer calls damaged.
        other_places: Where packets of other streams lie, as far as these were read.
        other_sizes: How many bytes each of those has.
    """

    stamps: array[int] = field(default_factory=_numbers)
    ends: array[int] = field(default_factory=_numbers)
    places: array[int] = field(default_factory=_numbers)
    sizes: array[int] = field(default_factory=_numbers)
    corrupt: list[int] = field(default_factory=list)
    other_places: array[int] = field(default_factory=_numbers)
    other_sizes: array[int] = field(default_factory=_numbers)

    def add(self, stamp: int, duration: int, place: int | None, size: int, *, is_corrupt: bool) -> None:
        """Note the next packet of the video; ``place``: None where it is not known."""
        if is_corrupt:
            self.corrupt.append(len(self.stamps))
        self.stamps.append(stamp)
        self.ends.append(stamp + duration)
        self.places.append(place if place is not None else self.places[-1] if self.places else 0)
        self.sizes.append(size)

    def add_other(self, place: int | None, size: int) -> None:
        """Note a packet of another stream."""
        if place is not None:
            self.other_places.append(place)
            self.other_sizes.append(size)

    def unread_bytes(self, size_bytes: int) -> int:
        """Bytes of a file of this size behind the last packet, of whichever stream."""
        last = max(
            int(np.max(np.frombuffer(places, np.int64) + np.frombuffer(sizes, np.int64), initial=0))
            for places, sizes in ((self.places, self.sizes), (self.other_places, self.other_sizes))
        )
        return max(0, size_bytes - last)

    def shift(self, start: int, end: int, by: int, *, latest: int) -> None:
        """Move the time stamps of some packets, none of them behind the latest one that there may be then."""
        stamps, ends = (np.frombuffer(values, np.int64)[start:end] + by for values in (self.stamps, self.ends))
        early = np.maximum(0, stamps - latest)
        self.stamps[start:end] = array("q", (stamps - early).tobytes())
        self.ends[start:end] = array("q", (ends - early).tobytes())

    def _loose_bytes(self) -> NDArray[np.int64]:
        """Bytes of the file before each packet of the video that belong to no packet."""
        places, sizes, others, other_sizes = (
            np.frombuffer(values, np.int64) for values in (self.places, self.sizes, self.other_places, self.other_sizes)
        )
        order = np.argsort(others)
        until = np.concatenate([[0], np.cumsum(other_sizes[order])])
        before = until[np.searchsorted(others[order], places)]
        return np.asarray(places - (np.cumsum(sizes) - sizes) - before, np.int64)

    def usual_step(self) -> float:
        """Usual distance of two frames, in the stream's unit."""
        return usual_step(np.sort(np.frombuffer(self.stamps, np.int64)))

    def misplaced_share(self, unit_s: float) -> float:
        """Share of the frames that come after frames shown later, by more than reordering explains; 0 to 1."""
        # The first frame after a pause is coded before those that lead to the pause: any time ahead, but few packets.
        return share_behind(self.stamps, reordering(self.usual_step(), unit_s), apart=REORDERED_PACKETS)

    def holes(self, unit_s: float, duration_s: float, slices: int, size_bytes: int) -> tuple[Hole, ...]:
        """Holes that swallow at least one of ``slices`` slices of the playing time.

        Args:
            unit_s: Seconds of one unit of time stamps.
            duration_s: Playing time.
            slices: Into how many slices it is cut.
            size_bytes: Size of the file.

        Where other streams' packets were not noted, their bytes count as lost.
        """
        if len(self.stamps) < 2:
            return ()
        order = np.argsort(np.frombuffer(self.stamps, np.int64), kind="stable")
        stamps, ends = (np.frombuffer(values, np.int64)[order] for values in (self.stamps, self.ends))
        apart = stamps[1:] - ends[:-1]
        wide = np.flatnonzero(apart > max(UNUSUAL * usual_step(stamps), duration_s / slices / unit_s))
        if not len(wide):
            return ()
        loose = self._loose_bytes()[order]
        lost_bytes = [max(0, int(loose[at + 1] - loose[at])) for at in wide]
        many = sum(lost_bytes) > max(LOST_BYTES, LOST_SHARE * size_bytes)
        damaged = np.flatnonzero(np.isin(order, self.corrupt))
        found = (
            Hole(
                float((ends[at] - stamps[0]) * unit_s),
                float((stamps[at + 1] - stamps[0]) * unit_s),
                # A demuxer marks the packet that it could not complete, or the first one after it.
                lost=(many and missing > 0) or bool((np.abs(damaged - at) <= REORDERED_PACKETS).any()),
            )
            for at, missing in zip(wide, lost_bytes, strict=True)
        )
        return tuple(hole for hole in found if hole.slices(duration_s, slices))


def share_behind(stamps: Sequence[int], allowed: float, *, apart: int = 1) -> float:
    """Share of time stamps, in the file's order, that lie behind an earlier one by more than ``allowed``; 0 to 1.

    Args:
        stamps: Time stamps; at least one.
        allowed: In their unit; see ``reordering``.
        apart: How many places earlier that one must be at least.
    """
    values = np.asarray(stamps, np.int64)
    behind = np.maximum.accumulate(values)[:-apart] - values[apart:] > allowed
    return float(behind.sum() / len(values))


def reordering(step: float, unit_s: float) -> float:
    """How far back reordering explains, in the stamps' unit, as the usual distance ``step`` is."""
    return max(BACK_S / unit_s, REORDERED_PACKETS * step)


def usual_step(stamps: NDArray[np.int64]) -> float:
    """Median distance of ascending time stamps; 0 for a single one."""
    return float(np.median(np.diff(stamps))) if len(stamps) > 1 else 0.0
