from __future__ import annotations

import math

import numpy as np
import pytest

from dfwatch.errors import TrainingError
from dfwatch.training import metrics
from dfwatch.training.calibration import choose_thresholds, fit_calibration, logit
from dfwatch.training.metrics import bootstrap

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1])
SCORES = np.array([0.1, 0.2, 0.6, 0.3, 0.4, 0.7, 0.8, 0.9])


def test_figures_of_eight_videos_worked_out_by_hand() -> None:
    # One of 16 pairs is in the wrong order: the real with 0.6 above the fake with 0.4.
    assert metrics.auc(LABELS, SCORES) == pytest.approx(15 / 16)
    # Fakes at ranks 1, 2, 3 and 5: (1 + 1 + 1 + 4/5) / 4.
    assert metrics.average_precision(LABELS, SCORES) == pytest.approx(3.8 / 4)
    assert metrics.equal_error_rate(LABELS, SCORES) == pytest.approx(0.25)
    assert metrics.hits_at_false_alarms(LABELS, SCORES, 0.01) == pytest.approx(0.75)
    assert metrics.hits_at_false_alarms(LABELS, SCORES, 0.25) == pytest.approx(1.0)
    assert metrics.brier(np.array([0, 1]), np.array([0.2, 0.6])) == pytest.approx((0.04 + 0.16) / 2)
    # Two bins: 0.1 with no fake, 0.9 with half fakes.
    assert metrics.expected_calibration_error(np.array([0, 0, 1, 0]), np.array([0.1, 0.1, 0.9, 0.9])) == pytest.approx(
        0.5 * 0.1 + 0.5 * 0.4
    )


def test_how_often_a_fake_verdict_is_right_depends_on_how_many_fakes_there_are() -> None:
    # Of 200 videos, half of them fake: 80 hits and 1 false alarm. Of 10,000 with 100 fakes: 80 and 99.
    assert metrics.right_among_flagged(0.8, 0.01, 0.5) == pytest.approx(80 / 81)
    assert metrics.right_among_flagged(0.8, 0.01, 0.01) == pytest.approx(80 / 179)
    assert math.isnan(metrics.right_among_flagged(0.0, 0.0, 0.5))
    # "Rule of three": none among 300 does not say much against 1 in 100.
    assert metrics.upper_bound(0, 300, 0.95) == pytest.approx(3 / 300, rel=0.01)
    assert metrics.upper_bound(7, 7, 0.95) == 1.0


def test_ties_count_half_and_one_label_alone_has_no_figure() -> None:
    assert metrics.auc(np.array([0, 1]), np.array([0.5, 0.5])) == 0.5
    assert math.isnan(metrics.auc(np.array([1, 1]), np.array([0.5, 0.6])))


def test_inconclusive_is_neither_right_nor_counted_among_the_decided() -> None:
    calls = metrics.calls_at(SCORES, real=0.25, fake=0.75)
    assert metrics.coverage(LABELS, calls) == pytest.approx(4 / 8)
    assert metrics.accuracy_of_decided(LABELS, calls) == 1.0
    assert metrics.balanced_accuracy(LABELS, calls) == pytest.approx((2 / 4 + 2 / 4) / 2)
    assert metrics.hits(LABELS, calls) == pytest.approx(0.5)
    assert metrics.misses(LABELS, calls) == 0.0
    assert metrics.false_alarms(LABELS, calls) == 0.0


def test_a_handful_of_groups_gives_no_interval() -> None:
    one = bootstrap(metrics.auc, np.array([0, 1, 1]), np.array([0.1, 0.8, 0.9]), ["a", "b", "c"])
    assert str(one) == "1.000"
    enough = bootstrap(metrics.auc, np.array([0, 1] * 5), np.linspace(0, 1, 10), [str(n) for n in range(10)])
    assert not math.isnan(enough.low)
    # Videos of four people are no more than four.
    few = bootstrap(metrics.auc, np.array([0, 1] * 20), np.linspace(0, 1, 40), [str(n % 4) for n in range(40)])
    assert math.isnan(few.low)


