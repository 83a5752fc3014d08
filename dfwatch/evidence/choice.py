"""Which frames are shown: pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dfwatch.reasons import Label

if TYPE_CHECKING:
    from dfwatch.reading import Face
    from dfwatch.verdict import Decision


@dataclass(frozen=True, slots=True)
class Shown:
    """A face that is shown.

    Attributes:
        track: Id of its track.
        face: Where and when.
        p_fake: Its calibrated probability of being fake.
    """

    track: int
    face: Face
    p_fake: float


def highest(decision: Decision, count: int) -> list[Shown]:
    """At most ``count`` faces, highest score first, each from another frame.

    Of FAKE they are taken from the track that decided, or from all of them where all decided together. Otherwise they
    are taken from every track: what speaks against REAL, and may have kept it from being said, is to be looked at.
    """
    only = decision.decided_by if decision.label is Label.FAKE else None
    scored = [
        Shown(track.id, frame.face, frame.p_fake)
        for track in decision.tracks
        if only is None or track.id == only
        for frame in track.frames
    ]
    scored.sort(key=lambda shown: (-shown.p_fake, shown.face.frame_index))
    chosen: dict[int, Shown] = {}
    for shown in scored:
        if len(chosen) == count:
            break
        chosen.setdefault(shown.face.frame_index, shown)
    return list(chosen.values())
