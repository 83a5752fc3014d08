"""A short, seeded run of the fuzz command; thousands of cases: ``python -m tools.fuzz``."""

from __future__ import annotations

from tools import fuzz


def test_mutated_videos_are_read_or_refused() -> None:
    report = fuzz.run(60, seed=20)
    assert report.defects == []
    assert sum(report.outcomes.values()) == 60
    # Both ends of the scale are met, so that the mutations are neither void nor hopeless.
    assert report.outcomes["read"] > 5
    assert len(report.outcomes) > 3
