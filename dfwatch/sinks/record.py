"""An outcome as one flat row: the columns that people query, for CSV files and databases."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

# Name and kind of each column, in their order; new ones are only ever added at the end.
COLUMNS: Final[tuple[tuple[str, str], ...]] = (
    ("job_id", "text"),
    ("received_at", "time"),
    ("published_at", "time"),
    ("name", "text"),
    ("folder", "text"),
    ("size_bytes", "integer"),
    ("sha256", "text"),
    ("status", "text"),
    ("reason", "text"),
    ("reason_detail", "text"),
    ("verdict", "text"),
    ("confidence", "real"),
    ("p_fake", "real"),
    ("p_fake_raw", "real"),
    ("calibrated", "boolean"),
    ("faces", "integer"),
    ("tracks", "integer"),
    ("frames", "integer"),
    ("duration_s", "real"),
    ("width", "integer"),
    ("height", "integer"),
    ("model_id", "text"),
    ("model_version", "text"),
    ("attempt", "integer"),
    ("total_ms", "real"),
)
TABLE_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")
NAMES: Final = tuple(name for name, _ in COLUMNS)


def record(document: Mapping[str, Any], published_at: str) -> dict[str, Any]:
    """One value (text, number, bool or None) for each of ``COLUMNS``; times are ISO 8601 in UTC."""
    subject, video, sampling = document["subject"], document["video"] or {}, document["sampling"] or {}
    return {
        "job_id": document["job_id"],
        "received_at": subject["received_at"],
        "published_at": published_at or None,
        "name": subject["name"],
        "folder": subject["folder"],
        "size_bytes": subject["size"],
        "sha256": subject["sha256"],
        "status": document["status"],
        "reason": document["reason"],
        "reason_detail": document["reason_detail"],
        "verdict": document["verdict"],
        "confidence": document["confidence"],
        "p_fake": document["p_fake"],
        "p_fake_raw": document["p_fake_raw"],
        "calibrated": document["calibrated"],
        "faces": sum(len(track["frames"]) for track in document["tracks"]),
        "tracks": len(document["tracks"]),
        "frames": sampling.get("decoded"),
        "duration_s": video.get("duration_s"),
        "width": video.get("width"),
        "height": video.get("height"),
        "model_id": document["model"]["id"],
        "model_version": document["model"]["version"],
        "attempt": document["attempt"],
        "total_ms": document["timings_ms"]["total"],
    }
