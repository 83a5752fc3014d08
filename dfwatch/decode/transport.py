"""How the packets of a transport stream lie in a file.

Sources: ISO/IEC 13818-1, 2.4.3.2; a Blu-ray disc's packets have four bytes before them.
"""

from __future__ import annotations

PACKET_BYTES = 188
SYNC = 0x47
_LEADS = (0, 4)


def lead_bytes_in(head: bytes) -> int | None:
    """How many bytes come before each packet, by a file's first bytes; None where these are not two packets or more."""
    for lead in _LEADS:
        sync = head[lead :: PACKET_BYTES + lead]
        if len(sync) > 1 and sync.count(SYNC) == len(sync):
            return lead
    return None