def test_an_ece_is_shown_beside_what_chance_alone_makes_of_it() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.random(20)
    of_few = metrics.expected_of_calibrated(probabilities)
    of_many = metrics.expected_of_calibrated(rng.random(20_000), rounds=20)
    assert of_few > 0.1
    assert of_many < 0.01
    calibrated = (rng.random(20) < probabilities).astype(np.int64)
    assert metrics.expected_calibration_error(calibrated, probabilities) == pytest.approx(of_few, abs=0.1)


def test_a_lower_bound_is_seldom_above_the_truth() -> None:
    rng = np.random.default_rng(0)
    above = [metrics.lower_bound(int(rng.binomial(11, 0.3)), 11, 0.95) > 0.3 for _ in range(1000)]
    assert np.mean(above) <= 0.05
    assert metrics.lower_bound(0, 11, 0.95) == 0.0


def test_the_interval_holds_the_value_and_is_wider_when_groups_repeat_themselves() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 100)
    scores = labels + rng.normal(0, 1, 200)
    alone = bootstrap(metrics.auc, labels, scores, [str(n) for n in range(200)], rounds=150)
    assert alone.low < alone.value < alone.high
    copies = 3
    repeated = bootstrap(
        metrics.auc,
        np.repeat(labels, copies),
        np.repeat(scores, copies),
        [str(n) for n in np.repeat(np.arange(200), copies)],
        rounds=150,
    )
    # Copies of a video are no new evidence: the interval stays as wide.
    assert repeated.high - repeated.low == pytest.approx(alone.high - alone.low, rel=0.25)
    naive = bootstrap(
        metrics.auc, np.repeat(labels, copies), np.repeat(scores, copies), [str(n) for n in range(600)], rounds=150
    )
    assert naive.high - naive.low < 0.7 * (alone.high - alone.low)


@pytest.mark.parametrize("method", ["temperature", "platt"])
def test_calibration_undoes_a_known_distortion(method: str) -> None:
    rng = np.random.default_rng(1)
    truth = rng.uniform(0.02, 0.98, 40_000)
    labels = (rng.uniform(size=40_000) < truth).astype(np.int64)
    distorted = 1 / (1 + np.exp(-3 * logit(truth)))
    assert metrics.expected_calibration_error(labels, distorted) > 0.08
    calibration = fit_calibration(method, labels, distorted, "made-up data")
    assert metrics.expected_calibration_error(labels, calibration.apply(distorted)) < 0.015
    if method == "temperature":
        assert calibration.parameters["temperature"] == pytest.approx(3, rel=0.05)
    else:
        assert calibration.parameters["slope"] == pytest.approx(1 / 3, rel=0.05)


@pytest.mark.parametrize("method", ["temperature", "platt"])
def test_many_frames_of_a_video_weigh_as_much_as_one_and_labels_stay_even(method: str) -> None:
    rng = np.random.default_rng(4)
    labels = np.repeat([0, 1], [60, 20])
    scores = 1 / (1 + np.exp(-(rng.normal(0, 1, 80) + 2 * labels - 1)))
    frames = rng.integers(1, 17, 80)
    once = fit_calibration(method, labels, scores, "videos")
    often = fit_calibration(
        method, np.repeat(labels, frames), np.repeat(scores, frames), "frames", 1 / np.repeat(frames, frames)
    )
    assert fit_calibration(method, labels, scores, "videos", np.ones(80)) == once
    for name, value in once.parameters.items():
        assert often.parameters[name] == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_a_detector_that_points_the_wrong_way_is_not_turned_round(method: str) -> None:
    with pytest.raises(TrainingError, match="fakes score no higher"):
        fit_calibration(method, 1 - LABELS, SCORES, "made-up data")
    with pytest.raises(TrainingError, match="fakes score no higher"):
        fit_calibration(method, LABELS, np.full(len(LABELS), 0.3), "made-up data")


