"""In the reader child: which of the frames that an AVI lists are in it.

The list stands at the file's end, so that it may be whole where the middle of the file is not (zeroed, or preallocated
and never written). FFmpeg then looks for the next chunk, whatever frame that holds, and counts on from the last number.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dfwatch.decode.holes import Hole

if TYPE_CHECKING:
    from collections.abc import Callable

    import av

_HEADER_BYTES = 8
# A hole that swallows a slice contains some of the places that are looked at.
_PROBES_PER_SLICE = 4


@dataclass(frozen=True, slots=True)
class ListedChunks:
    """Frames of the list that are in the file, in its order.

    The one before a hole is left out: its header says how long it is, and the hole may begin within.

    Attributes:
        places: Where each frame's bytes lie in the file, behind the chunk's header.
        stamps: Decoding time of each, in the stream's unit.
        keys: Positions of the key frames.
        gaps: Positions of frames before which others are missing; their number where the last ones are.
    """

    places: array[int]
    stamps: array[int]
    keys: array[int]
    gaps: array[int]

    def drop_last(self) -> None:
        """Leave the last frame out."""
        self.places.pop()
        self.stamps.pop()
        if self.keys and self.keys[-1] == len(self.places):
            self.keys.pop()

    def stamp_at(self, place: int) -> int | None:
        """Decoding time of the frame whose bytes lie there; None where none is listed."""
        position = bisect_left(self.places, place)
        found = position < len(self.places) and self.places[position] == place
        return self.stamps[position] if found else None

    def holes(self, first: int, unit_s: float, duration_s: float, slices: int) -> tuple[Hole, ...]:
        """Where the missing frames were; holes that swallow none of ``slices`` slices of the playing time are left out.

        Args:
            first: Time stamp of time 0.
            unit_s: Seconds of one unit of time stamps.
            duration_s: Playing time.
            slices: Into how many slices it is cut.
        """
        found = (
            Hole(
                (self.stamps[gap - 1] + 1 - first) * unit_s if gap else 0.0,
                (self.stamps[gap] - first) * unit_s if gap < len(self.stamps) else duration_s,
                lost=True,
            )
            for gap in self.gaps
        )
        return tuple(hole for hole in found if hole.slices(duration_s, slices))


def chunks_beside_holes(
    read_at: Callable[[int, int], bytes], size_bytes: int, entries: av.index.IndexEntries, slices: int
) -> ListedChunks | None:
    """The listed frames that are there, where some are not; None where all seem to be.

    Only some places are looked at, unless one of them tells of damage. What lies behind the file's end is no hole.
    """
    stream_number = read_at(entries[0].pos, 2)
    if not stream_number.isdigit():
        # The list counts from somewhere else.
        return None

    def is_there(entry: av.index.IndexEntry) -> bool:
        return entry.pos + _HEADER_BYTES > size_bytes or read_at(entry.pos, 2) == stream_number

    step = max(1, len(entries) // (_PROBES_PER_SLICE * slices))
    if all(is_there(entries[position]) for position in range(0, len(entries), step)):
        return None
    found = ListedChunks(array("q"), array("q"), array("q"), array("q"))
    missing = False
    for entry in entries:
        if not is_there(entry):
            if not missing and found.places:
                found.drop_last()
            missing = True
            continue
        if missing:
            found.gaps.append(len(found.places))
            missing = False
        if entry.is_keyframe:
            found.keys.append(len(found.places))
        found.places.append(entry.pos + _HEADER_BYTES)
        found.stamps.append(entry.timestamp)
    if missing:
        found.gaps.append(len(found.places))
    return found
