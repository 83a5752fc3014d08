"""Whether an MXF file says where its frames are: its index table, which is optional.

FFmpeg guesses a frame's place from the bit rate otherwise, and then takes whatever it finds there for that frame.
The bytes are hostile: reads are small and bounded in number. Source: SMPTE ST 377-1 (partitions, index tables, random
index pack).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    ReadAt = Callable[[int, int], bytes]

_KEY_BYTES: Final = 16
_PARTITION: Final = bytes.fromhex("060e2b34020501010d01020101")
_RANDOM_INDEX: Final = bytes.fromhex("060e2b34020501010d0102010111")
_SEGMENT: Final = bytes.fromhex("060e2b34025301010d0102010110")
# Fill items exist in two versions; what tells them apart is the eighth byte.
_FILL: Final = bytes.fromhex("0301021001000000")
_EDIT_UNIT_BYTES, _START, _DURATION = 0x3F05, 0x3F0C, 0x3F0D
_RUN_IN_BYTES: Final = 65536
_MAX_PARTITIONS: Final = 4096
_MAX_ITEMS: Final = 64
_MAX_SEGMENT_BYTES: Final = 256 * 1024
_FARTHEST: Final = 1 << 62


class _Item(NamedTuple):
    """A key, and where its value lies."""

    key: bytes
    start: int
    end: int


def is_indexed(read_at: ReadAt, size_bytes: int, edit_units: int) -> bool:
    """Whether the index table covers all of a video's edit units (frames), the first to the last.

    Args:
        read_at: Gives up to so many bytes from an offset.
        size_bytes: Size of the file.
        edit_units: How many there are; 0 where it is not known.
    """
    reach = 0.0
    spans = sorted(
        span for place in _partitions(read_at, size_bytes) for span in _spans(read_at, place) if span is not None
    )
    for start, end in spans:
        if start > reach:
            break
        reach = max(reach, end)
    return reach >= max(1, edit_units)


def _item_at(read_at: ReadAt, place: int) -> _Item | None:
    head = read_at(place, _KEY_BYTES + 9) if place < _FARTHEST else b""
    if len(head) <= _KEY_BYTES or head[:4] != _PARTITION[:4]:
        return None
    length, start = head[_KEY_BYTES], place + _KEY_BYTES + 1
    if length >= 0x80:
        count = length & 0x7F
        if not 0 < count <= 8 or len(head) < _KEY_BYTES + 1 + count:
            return None
        length = int.from_bytes(head[_KEY_BYTES + 1 : _KEY_BYTES + 1 + count], "big")
        start += count
    return _Item(head[:_KEY_BYTES], start, start + length)


def _partitions(read_at: ReadAt, size_bytes: int) -> Iterator[int]:
    """Where partitions begin: as the list at the file's end says, else the first one and the last one."""
    base = read_at(0, _RUN_IN_BYTES).find(_PARTITION)
    if base < 0:
        return
    last = size_bytes - int.from_bytes(read_at(size_bytes - 4, 4), "big")
    listed = _item_at(read_at, last) if 0 <= last < size_bytes else None
    if listed is not None and listed.key.startswith(_RANDOM_INDEX):
        data = read_at(listed.start, max(0, min(12 * _MAX_PARTITIONS, listed.end - listed.start - 4)))
        yield from (base + place for _, place in struct.iter_unpack(">IQ", data[: len(data) // 12 * 12]))
        return
    yield base
    first = _item_at(read_at, base)
    pack = read_at(first.start, 32) if first is not None else b""
    if len(pack) == 32 and (footer := int.from_bytes(pack[24:32], "big")):
        yield base + footer


def _spans(read_at: ReadAt, place: int) -> Iterator[tuple[float, float] | None]:
    """First edit unit, and the one behind the last, of each segment of the index table in a partition."""
    pack = _item_at(read_at, place)
    if pack is None or not pack.key.startswith(_PARTITION):
        return
    place = pack.end
    item = _item_at(read_at, place)
    if item is not None and item.key[8:] == _FILL:
        place = item.end
    # The metadata, which comes first, is as long as the pack says.
    place += int.from_bytes(read_at(pack.start + 32, 8), "big")
    for _ in range(_MAX_ITEMS):
        item = _item_at(read_at, place)
        if item is None:
            return
        if item.key.startswith(_SEGMENT):
            yield _span(read_at(item.start, min(_MAX_SEGMENT_BYTES, item.end - item.start)))
        elif item.key[8:] != _FILL:
            return
        place = item.end


def _span(segment: bytes) -> tuple[float, float] | None:
    values: dict[int, int] = {}
    at = 0
    while at + 4 <= len(segment):
        tag, length = struct.unpack_from(">HH", segment, at)
        if tag in {_EDIT_UNIT_BYTES, _START, _DURATION}:
            # None of them has more than eight bytes, whatever its length says.
            values[tag] = int.from_bytes(segment[at + 4 : at + 4 + min(length, 8)], "big")
        at += 4 + length
    start, duration = values.get(_START, 0), values.get(_DURATION, 0)
    if duration == 0 and values.get(_EDIT_UNIT_BYTES, 0) > 0:
        # All edit units are of one size, however many they are.
        return float(start), float("inf")
    return float(start), float(start + duration)
