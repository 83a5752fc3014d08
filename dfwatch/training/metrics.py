"""Detection metrics with bootstrap intervals. Labels are 0 (REAL) and 1 (FAKE); scores rise with p(fake)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import beta
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score, roc_curve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Labels = NDArray[np.int64]
    Scores = NDArray[np.float64]

ECE_BINS = 10
CALLED_FAKE, UNDECIDED, CALLED_REAL = 1.0, 0.0, -1.0
# With fewer groups of a label a bootstrap repeats what it has: of one real and two fakes it says 1.000 [1.000, 1.000].
FEWEST_GROUPS = 5


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with the 95 % interval of a bootstrap over groups; NaN where it cannot be computed."""

    value: float
    low: float = float("nan")
    high: float = float("nan")

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "–"
        if np.isnan(self.low):
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def auc(labels: Labels, scores: Scores) -> float:
    """Area under the ROC curve; ties count half. NaN when one label is missing."""
    return float(roc_auc_score(labels, scores)) if len(np.unique(labels)) == 2 else float("nan")


def average_precision(labels: Labels, scores: Scores) -> float:
    """Average precision with FAKE as the positive label. NaN when one label is missing."""
    return float(average_precision_score(labels, scores)) if len(np.unique(labels)) == 2 else float("nan")


def equal_error_rate(labels: Labels, scores: Scores) -> float:
    """Where false alarms and misses are equally frequent, by linear interpolation on the ROC curve."""
    if len(np.unique(labels)) < 2:
        return float("nan")
    alarms, found, _ = roc_curve(labels, scores)
    missed = 1 - found
    after = int(np.argmax(alarms >= missed))
    if after == 0:
        return float(alarms[0])
    gap_before = missed[after - 1] - alarms[after - 1]
    gap_after = alarms[after] - missed[after]
    share = gap_before / (gap_before + gap_after)
    return float(alarms[after - 1] + share * (alarms[after] - alarms[after - 1]))


def hits_at_false_alarms(labels: Labels, scores: Scores, rate: float = 0.01) -> float:
    """Highest share of fakes found with at most ``rate`` of the reals above the threshold."""
    if len(np.unique(labels)) < 2:
        return float("nan")
    alarms, found, _ = roc_curve(labels, scores, drop_intermediate=False)
    return float(found[alarms <= rate].max())


def upper_bound(count: int, total: int, confidence: float) -> float:
    """One-sided upper bound of a share of which ``count`` of ``total`` were seen (Clopper and Pearson, 1934)."""
    return float(beta.ppf(confidence, count + 1, total - count)) if count < total else 1.0


def lower_bound(count: int, total: int, confidence: float) -> float:
    """One-sided lower bound of a share of which ``count`` of ``total`` were seen (Clopper and Pearson, 1934)."""
    return float(beta.ppf(1 - confidence, count, total - count + 1)) if count > 0 else 0.0


def highest_of_groups(scores: Scores, groups: Sequence[str]) -> Scores:
    """Highest score of each group, in rising order: whether any of a group's videos is called FAKE is decided there."""
    found: dict[str, float] = {}
    for score, group in zip(scores, groups, strict=True):
        found[group] = max(float(score), found.get(group, float("-inf")))
    return np.sort(np.array(list(found.values()), np.float64))


def right_among_flagged(found: float, alarms: float, fake_share: float) -> float:
    """Share of fakes among what is called FAKE, where ``fake_share`` of all videos are fake (Bayes). NaN: none is.

    Args:
        found: Share of fakes called FAKE.
        alarms: Share of reals called FAKE.
        fake_share: Share of fakes among all videos.
    """
    flagged = found * fake_share + alarms * (1 - fake_share)
    return found * fake_share / flagged if flagged > 0 else float("nan")


def brier(labels: Labels, probabilities: Scores) -> float:
    """Mean squared difference between label and probability; 0 is perfect, 0.25 is a coin's."""
    return float(brier_score_loss(labels, probabilities, pos_label=1)) if len(labels) else float("nan")


def calibration_bins(labels: Labels, probabilities: Scores, bins: int = ECE_BINS) -> list[tuple[float, float, int]]:
    """Mean probability, share of fakes and count of each non-empty bin of equal width."""
    places = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    found = []
    for place in range(bins):
        inside = places == place
        if inside.any():
            found.append((float(probabilities[inside].mean()), float(labels[inside].mean()), int(inside.sum())))
    return found


