"""Whether a file says that its pictures are encrypted.

Sources: ISO/IEC 23001-7 (common encryption of ISO base media files), ISO/IEC 13818-1, 2.4.3.2 (transport streams),
Advanced Systems Format specification, 3.14, 3.15 and 4.13.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from dfwatch.decode.transport import PACKET_BYTES, lead_bytes_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    ReadAt = Callable[[int, int], bytes]

MAX_BOXES = 4096
# The second one is Apple's (FairPlay).
_ENCRYPTED_ENTRIES = frozenset({b"encv", b"drmi"})
_PATH = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")


def is_encrypted_isobmff(read_at: ReadAt, size_bytes: int) -> bool:
    """Whether a video track's sample entry says that it is encrypted; False for any other kind of file."""
    budget = [MAX_BOXES]
    return any(_has_encrypted_entry(read_at, start, end) for start, end in _descend(read_at, 0, size_bytes, 0, budget))


def _descend(read_at: ReadAt, start: int, end: int, depth: int, budget: list[int]) -> Iterator[tuple[int, int]]:
    """Contents of every box at ``_PATH``."""
    for kind, inner_start, inner_end in _boxes(read_at, start, end, budget):
        if kind != _PATH[depth]:
            continue
        if depth + 1 == len(_PATH):
            yield inner_start, inner_end
        else:
            yield from _descend(read_at, inner_start, inner_end, depth + 1, budget)


def _boxes(read_at: ReadAt, start: int, end: int, budget: list[int]) -> Iterator[tuple[bytes, int, int]]:
    while start + 8 <= end and budget[0] > 0:
        budget[0] -= 1
        head = read_at(start, 16)
        if len(head) < 8:
            return
        length, kind = struct.unpack_from(">I4s", head)
        header = 8
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack_from(">Q", head, 8)
            header = 16
        elif length == 0:
            length = end - start
        if length < header:
            return
        yield kind, start + header, min(start + length, end)
        start += length


def _has_encrypted_entry(read_at: ReadAt, start: int, end: int) -> bool:
    # Version, flags and the number of entries come before the entries.
    return any(kind in _ENCRYPTED_ENTRIES for kind, _, _ in _boxes(read_at, start + 8, end, [64]))


_ASF_HEADER_BYTES = 64 * 1024
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
# The Content Encryption Object, and those that came later: the extended and the advanced one.
_ASF_ENCRYPTION = tuple(
    bytes.fromhex(guid)
    for guid in (
        "fbb3112223bdd211b4b700a0c955fc6e",
        "14e68a292226174cb935dae07ee9289c",
        "338505438169e6499b74ad12cb86d58c",
    )
)


def is_protected_asf(read_at: ReadAt) -> bool:
    """Whether the header of a Windows Media file holds what is needed to decrypt it; False for any other file."""
    head = read_at(0, _ASF_HEADER_BYTES)
    if head[:16] != _ASF_HEADER:
        return False
    head = head[: int.from_bytes(head[16:24], "little")]
    return any(guid in head for guid in _ASF_ENCRYPTION)


# Broadcasts' tables are not scrambled, and may come before any picture.
_SCRAMBLED_SHARE = 0.5
_LOOKED_AT_BYTES = 1 << 20


def is_scrambled_transport_stream(read_at: ReadAt) -> bool:
    """Whether most packets at the beginning of a transport stream say that they are scrambled; False for others."""
    data = read_at(0, _LOOKED_AT_BYTES)
    lead_bytes = lead_bytes_in(data)
    if lead_bytes is None:
        return False
    flags = data[lead_bytes + 3 :: PACKET_BYTES + lead_bytes]
    return sum(flag >= 0x40 for flag in flags) > _SCRAMBLED_SHARE * len(flags)