def test_thresholds_keep_their_promise_on_new_groups() -> None:
    rng = np.random.default_rng(2)

    def sample(count: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
        labels = np.repeat([0, 1], count)
        scores = 1 / (1 + np.exp(-(rng.normal(0, 1, 2 * count) + 4 * labels - 2)))
        return labels, scores, [str(number) for number in range(2 * count)]

    broken = 0
    for _ in range(20):
        thresholds = choose_thresholds(*sample(1500), chosen_on="made-up data", false_positive_rate=0.01)
        assert thresholds.false_positive_rate is not None
        assert thresholds.false_positive_rate <= 0.01
        labels, scores, _ = sample(20_000)
        broken += np.mean(scores[labels == 0] >= thresholds.fake) > 0.01
        assert np.mean(scores[labels == 1] <= thresholds.real) < 0.08
    # The promise holds with 90 % confidence.
    assert broken <= 5


def test_a_handful_of_reals_cannot_promise_one_percent() -> None:
    with pytest.raises(TrainingError, match="too few"):
        choose_thresholds(LABELS, SCORES, [str(n) for n in range(8)], chosen_on="eight videos")
    plain = choose_thresholds(LABELS, SCORES, [str(n) for n in range(8)], chosen_on="eight videos", confidence=None)
    assert 0.6 < plain.fake < 0.61
    assert plain.false_positive_rate == 0
    assert plain.chosen_on == "eight videos; too few groups to promise a rate"


def test_fake_promises_that_no_video_of_a_real_group_is_accused() -> None:
    # Ten videos of each of 300 people: nine low ones and a high one, so the mean over a person says nothing of it.
    people = [f"person{number}" for number in range(300) for _ in range(10)]
    reals = np.tile(np.r_[np.full(9, 0.1), 0.7], 300)
    fakes = np.linspace(0.001, 1, 100)
    labels = np.repeat([0, 1], [3000, 100])
    groups = people + ["all fakes of one source"] * 100
    thresholds = choose_thresholds(labels, np.r_[reals, fakes], groups, chosen_on="made-up data")
    assert 0.7 < thresholds.fake < 0.701
    assert thresholds.false_positive_rate == 0
    # Five of the hundred single fakes may be missed, though they are all of one group; the sixth may not.
    assert fakes[4] <= thresholds.real < fakes[5]


def test_a_miss_rate_is_kept_where_scores_are_round() -> None:
    labels, scores = np.repeat([0, 1], 21), np.r_[np.zeros(21), np.arange(21) / 100]
    groups = [str(number) for number in range(42)]
    thresholds = choose_thresholds(labels, scores, groups, chosen_on="round scores", confidence=None)
    assert np.mean(scores[labels == 1] <= thresholds.real) <= 0.05
    assert thresholds.real == 0.0099


def test_reals_that_nothing_is_above_are_no_ground_for_a_threshold() -> None:
    labels, scores = np.repeat([0, 1], 400), np.r_[np.linspace(0, 0.4, 390), np.ones(410)]
    with pytest.raises(TrainingError, match="10 of 400 real groups have p"):
        choose_thresholds(labels, scores, [str(number) for number in range(800)], chosen_on="saturated scores")


def test_the_rate_of_false_alarms_is_the_share_of_real_groups_with_any() -> None:
    labels, scores = np.array([0] * 8 + [1]), np.array([0.2, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.99])
    groups = ["a", "a", "b", "b", "c", "c", "d", "d", "e"]
    thresholds = choose_thresholds(
        labels, scores, groups, chosen_on="four people", false_positive_rate=0.25, confidence=None
    )
    assert thresholds.fake == 0.5
    assert thresholds.false_positive_rate == 0.25
