"""Detection metrics on plain arrays: labels 0 (REAL) and 1 (FAKE), scores that rise with p(fake)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Labels = NDArray[np.int64]
    Scores = NDArray[np.float64]


def roc_curve(labels: Labels, scores: Scores) -> tuple[Scores, Scores, Scores]:
    """Return false-positive rates, true-positive rates and thresholds, from the strictest threshold down.

    Equal scores are taken together, so the curve does not depend on the order of the input.
    """
    order = np.argsort(-scores, kind="stable")
    sorted_scores, sorted_labels = scores[order], labels[order]
    last_of_tie = np.r_[np.flatnonzero(np.diff(sorted_scores)), len(scores) - 1]
    hits = np.cumsum(sorted_labels)[last_of_tie]
    alarms = last_of_tie + 1 - hits
    positives, negatives = max(int(labels.sum()), 1), max(int((1 - labels).sum()), 1)
    return (
        np.r_[0.0, alarms / negatives],
        np.r_[0.0, hits / positives],
        np.r_[np.inf, sorted_scores[last_of_tie]],
    )


def auc(labels: Labels, scores: Scores) -> float:
    """Return the area under the ROC curve; ties count half. NaN when one label is missing."""
    if len(np.unique(labels)) < 2:
        return float("nan")
    false_rates, true_rates, _ = roc_curve(labels, scores)
    return float(np.trapezoid(true_rates, false_rates))