def expected_calibration_error(labels: Labels, probabilities: Scores, bins: int = ECE_BINS) -> float:
    """Mean distance between probability and share of fakes over bins of equal width (Guo et al., ICML 2017)."""
    if not len(labels):
        return float("nan")
    parts = calibration_bins(labels, probabilities, bins)
    return sum(count * abs(mean - share) for mean, share, count in parts) / len(labels)


def expected_of_calibrated(probabilities: Scores, *, bins: int = ECE_BINS, rounds: int = 200, seed: int = 0) -> float:
    """Mean ECE that these probabilities would get if they were perfectly calibrated.

    It is not 0: chance alone parts shares from probabilities, the more so the fewer they are. An ECE tells something
    only by what it has more than this.
    """
    if not len(probabilities):
        return float("nan")
    rng = np.random.default_rng(seed)
    drawn = (rng.random(len(probabilities)) < probabilities for _ in range(rounds))
    return float(
        np.mean([expected_calibration_error(labels.astype(np.int64), probabilities, bins) for labels in drawn])
    )


def calls_at(probabilities: Scores, real: float, fake: float) -> Scores:
    """What two thresholds make of probabilities: ``CALLED_FAKE`` from ``fake``, ``CALLED_REAL`` up to ``real``."""
    return np.where(probabilities >= fake, CALLED_FAKE, np.where(probabilities <= real, CALLED_REAL, UNDECIDED))


def balanced_accuracy(labels: Labels, calls: Scores) -> float:
    """Mean of the shares of reals called REAL and of fakes called FAKE; undecided counts as wrong."""
    if len(np.unique(labels)) < 2:
        return float("nan")
    return float((np.mean(calls[labels == 0] == CALLED_REAL) + np.mean(calls[labels == 1] == CALLED_FAKE)) / 2)


def coverage(_labels: Labels, calls: Scores) -> float:
    """Share that is decided, one way or the other."""
    return float(np.mean(calls != UNDECIDED)) if len(calls) else float("nan")


def accuracy_of_decided(labels: Labels, calls: Scores) -> float:
    """Share of right calls among the decided."""
    decided = calls != UNDECIDED
    return float(np.mean((calls[decided] == CALLED_FAKE) == (labels[decided] == 1))) if decided.any() else float("nan")


def false_alarms(labels: Labels, calls: Scores) -> float:
    """Share of reals called FAKE."""
    return _share(calls[labels == 0] == CALLED_FAKE)


def hits(labels: Labels, calls: Scores) -> float:
    """Share of fakes called FAKE."""
    return _share(calls[labels == 1] == CALLED_FAKE)


def misses(labels: Labels, calls: Scores) -> float:
    """Share of fakes called REAL."""
    return _share(calls[labels == 1] == CALLED_REAL)


def _share(found: NDArray[np.bool_]) -> float:
    return float(np.mean(found)) if len(found) else float("nan")


def bootstrap(
    metric: Callable[[Labels, Scores], float],
    labels: Labels,
    scores: Scores,
    groups: Sequence[str],
    *,
    rounds: int = 1000,
    seed: int = 0,
) -> Interval:
    """Value of a metric and the 2.5 % and 97.5 % points of its bootstrap over whole groups.

    Groups (source videos, identities) are drawn with replacement, not single files: crops of one video are no
    independent evidence. Rounds in which the metric cannot be computed are left out. A label of fewer than
    ``FEWEST_GROUPS`` groups gives no interval.
    """
    value = metric(labels, scores)
    members: dict[str, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        members[group].append(place)
    parts = [np.array(places) for places in members.values()]
    of_label: dict[int, set[str]] = defaultdict(set)
    for label, group in zip(labels, groups, strict=True):
        of_label[int(label)].add(group)
    if np.isnan(value) or min(map(len, of_label.values())) < FEWEST_GROUPS:
        return Interval(value)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(rounds):
        drawn = np.concatenate([parts[int(number)] for number in rng.integers(len(parts), size=len(parts))])
        values.append(metric(labels[drawn], scores[drawn]))
    usable = np.array(values)[~np.isnan(values)]
    if len(usable) < rounds / 2:
        return Interval(value)
    low, high = np.quantile(usable, [0.025, 0.975])
    return Interval(value, float(low), float(high))
