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


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with the 95 % interval of a bootstrap over groups; NaN where it cannot be computed."""

    value: float
    low: float
    high: float

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
    false_alarms, hits, _ = roc_curve(labels, scores)
    misses = 1 - hits
    after = int(np.argmax(false_alarms >= misses))
    if after == 0:
        return float(false_alarms[0])
    gap_before = misses[after - 1] - false_alarms[after - 1]
    gap_after = false_alarms[after] - misses[after]
    share = gap_before / (gap_before + gap_after)
    return float(false_alarms[after - 1] + share * (false_alarms[after] - false_alarms[after - 1]))


def hits_at_false_alarms(labels: Labels, scores: Scores, rate: float = 0.01) -> float:
    """Highest share of fakes found with at most ``rate`` of the reals above the threshold."""
    if len(np.unique(labels)) < 2:
        return float("nan")
    false_alarms, hits, _ = roc_curve(labels, scores, drop_intermediate=False)
    return float(hits[false_alarms <= rate].max())


def upper_bound(count: int, total: int, confidence: float) -> float:
    """One-sided upper bound of a share of which ``count`` of ``total`` were seen (Clopper and Pearson, 1934)."""
    return float(beta.ppf(confidence, count + 1, total - count)) if count < total else 1.0


def highest_of_groups(scores: Scores, groups: Sequence[str]) -> Scores:
    """Highest score of each group, in rising order: whether any of a group's videos is called FAKE is decided there."""
    found: dict[str, float] = {}
    for score, group in zip(scores, groups, strict=True):
        found[group] = max(float(score), found.get(group, float("-inf")))
    return np.sort(np.array(list(found.values()), np.float64))


def right_among_flagged(hits: float, false_alarms: float, fake_share: float) -> float:
    """Share of fakes among what is called FAKE, where ``fake_share`` of all videos are fake (Bayes). NaN: none is."""
    flagged = hits * fake_share + false_alarms * (1 - fake_share)
    return hits * fake_share / flagged if flagged > 0 else float("nan")


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


@dataclass(frozen=True, slots=True)
class Cut:
    """The two shipped thresholds: REAL at or below ``real``, FAKE at or above ``fake``."""

    real: float
    fake: float

    def balanced_accuracy(self, labels: Labels, probabilities: Scores) -> float:
        """Mean of the shares of reals called REAL and of fakes called FAKE; INCONCLUSIVE counts as wrong."""
        if len(np.unique(labels)) < 2:
            return float("nan")
        reals, fakes = probabilities[labels == 0], probabilities[labels == 1]
        return float((np.mean(reals <= self.real) + np.mean(fakes >= self.fake)) / 2)

    def coverage(self, _labels: Labels, probabilities: Scores) -> float:
        """Share that gets a verdict other than INCONCLUSIVE."""
        return float(np.mean(self._decided(probabilities))) if len(probabilities) else float("nan")

    def accuracy_of_decided(self, labels: Labels, probabilities: Scores) -> float:
        """Share of right verdicts among those that are not INCONCLUSIVE."""
        decided = self._decided(probabilities)
        if not decided.any():
            return float("nan")
        return float(np.mean((probabilities[decided] >= self.fake) == (labels[decided] == 1)))

    def false_alarms(self, labels: Labels, probabilities: Scores) -> float:
        """Share of reals called FAKE."""
        reals = probabilities[labels == 0]
        return float(np.mean(reals >= self.fake)) if len(reals) else float("nan")

    def hits(self, labels: Labels, probabilities: Scores) -> float:
        """Share of fakes called FAKE."""
        fakes = probabilities[labels == 1]
        return float(np.mean(fakes >= self.fake)) if len(fakes) else float("nan")

    def misses(self, labels: Labels, probabilities: Scores) -> float:
        """Share of fakes called REAL."""
        fakes = probabilities[labels == 1]
        return float(np.mean(fakes <= self.real)) if len(fakes) else float("nan")

    def _decided(self, probabilities: Scores) -> NDArray[np.bool_]:
        return (probabilities >= self.fake) | (probabilities <= self.real)


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
    independent evidence. Rounds in which the metric cannot be computed are left out.
    """
    value = metric(labels, scores)
    members: dict[str, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        members[group].append(place)
    parts = [np.array(places) for places in members.values()]
    if len(parts) < 2 or np.isnan(value):
        return Interval(value, float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(rounds):
        drawn = np.concatenate([parts[int(number)] for number in rng.integers(len(parts), size=len(parts))])
        values.append(metric(labels[drawn], scores[drawn]))
    usable = np.array(values)[~np.isnan(values)]
    if len(usable) < rounds / 2:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(usable, [0.025, 0.975])
    return Interval(value, float(low), float(high))
