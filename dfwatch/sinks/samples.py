"""Made-up outcomes that are valid sidecars: for ``dfwatch sinks test`` and for the tests of sinks."""

from __future__ import annotations

from typing import Any

from dfwatch.document import SCHEMA_VERSION

TEST_KEY = "00000000T000000.000000Z-00000000"


def sample(
    job_id: str = TEST_KEY, *, verdict: str | None = "FAKE", confidence: float | None = 0.93, name: str = "sample.mp4"
) -> dict[str, Any]:
    """A sidecar document that speaks of no real file.

    Args:
        job_id: Its job, which is its idempotency key.
        verdict: None for a file that was refused.
        confidence: None where the verdict has none.
        name: The file's name.
    """
    judged = verdict is not None
    scored = judged and verdict != "NO_FACE"
    frame = {"index": 0, "time_s": 0.25, "box": [10.0, 12.0, 80.0, 96.0], "detection_score": 0.9, "p_fake": 0.93}
    track = {"id": 0, "p_fake": 0.93, "p_fake_raw": 0.97, "stable": True, "frames": [frame]}
    return {
        "schema_version": SCHEMA_VERSION,
        "job_id": job_id,
        "status": "done" if judged else "rejected",
        "reason": None if judged else "unsupported_type",
        "reason_detail": None if judged else "files ending in .txt are not judged",
        "reason_hint": None if judged else "drop a video",
        "subject": {
            "name": name,
            "folder": "",
            "size": 123456,
            "sha256": "ab" * 32,
            "received_at": "2026-01-02T03:04:05.678Z",
        },
        "verdict": verdict,
        "confidence": confidence if scored else None,
        "p_fake": 0.93 if scored else None,
        "p_fake_raw": 0.97 if scored else None,
        "calibrated": True if judged else None,
        "thresholds": ({"real": 0.3, "fake": 0.7, "source": "bundle", "false_positive_rate": 0.01} if judged else None),
        "aggregation": "highest_track" if judged else None,
        "decided_by_track": 0 if scored else None,
        "tracks": [track] if scored else [],
        "segments": [],
        "sampling": (
            {
                "requested": 1,
                "decoded": 1,
                "failed": 0,
                "expected_frames": 250,
                "strategy": "planned",
                "times_s": [0.25],
            }
            if judged
            else None
        ),
        "video": (
            {
                "container": "mov",
                "codec": "h264",
                "width": 1280,
                "height": 720,
                "pixel_format": "yuv420p",
                "fps": 25.0,
                "duration_s": 10.0,
                "rotation": 0,
                "still": False,
            }
            if judged
            else None
        ),
        "quality": [],
        "completeness": {"evidence": ["this is a made-up outcome"]},
        "model": {
            "id": "made-up",
            "version": "0",
            "weights_sha256": "0" * 64,
            "architecture": "none",
            "preprocessing": {
                "size_px": 224,
                "channel_order": "rgb",
                "mean": [0.5, 0.5, 0.5],
                "std": [0.25, 0.25, 0.25],
                "crop_margin": 0.0,
                "crop_square": True,
                "crop_shift_y": 0.0,
            },
            "card": None,
            "known_failures": [],
        },
        "runtime": {
            "dfwatch": "0",
            "torch": "0",
            "engine": "none",
            "device": "cpu",
            "device_name": "none",
            "device_reason": "nothing was computed",
            "precision": "float32",
            "precision_max_difference": 0.0,
            "batch_size": 1,
            "threads": 1,
            "host": "nowhere",
            "decoder": "none" if judged else None,
        },
        "timings_ms": {"total": 12.5},
        "attempt": 1,
        "warnings": [],
        "limits": ["This is a made-up outcome that tries a sink; it speaks of no file."],
    }
