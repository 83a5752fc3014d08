"""Which frames are shown: pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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

    They are taken from the track that decided, or from all of them where all decided together.
    """
    scored = [
        Shown(track.id, frame.face, frame.p_fake)
        for track in decision.tracks
        if decision.decided_by is None or track.id == decision.decided_by
        for frame in track.frames
    ]
    scored.sort(key=lambda shown: (-shown.p_fake, shown.face.frame_index))
    chosen: dict[int, Shown] = {}
    for shown in scored:
        if len(chosen) == count:
            break
        chosen.setdefault(shown.face.frame_index, shown)
    return list(chosen.values())
