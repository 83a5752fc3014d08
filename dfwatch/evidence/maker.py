"""From a judged video to its folder of evidence, and to what the sidecar says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import numpy as np

from dfwatch.document import written_score
from dfwatch.errors import DeviceError, ModelError
from dfwatch.evidence.choice import highest
from dfwatch.evidence.page import HEAT_NOTE, page
from dfwatch.evidence.pictures import boxed_frame, heated_crop
from dfwatch.evidence.timeline import timeline

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from dfwatch.config import EvidenceSettings
    from dfwatch.evidence.choice import Shown
    from dfwatch.reading import Reading
    from dfwatch.verdict import Decision

REPORT: Final = "report.html"
TIMELINE: Final = "timeline.svg"


@runtime_checkable
class Explainer(Protocol):
    """A detector that can say where it looked."""

    def heat_maps(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 (n, side, side), 0 to 1, of crops (n, side, side, 3); raises ModelError."""


def make(
    document: Mapping[str, Any], reading: Reading, decision: Decision, detector: object, settings: EvidenceSettings
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What the sidecar says under ``evidence`` (``folder`` is still to be filled in), and the files by name.

    Args:
        document: The sidecar document so far.
        reading: What the reader brought, with thumbnails.
        decision: The verdict.
        detector: Asked for heat maps if it is an ``Explainer``.
        settings: The section ``evidence``.

    Raises:
        DeviceError: The device was lost.
    """
    shown = highest(decision, settings.frames) if reading.thumbnails is not None else []
    heats, problem = _heat_maps(detector, reading, shown) if settings.heat_map and shown else (None, "")
    files: dict[str, bytes] = {}
    frames: list[dict[str, Any]] = []
    size = (reading.video.width, reading.video.height)
    for number, (face, heat) in enumerate(zip(shown, heats if heats is not None else [None] * len(shown), strict=True)):
        name, heat_name = f"frame-{number + 1}.jpg", f"heat-{number + 1}.jpg"
        if reading.thumbnails is not None:
            files[name] = boxed_frame(reading.thumbnails[face.face.frame_index], face.face.box, size)
        if heat is not None:
            files[heat_name] = heated_crop(reading.crops[face.face.crop_index], heat)
        frames.append(
            {
                "file": name,
                "heat_map": heat_name if heat is not None else None,
                "track": face.track,
                "index": face.face.frame_index,
                "time_s": round(face.face.time_s, 3),
                "p_fake": written_score(face.p_fake, decision.limits),
            }
        )
    if document["tracks"]:
        files[TIMELINE] = timeline(document).encode()
    files[REPORT] = page(document, files, frames).encode("utf-8", "replace")
    described = {
        "folder": None,
        "report": REPORT,
        "timeline": TIMELINE if document["tracks"] else None,
        "frames": frames,
        "heat_map_note": HEAT_NOTE if heats is not None else (problem or None),
    }
    return described, files


def _heat_maps(detector: object, reading: Reading, shown: Sequence[Shown]) -> tuple[NDArray[np.float32] | None, str]:
    if not isinstance(detector, Explainer):
        return None, "this detector has no heat maps"
    try:
        return detector.heat_maps(np.stack([reading.crops[face.face.crop_index] for face in shown])), ""
    except DeviceError:
        raise
    except ModelError as error:
        # The verdict stands without it.
        return None, f"no heat map: {error.cause}"
