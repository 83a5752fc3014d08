from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfwatch.config import FaceSettings, VerdictSettings
from dfwatch.errors import ConfigError
from dfwatch.models.bundle import Calibration, Thresholds
from dfwatch.reading import Reading, SampledFrame
from dfwatch.reasons import Label
from dfwatch.verdict import Decision, Limits, decide, frames_against_real, limits_in_force, stable_faces_needed
from tests.factories import reading

NO_CALIBRATION = Calibration(method="none", parameters={}, fitted_on="")
LIMITS = Limits(real=0.3, fake=0.7)


def judged(
    read: Reading,
    scores: list[float],
    *,
    settings: VerdictSettings | None = None,
    calibration: Calibration = NO_CALIBRATION,
    share: float = 0.25,
) -> Decision:
    return decide(
        read,
        np.array(scores, dtype=np.float32),
        calibration=calibration,
        limits=LIMITS,
        settings=settings or VerdictSettings(),
        faces=FaceSettings(min_track_share=share),
    )


def test_one_face_gives_the_classic_mean_over_the_sampled_frames() -> None:
    scores = [0.6, 0.8, 0.9, 0.9]
    decision = judged(reading([range(4)], frames=4), scores)
    assert decision.label is Label.FAKE
    assert decision.p_fake == pytest.approx(0.8)
    assert decision.p_fake_raw == pytest.approx(0.8)
    assert decision.confidence == pytest.approx(0.8)
    assert decision.decided_by == 0


@pytest.mark.parametrize(
    ("p_fake", "label", "confidence"),
    [
        (0.0, Label.REAL, 1.0),
        (0.25, Label.REAL, 0.75),
        (0.5, Label.INCONCLUSIVE, None),
        (0.75, Label.FAKE, 0.75),
        (1.0, Label.FAKE, 1.0),
    ],
)
def test_thresholds_split_the_scale_in_three(p_fake: float, label: Label, confidence: float | None) -> None:
    decision = judged(reading([range(8)], frames=8), [p_fake] * 8)
    assert decision.label is label
    assert decision.confidence == (None if confidence is None else pytest.approx(confidence))


def test_thresholds_themselves_belong_to_the_labels() -> None:
    assert judged(reading([[0]], frames=1), [0.7]).p_fake == pytest.approx(0.7)
    exactly = Limits(real=0.25, fake=0.75)
    for p_fake, label in ((0.25, Label.REAL), (0.75, Label.FAKE)):
        decision = decide(
            reading([[0]], frames=1),
            np.array([p_fake], dtype=np.float32),
            calibration=NO_CALIBRATION,
            limits=exactly,
            settings=VerdictSettings(),
            faces=FaceSettings(),
        )
        assert decision.label is label


def test_without_a_face_nothing_is_claimed() -> None:
    decision = judged(reading([]), [])
    assert decision.label is Label.NO_FACE
    assert decision.p_fake is decision.p_fake_raw is decision.confidence is None
    assert decision.tracks == ()


def test_the_highest_stable_track_decides() -> None:
    read = reading([range(20), range(20)])
    decision = judged(read, [0.1] * 20 + [0.9] * 20)
    assert (decision.label, decision.decided_by) == (Label.FAKE, 1)
    assert [track.p_fake for track in decision.tracks] == pytest.approx([0.1, 0.9])


def test_a_short_track_does_not_decide() -> None:
    read = reading([range(20), range(2)])
    decision = judged(read, [0.9] * 20 + [0.01] * 2)
    assert (decision.label, decision.decided_by) == (Label.FAKE, 0)
    assert [track.stable for track in decision.tracks] == [True, False]


