"""What a file that FFmpeg cannot open was: by how it begins or, where its beginning is gone, by how it goes on.

The bytes are hostile: what is read is bounded, and what does not fit to the last byte tells nothing. Sources: ISO/IEC
14496-12 (boxes), RFC 9559 (Matroska), RIFF/AVI (Microsoft).
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    ReadAt = Callable[[int, int], bytes]

_ISO, _MATROSKA, _AVI = "an MP4 or QuickTime file", "a Matroska or WebM file", "an AVI file"
_BEGINNINGS: Final = (
    (4, b"ftyp", _ISO),
    (4, b"moov", "a QuickTime file"),
    (4, b"mdat", "a QuickTime file"),
    (0, b"\x1aE\xdf\xa3", _MATROSKA),
    (8, b"AVI ", _AVI),
    (8, b"WEBP", "a WebP picture"),
    (0, b"FLV", "a Flash video"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a Windows Media file"),
    (0, b"OggS", "an Ogg file"),
    (0, b"\x00\x00\x01\xba", "an MPEG program stream"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"\x89PNG", "a PNG picture"),
)
# These may hold a video, whole or as their last part.
_OTHER_FILES: Final = (
    *(b"PK\x03\x04", b"Rar!", b"7z\xbc\xaf", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"!<arch>\n"),
    *(b"%PDF", b"MZ", b"\x7fELF", b"RIFF", b"GIF8", b"ID3", b"fLaC", b"\xd0\xcf\x11\xe0"),
)
# Where the beginning is missing, the first part that is whole lies near it, or, behind media data, near the end.
_LOOKED_AT_BYTES: Final = 16 * 1024 * 1024
_MAX_READS: Final = 65536

_ISO_PART: Final = re.compile(rb"moov|moof|mdat|mfra")
_BOXES: Final = frozenset(
    {b"mdat", b"moov", b"moof", b"mfra", b"free", b"skip", b"wide", b"uuid", b"udta", b"meta"}
) | {*(b"sidx", b"styp", b"emsg", b"prft", b"ssix")}
_MATROSKA_PART: Final = re.compile(rb"\x1f\x43\xb6\x75")
_ELEMENTS: Final = frozenset(
    {
        *(b"\x1f\x43\xb6\x75", b"\x1c\x53\xbb\x6b", b"\x12\x54\xc3\x67", b"\x19\x41\xa4\x69", b"\x10\x43\xa7\x70"),
        *(b"\x11\x4d\x9b\x74", b"\x15\x49\xa9\x66", b"\x16\x54\xae\x6b"),
    }
)
_VOID, _CRC = 0xEC, 0xBF
_AVI_PART: Final = re.compile(rb"LIST(?=.{4}movi)|idx1|RIFF(?=.{4}AVIX)", re.DOTALL)
_CHUNKS: Final = frozenset({b"LIST", b"idx1", b"JUNK", b"RIFF"})


def known_beginning(head: bytes) -> str | None:
    """What a file is that begins like this; None where that is not known."""
    return next((kind for offset, magic, kind in _BEGINNINGS if head[offset : offset + len(magic)] == magic), None)


def without_beginning(read_at: ReadAt, size_bytes: int) -> str | None:
    """What a file is of which only the beginning is missing or overwritten; None where that cannot be told for certain.

    It can where one of its parts is found from which part follows part up to the file's very end. Of bytes that stand
    there by chance, or of a video in an archive, that is not so.
    """
    head = read_at(0, 64)
    if known_beginning(head) is not None or head.startswith(_OTHER_FILES):
        return None
    budget = [_MAX_READS]
    starts = {0, max(0, size_bytes - _LOOKED_AT_BYTES)}
    for start in sorted(starts, reverse=True):
        data = read_at(start, _LOOKED_AT_BYTES)
        for pattern, before, next_part, kind in (
            (_ISO_PART, 4, _next_box, _ISO),
            (_MATROSKA_PART, 0, _next_element, _MATROSKA),
            (_AVI_PART, 0, _next_chunk, _AVI),
        ):
            for match in pattern.finditer(data):
                place = start + match.start() - before
                if place >= 0 and _leads_to_end(read_at, place, size_bytes, next_part, budget):
                    return kind
    return None


def _leads_to_end(
    read_at: ReadAt,
    place: int,
    size_bytes: int,
    next_part: Callable[[bytes, int, int], int | None],
    budget: list[int],
) -> bool:
    """Whether part follows part from a place to the file's end; ``budget``: reads that are left for all places."""
    while place < size_bytes and budget[0] > 0:
        budget[0] -= 1
        following = next_part(read_at(place, 16), place, size_bytes)
        if following is None:
            return False
        place = following
    return place == size_bytes


def _next_box(head: bytes, place: int, size_bytes: int) -> int | None:
    """Where the box behind this one begins; None where there is none."""
    if len(head) < 8 or head[4:8] not in _BOXES:
        return None
    (length,) = struct.unpack_from(">I", head)
    if length == 1 and len(head) == 16:
        (length,) = struct.unpack_from(">Q", head, 8)
    return place + length if 8 <= length <= size_bytes - place else None


def _next_element(head: bytes, place: int, size_bytes: int) -> int | None:
    """As ``_next_box``, of a Matroska element below the segment whose size is known."""
    id_bytes = 1 if head[:1] and head[0] in {_VOID, _CRC} else 4
    if len(head) <= id_bytes or (id_bytes == 4 and head[:4] not in _ELEMENTS) or head[id_bytes] == 0:
        return None
    width = 9 - head[id_bytes].bit_length()
    raw = head[id_bytes : id_bytes + width]
    mask = (1 << (7 * width)) - 1
    length = int.from_bytes(raw, "big") & mask
    end = place + id_bytes + width + length
    return end if len(raw) == width and 0 < length < mask and end <= size_bytes else None


def _next_chunk(head: bytes, place: int, size_bytes: int) -> int | None:
    """As ``_next_box``, of a RIFF chunk; these begin at even places."""
    if len(head) < 8 or head[:4] not in _CHUNKS:
        return None
    (length,) = struct.unpack_from("<I", head, 4)
    end = place + 8 + length
    # The byte that makes the last one even may be missing.
    return end + (length & 1 if end < size_bytes else 0) if length > 0 and end <= size_bytes else None
