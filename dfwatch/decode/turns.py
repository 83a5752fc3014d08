"""Video streams of a transport stream that take turns: recordings of several encoders, strung together.

Each packet says which stream it belongs to, and encoders number their streams as they like. A table says from place to
place which ones are meant, and players follow it, be it for the second half or for an advertisement in the middle.
FFmpeg takes them for streams beside each other, and shows one. So all of them are read under the number of the first.
Source: ISO/IEC 13818-1, 2.4.3 (packets and PES packets).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dfwatch.decode.transport import PACKET_BYTES, SYNC, lead_bytes_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    ReadAt = Callable[[int, int], bytes]

_CHECKED_BYTES = 8 * PACKET_BYTES
_PACKETS_AT_ONCE = 1 << 14
# Streams beside each other have their frames in turn, or nearly so.
_SHORTEST_TURN = 24
# Longer files are read through only where streams seem to take turns at some places.
_READ_THROUGH_BYTES = 64 * 1024 * 1024
_PROBED_PLACES = 64


class Turns(NamedTuple):
    """Video streams of which at any place one goes on.

    Attributes:
        lead_bytes: What comes before each packet, as on a Blu-ray disc.
        numbers: Their numbers (packet identifiers), that of the first one in front.
    """

    lead_bytes: int
    numbers: tuple[int, ...]

    def read(self, read_at: ReadAt, place: int, count: int) -> bytes:
        """Up to ``count`` bytes of the file from a place on, in which all these streams have the first one's number."""
        step = self.lead_bytes + PACKET_BYTES
        start, end = place // step * step, -(-(place + count) // step) * step
        data = bytearray(read_at(start, end - start))
        packets = np.frombuffer(data, np.uint8)[: len(data) // step * step].reshape(-1, step)[:, self.lead_bytes :]
        rows = np.flatnonzero((packets[:, 0] == SYNC) & np.isin(_numbers(packets), self.numbers[1:]))
        high, low = divmod(self.numbers[0], 256)
        packets[rows, 1] = packets[rows, 1] & 0xE0 | high
        packets[rows, 2] = low
        return bytes(data[place - start : place - start + count])


def turns_in(read_at: ReadAt, size_bytes: int) -> Turns | None:
    """The video streams of a transport stream that take turns; None where there is one, or they go on side by side."""
    lead_bytes = lead_bytes_in(read_at(0, _CHECKED_BYTES))
    if lead_bytes is None:
        return None
    block = (lead_bytes + PACKET_BYTES) * _PACKETS_AT_ONCE
    if size_bytes > _READ_THROUGH_BYTES:
        blocks = size_bytes // block
        places = (*range(0, blocks, blocks // _PROBED_PLACES + 1), blocks - 1)
        probes = [set(_video_in(read_at, place * block, block, lead_bytes).tolist()) for place in places]
        if len(set.union(*probes)) < 2 or min(len(probe) for probe in probes if probe) > 1:
            return None
    parts = [_video_in(read_at, start, block, lead_bytes) for start in range(0, size_bytes, block)]
    numbers = np.concatenate(parts)
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    if len(starts) < 2 or np.diff(starts, append=len(numbers)).min() < _SHORTEST_TURN:
        return None
    return Turns(lead_bytes, tuple(dict.fromkeys(numbers[starts].tolist())))


def _numbers(packets: NDArray[np.uint8]) -> NDArray[np.int64]:
    return (packets[:, 1].astype(np.int64) & 0x1F) << 8 | packets[:, 2]


def _video_in(read_at: ReadAt, start: int, count: int, lead_bytes: int) -> NDArray[np.int64]:
    """For each PES packet of video that begins there, in order: the number of its stream."""
    data = np.frombuffer(read_at(start, count), np.uint8)
    step = lead_bytes + PACKET_BYTES
    packets = data[: len(data) // step * step].reshape(-1, step)[:, lead_bytes:]
    begins = (packets[:, 0] == SYNC) & (packets[:, 1] & 0x40 > 0) & (packets[:, 3] & 0x10 > 0)
    payload = 4 + np.where(packets[:, 3] & 0x20, 1 + packets[:, 4].astype(np.int64), 0)
    rows = np.flatnonzero(begins & (payload <= PACKET_BYTES - 4))
    head = packets[rows[:, None], payload[rows, None] + np.arange(4)]
    # Their identifiers are 0xE0 to 0xEF.
    return _numbers(packets[rows[(head[:, :3] == (0, 0, 1)).all(axis=1) & (head[:, 3] & 0xF0 == 0xE0)]])
