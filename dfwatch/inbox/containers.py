"""What length a file's own header declares: used to wait longer for the rest of a file, never to refuse one.

The bytes are hostile. Every read is small and bounded in number, no size that a file claims is ever allocated, and what
does not look right gives no statement. Sources: RIFF/AVI (Microsoft, with the OpenDML extension of 1996), ISO/IEC
14496-12 (ISO base media file format, section 4.2, boxes), RFC 8794 (EBML) and RFC 9559 (Matroska), PNG (ISO/IEC 15948).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dfwatch.inbox.completeness import Length

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    ReadAt = Callable[[int, int], bytes]
    """``read_at(offset, count)``: up to ``count`` bytes from ``offset``; fewer at the end of the file."""

MAX_READS = 4096
"""A file with more boxes or chunks than this gets no statement beyond what was seen."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a header says.

    Attributes:
        container: ``avi``, ``riff``, ``isobmff``, ``matroska``, ``png``; empty where the format makes no statement.
        length_bytes: Least length of the whole file; None where nothing is said.
        missing: A part that must be there and is not; empty where none is.
    """

    container: str = ""
    length_bytes: int | None = None
    missing: str = ""

    def compare(self, size_bytes: int) -> Length:
        """Whether a file of ``size_bytes`` is all there."""
        if self.missing or (self.length_bytes is not None and self.length_bytes > size_bytes):
            return Length.SHORT
        return Length.UNKNOWN if self.length_bytes is None else Length.WHOLE


NO_STATEMENT = Declaration()


def declared_length(read_at: ReadAt, size_bytes: int) -> Declaration:
    """What the header of a file of ``size_bytes`` declares; ``read_at`` may raise OSError, nothing else does."""
    head = read_at(0, 16)
    if head[:4] == b"RIFF":
        return _riff(read_at, size_bytes)
    if head[:4] == b"\x1aE\xdf\xa3":
        return _matroska(read_at(0, 4096))
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return _png(read_at, size_bytes)
    if head[4:8] in _FIRST_BOXES:
        return _isobmff(read_at, size_bytes)
    return NO_STATEMENT


def _riff(read_at: ReadAt, size_bytes: int) -> Declaration:
    """RIFF chunks follow each other; an OpenDML AVI goes on after 1 or 2 GiB in further ones of the form AVIX."""
    container = "avi" if read_at(8, 4) == b"AVI " else "riff"
    end = 0
    reads = iter(range(MAX_READS))
    for _ in reads:
        head = read_at(end, 12)
        if len(head) < 12 or head[:4] != b"RIFF" or (end > 0 and head[8:12] != b"AVIX"):
            break
        (length,) = struct.unpack_from("<I", head, 4)
        if length in {0, 0xFFFFFFFF}:
            # Written first, filled in when the last frame has been: a recording that still goes on.
            return Declaration(container, missing="the length in the RIFF header")
        start, end = end, end + 8 + length + (length & 1 if end + 8 + length < size_bytes else 0)
        if container == "avi" and end <= size_bytes and _lacks_last_chunks(read_at, start, end, reads):
            return Declaration(container, end, missing="what follows its frames")
        if container != "avi" or end >= size_bytes:
            break
    return Declaration(container, end or None)


def _lacks_last_chunks(read_at: ReadAt, start: int, end: int, reads: Iterator[int]) -> bool:
    """Whether there are zeros where the chunks behind the frames belong, in a RIFF that is as long as it says.

    So it looks while it is being written by a sender that gave the file its whole length first. ``reads`` gives one
    item for each read that is left, for all RIFFs of a file.
    """
    place = start + 12
    for _ in reads:
        head = read_at(place, 8)
        if len(head) < 8 or place > end - 8:
            return False
        if not any(head):
            return _seems_empty(read_at, place, end)
        (length,) = struct.unpack_from("<I", head, 4)
        place += 8 + length + (length & 1)
    return False


_FIRST_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp"})


def _isobmff(read_at: ReadAt, size_bytes: int) -> Declaration:
    """Top-level boxes. A file whose media data comes first is of no use before ``moov``, which its writer adds last."""
    offset = 0
    types: set[bytes] = set()
    walked_to_end = False
    for _ in range(MAX_READS):
        head = read_at(offset, 16)
        if len(head) < 8:
            walked_to_end = True
            break
        length, kind = struct.unpack_from(">I4s", head)
        if not all(0x20 <= byte < 0x7F or byte == 0xA9 for byte in kind):
            # Not a box: padding, a preallocated end that is still empty, a hole, or rubbish behind the last one.
            if not any(head) and not _seems_empty(read_at, offset, size_bytes):
                return Declaration("isobmff", missing=_missing_box(types))
            if not any(head) and b"moof" in types and b"mfra" not in types:
                # Each fragment stands for itself, so that those which have arrived look like a whole file. Who pads one
                # that is whole on purpose has nearly always written the list of its fragments before.
                return Declaration("isobmff", missing=_missing_box(types) or "what follows its last fragment")
            walked_to_end = not any(head)
            break
        types.add(kind)
        if length == 0:
            # To the end of the file, wherever that may be one day.
            return Declaration("isobmff", missing=_missing_box(types))
        if length == 1:
            if len(head) < 16:
                offset += 16
                walked_to_end = True
                break
            (length,) = struct.unpack_from(">Q", head, 8)
            if length < 16:
                return NO_STATEMENT
        elif length < 8:
            return NO_STATEMENT
        offset += length
        if offset >= size_bytes:
            walked_to_end = True
            break
    if offset > size_bytes:
        return Declaration("isobmff", offset)
    if not walked_to_end:
        return Declaration("isobmff")
    return Declaration("isobmff", offset, _missing_box(types))


_PROBES = 256


def _seems_empty(read_at: ReadAt, start: int, end: int) -> bool:
    """Whether the bytes between two places are zero, as far as some of them and the last ones tell."""
    step = max(16, (end - start) // _PROBES)
    return not any(any(read_at(place, 16)) for place in (*range(start, end, step), max(start, end - 16)))


def _missing_box(types: set[bytes]) -> str:
    """Which box a file of these boxes still lacks; fragments (moof) and still pictures (meta) do without moov."""
    if not types & {b"moov", b"moof", b"meta"}:
        return "moov"
    return "" if types & {b"mdat", b"meta"} else "mdat"


_UNKNOWN_SIZE = -1


def _vint(data: bytes, offset: int, *, keep_marker: bool) -> tuple[int, int] | None:
    """An EBML variable-size integer and the offset behind it; value -1 for a size of all ones (unknown)."""
    if offset >= len(data) or data[offset] == 0:
        return None
    count = 9 - data[offset].bit_length()
    raw = data[offset : offset + count]
    if len(raw) < count:
        return None
    value = int.from_bytes(raw, "big")
    if not keep_marker:
        mask = (1 << (7 * count)) - 1
        value &= mask
        if value == mask:
            value = _UNKNOWN_SIZE
    return value, offset + count


def _matroska(head: bytes) -> Declaration:
    """The EBML header, perhaps Void or CRC-32 elements, then the Segment, whose size may be unknown (live, piped)."""
    offset = 0
    for _ in range(8):
        element = _vint(head, offset, keep_marker=True)
        size = _vint(head, element[1], keep_marker=False) if element else None
        if element is None or size is None or size[0] == _UNKNOWN_SIZE:
            return NO_STATEMENT
        if element[0] == 0x18538067:
            return Declaration("matroska", size[1] + size[0])
        if element[0] not in {0x1A45DFA3, 0xEC, 0xBF}:
            return NO_STATEMENT
        offset = size[1] + size[0]
    return NO_STATEMENT


def _png(read_at: ReadAt, size_bytes: int) -> Declaration:
    """Chunks up to ``IEND``, which is the last."""
    offset = 8
    for _ in range(MAX_READS):
        head = read_at(offset, 8)
        if len(head) < 8:
            return Declaration("png", missing="IEND")
        length, kind = struct.unpack(">I4s", head)
        if not kind.isalpha():
            return Declaration("png", missing="IEND") if not any(head) else NO_STATEMENT
        offset += 12 + length
        if kind == b"IEND" or offset > size_bytes:
            return Declaration("png", offset)
    return NO_STATEMENT