@pytest.mark.parametrize(
    ("tracks", "scores"),
    [
        # A fake that cuts divide into short tracks, beside a real face that is seen for long enough to decide.
        ([range(4), range(6, 10), range(12, 16), range(15, 20)], [0.99] * 12 + [0.02] * 5),
        ([[number] for number in range(20)], [0.99] * 5 + [0.05] * 15),
        ([range(20)], [0.99] * 5 + [0.05] * 15),
        ([range(20), range(2)], [0.1] * 20 + [0.99] * 2),
    ],
    ids=["cut into pieces", "a montage", "a quarter of one track", "two frames beside"],
)
def test_real_is_not_said_where_several_frames_show_a_fake(tracks: list[range], scores: list[float]) -> None:
    decision = judged(reading(tracks), scores)
    assert decision.p_fake is not None
    assert decision.p_fake <= LIMITS.real
    assert (decision.label, decision.confidence) == (Label.INCONCLUSIVE, None)
    assert "reach" in decision.warnings[-1]


def test_a_single_frame_is_told_of_and_changes_nothing() -> None:
    decision = judged(reading([range(20), [7]]), [0.1] * 20 + [0.99])
    assert decision.label is Label.REAL
    assert decision.warnings == ("1 of 20 frames show a face that reaches the FAKE threshold",)


def test_short_tracks_are_taken_together_when_none_is_stable() -> None:
    read = reading([[0, 1], [4, 5], [8, 9]])
    decision = judged(read, [0.9] * 6)
    assert decision.decided_by is None
    assert decision.label is Label.FAKE
    assert "taken together" in " ".join(decision.warnings)


def test_too_few_frames_with_a_face_make_no_firm_verdict() -> None:
    decision = judged(reading([[3], [9]]), [0.95, 0.95])
    assert decision.label is Label.INCONCLUSIVE
    assert decision.confidence is None
    assert decision.p_fake == pytest.approx(0.95)


def test_min_faces_holds_back_a_verdict() -> None:
    decision = judged(reading([range(6)]), [0.95] * 6, settings=VerdictSettings(min_faces=7))
    assert decision.label is Label.INCONCLUSIVE
    assert "7 needed" in " ".join(decision.warnings)


def test_mean_aggregation_takes_every_face() -> None:
    decision = judged(
        reading([range(20), range(20)]), [0.0] * 20 + [1.0] * 20, settings=VerdictSettings(aggregation="mean")
    )
    assert decision.decided_by is None
    assert decision.p_fake == pytest.approx(0.5)


def test_calibration_changes_p_but_raw_stays() -> None:
    softer = Calibration(method="temperature", parameters={"temperature": 2.0}, fitted_on="made up")
    decision = judged(reading([range(20)]), [0.9] * 20, calibration=softer)
    assert decision.p_fake_raw == pytest.approx(0.9, abs=1e-6)
    assert decision.p_fake == pytest.approx(0.75, abs=1e-6)


def test_segments_are_the_stretches_at_or_above_the_fake_threshold() -> None:
    scores = [0.1] * 5 + [0.9] * 5 + [0.1] * 5 + [0.8] * 5
    segments = judged(reading([range(20)]), scores).segments
    assert [(round(s.start_s, 3), round(s.end_s, 3)) for s in segments] == [(2.5, 5.0), (7.5, 10.0)]
    assert [s.p_fake for s in segments] == pytest.approx([0.9, 0.8])


def test_no_segment_reaches_over_what_could_not_be_decoded() -> None:
    whole = reading([range(15)], frames=20, decoded=15)
    # A slice is half a second; the frames of 3.5 to 6 s are missing.
    times = [0.5 * slot + 0.25 for slot in (*range(7), *range(12, 20))]
    sampled = tuple(SampledFrame(index, time_s) for index, time_s in enumerate(times))
    faces = tuple(replace(face, time_s=times[face.frame_index]) for face in whole.tracks[0].faces)
    holed = replace(
        whole, sampling=replace(whole.sampling, frames=sampled), tracks=(replace(whole.tracks[0], faces=faces),)
    )
    segments = judged(holed, [0.9] * 15).segments
    assert [(round(s.start_s, 3), round(s.end_s, 3)) for s in segments] == [(0.0, 3.75), (5.75, 10.0)]

    stood_still = replace(holed, sampling=replace(holed.sampling, expected_frames=15, failed=0))
    segments = judged(stood_still, [0.9] * 15).segments
    assert [(s.start_s, s.end_s) for s in segments] == [(0.0, 10.0)]

    [cut] = judged(whole, [0.9] * 15).segments
    assert (cut.start_s, round(cut.end_s, 3)) == (0.0, 7.75)


