"""In the reader child: signs that a stream without an index is several recordings, where its packets alone do not tell.

See ``joins`` for what is made of them.
"""

from __future__ import annotations

from array import array
from itertools import pairwise
from typing import TYPE_CHECKING

import av
import numpy as np

from dfwatch.decode.demuxing import all_packets_of, packets_of, stamp_of
from dfwatch.decode.joins import longest_pause_s, may_be_joined

if TYPE_CHECKING:
    from dfwatch.decode.demuxing import Source
    from dfwatch.decode.holes import PacketLog

# Places of a long stream at which its time stamps are looked at.
PROBED_PLACES = 64
# A leap between two places that are no further apart than this, lies between two packets.
_NARROW_BYTES = 1024 * 1024


def may_hold_several(source: Source, slices: int) -> bool:
    """As ``may_be_joined``, by the time stamps at some places of a stream too long to be read through.

    Args:
        source: The open file; it is moved.
        slices: Into how many slices the playing time will be cut.
    """
    size = source.file.size_bytes
    unit_s = float(source.stream.time_base or 1)
    places, stamps = array("q"), array("q")
    # The last one sees a recording that is shorter than the way from place to place.
    for place in (*range(0, size, size // PROBED_PLACES + 1), max(0, size - _NARROW_BYTES)):
        stamp = _stamp_at(source, place)
        if stamp is not None:
            places.append(place)
            stamps.append(stamp)
    if may_be_joined(stamps, unit_s, source.frame_s, float("inf")):
        return True
    steps = [end - start for start, end in pairwise(stamps)]
    if not steps:
        return False
    pause = longest_pause_s(float(np.median(steps)) * len(steps) * unit_s, slices) / unit_s
    return any(
        _leaps(source, (places[at], stamps[at]), (places[at + 1], stamps[at + 1]), pause)
        for at, step in enumerate(steps)
        if step > pause
    )


def _stamp_at(source: Source, place: int) -> int | None:
    """Time stamp of the first packet behind a place; None where there is none."""
    try:
        source.container.seek(place, unsupported_byte_offset=True)
    except MemoryError:
        raise
    except av.FFmpegError:
        return None
    return next((packet.pts for packet in packets_of(source) if packet.pts is not None), None)


def _leaps(source: Source, start: tuple[int, int], end: tuple[int, int], pause: float) -> bool:
    """Whether time leaps by more than ``pause`` somewhere between two places; each comes with its time stamp."""
    while end[1] - start[1] > pause and end[0] - start[0] > _NARROW_BYTES:
        place = (start[0] + end[0]) // 2
        stamp = _stamp_at(source, place)
        if stamp is None:
            # All packets will tell.
            return True
        if stamp - start[1] > end[1] - stamp:
            end = place, stamp
        else:
            start = place, stamp
    return end[1] - start[1] > pause


class OtherStreams:
    """Sound and whatever else a file holds beside its video; read through when first asked for.

    Args:
        source: The open file; asking moves it.
        log: All packets of its video.
    """

    def __init__(self, source: Source, log: PacketLog) -> None:
        self._source = source
        self._log = log
        self._places: list[int] = []
        self._times_s: list[float] = []
        self._read = len(source.container.streams) < 2

    def go_on_before(self, position: int) -> bool:
        """Whether they go on while no picture is shown, before the video's packet at this position.

        A moment at either end does not count: streams do not end and begin together.
        """
        if not self._read:
            self._read_through()
        unit_s = float(self._source.stream.time_base or 1)
        before, after = (self._log.stamps[at] * unit_s for at in (position - 1, position))
        margin_s = (after - before) / 4
        place, end = self._log.places[position - 1], self._log.places[position]
        return any(
            place < other < end and before + margin_s < time_s < after - margin_s
            for other, time_s in zip(self._places, self._times_s, strict=True)
        )

    def _read_through(self) -> None:
        self._read = True
        self._source.reopen()
        for packet in all_packets_of(self._source):
            stamp = stamp_of(packet)
            if packet.stream_index != self._source.stream.index and stamp is not None and packet.pos is not None:
                self._places.append(packet.pos)
                self._times_s.append(float(stamp * packet.time_base))