def test_a_share_of_the_frames_is_the_share_that_was_written() -> None:
    assert stable_faces_needed(20, 0.55) == 11
    assert stable_faces_needed(100, 0.07) == 7
    assert stable_faces_needed(20, 0.551) == 12


def test_configured_thresholds_replace_the_bundles() -> None:
    own = Thresholds(real=0.2, fake=0.8, false_positive_rate=0.01, chosen_on="made up")
    assert limits_in_force(own, VerdictSettings()) == Limits(real=0.2, fake=0.8)
    assert limits_in_force(own, VerdictSettings(fake_threshold=0.95)) == Limits(real=0.2, fake=0.95)


@pytest.mark.parametrize(
    ("configured", "words"),
    [
        (VerdictSettings(real_threshold=0.97), "0.97 (verdict.real_threshold), FAKE from 0.8 (the model's own)"),
        (VerdictSettings(real_threshold=0.8), "0.8 (verdict.real_threshold), FAKE from 0.8 (the model's own)"),
        (VerdictSettings(fake_threshold=0.09), "0.2 (the model's own), FAKE from 0.09 (verdict.fake_threshold)"),
    ],
)
def test_a_configured_threshold_that_crosses_the_models_other_one_is_refused(
    configured: VerdictSettings, words: str
) -> None:
    own = Thresholds(real=0.2, fake=0.8, false_positive_rate=0.01, chosen_on="made up")
    with pytest.raises(ConfigError) as caught:
        limits_in_force(own, configured)
    assert words in caught.value.cause
    assert "verdict.real_threshold below" in caught.value.hint


def test_a_model_that_leaves_nothing_open_is_taken_as_it_is() -> None:
    own = Thresholds(real=0.5, fake=0.5, false_positive_rate=None, chosen_on="made up")
    assert limits_in_force(own, VerdictSettings()) == Limits(real=0.5, fake=0.5)


@given(
    tracks=st.lists(st.sets(st.integers(0, 19), min_size=1), max_size=4),
    seed=st.integers(0, 2**32 - 1),
    share=st.floats(0, 1),
    aggregation=st.sampled_from(["highest_track", "mean"]),
)
def test_a_verdict_never_claims_more_than_its_faces(
    tracks: list[set[int]], seed: int, share: float, aggregation: str
) -> None:
    read = reading([sorted(track) for track in tracks])
    scores = np.random.default_rng(seed).random(len(read.crops), dtype=np.float32)
    decision = judged(read, list(scores), settings=VerdictSettings(aggregation=aggregation), share=share)

    assert (decision.label is Label.NO_FACE) == (not tracks)
    if decision.p_fake is None:
        return
    assert scores.min() - 1e-6 <= decision.p_fake <= scores.max() + 1e-6
    if decision.label in {Label.FAKE, Label.REAL}:
        seen = {i for t in tracks for i in t} if decision.decided_by is None else tracks[decision.decided_by]
        assert len(seen) >= stable_faces_needed(20, share)
    if decision.label is Label.REAL:
        reaching = {f.face.frame_index for t in decision.tracks for f in t.frames if f.p_fake >= LIMITS.fake}
        assert len(reaching) < frames_against_real(stable_faces_needed(20, share))
    ends = [0.0] + [edge for segment in decision.segments for edge in (segment.start_s, segment.end_s)] + [10.0]
    assert ends == sorted(ends)
