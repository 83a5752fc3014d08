"""Fit a bundle's calibration and thresholds on held-out groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression

from dfwatch.errors import TrainingError
from dfwatch.models.bundle import Calibration, Thresholds
from dfwatch.training.metrics import highest_of_groups, upper_bound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_EPSILON = 1e-7
_MOST_LOG_HEAT = 4.0
_POINTLESS = "fakes score no higher than reals"


def logit(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log(p / (1 - p)), with p kept 1e-7 away from 0 and 1."""
    clipped = np.clip(probabilities, _EPSILON, 1 - _EPSILON)
    return np.asarray(np.log(clipped) - np.log1p(-clipped), np.float64)


def fit_calibration(
    method: str,
    labels: NDArray[np.int64],
    p_fake: NDArray[np.float64],
    fitted_on: str,
    weights: NDArray[np.float64] | None = None,
) -> Calibration:
    """Fit ``temperature`` (Guo et al., ICML 2017), ``platt`` (Platt, 1999) or ``none``.

    Args:
        method: Name of the method.
        labels: 0 REAL, 1 FAKE; both must occur. Each label weighs as much as the other, whatever its number, so that
            the calibrated probability assumes that half of all videos are fake.
        p_fake: Raw p(fake) of the same crops.
        fitted_on: The data, in words.
        weights: How much each crop weighs within its label; None: all the same.

    Raises:
        TrainingError: When a label is missing, or higher scores do not go with fakes.
    """
    if method == "none":
        return Calibration(fitted_on=fitted_on)
    if len(np.unique(labels)) < 2:
        raise TrainingError("fitting the calibration on", fitted_on, "both labels are needed")
    logits = logit(p_fake)
    own = np.ones(len(labels)) if weights is None else weights / np.mean(weights)
    shares = [float(np.average(labels == label, weights=own)) for label in (0, 1)]
    balanced = own * np.where(labels == 1, 0.5 / shares[1], 0.5 / shares[0])
    if method == "temperature":
        signs = np.where(labels == 1, -1.0, 1.0)

        def loss(log_heat: float) -> float:
            return float(np.mean(balanced * np.logaddexp(0, signs * logits / np.exp(log_heat))))

        log_heat = float(minimize_scalar(loss, bounds=(-_MOST_LOG_HEAT, _MOST_LOG_HEAT), method="bounded").x)
        if log_heat > _MOST_LOG_HEAT - 0.01:
            # The hotter the better: the scores say nothing, or the opposite.
            raise TrainingError("fitting the calibration on", fitted_on, _POINTLESS)
        return Calibration(
            method="temperature", parameters={"temperature": float(np.exp(log_heat))}, fitted_on=fitted_on
        )
    if method != "platt":
        raise TrainingError("fitting the calibration", method, "known are none, temperature and platt")
    model = LogisticRegression(C=1e6, max_iter=1000).fit(logits[:, None], labels, sample_weight=balanced)
    slope, intercept = float(model.coef_[0, 0]), float(model.intercept_[0])
    if slope < _EPSILON:
        raise TrainingError("fitting the calibration on", fitted_on, _POINTLESS)
    return Calibration(method="platt", parameters={"slope": slope, "intercept": intercept}, fitted_on=fitted_on)


def choose_thresholds(
    labels: NDArray[np.int64],
    p_fake: NDArray[np.float64],
    groups: Sequence[str],
    *,
    chosen_on: str,
    false_positive_rate: float = 0.01,
    miss_rate: float = 0.05,
    confidence: float | None = 0.9,
) -> Thresholds:
    """Choose both thresholds from the calibrated probabilities of held-out videos, one for each video.

    FAKE is the lowest threshold that keeps the share of real groups of which any video is called FAKE under
    ``false_positive_rate`` with the given confidence (one-sided Clopper-Pearson bound), so that a new sample of the
    same kind stays under it too: each real group stands there with its highest video. Of single real videos it
    promises the same where each group counts once, however many videos it has. REAL is the highest threshold that
    calls at most ``miss_rate`` of these single fake videos REAL; it promises nothing of others. Both are multiples of
    0.0001. With ``confidence`` None the plain share decides, and ``chosen_on`` says that nothing is promised.

    Returns:
        The thresholds; ``false_positive_rate`` is the share of these real groups of which any video is called FAKE.

    Raises:
        TrainingError: When there are too few real groups to promise such a rate, or too many of them reach 1.
    """
    real_groups = [group for group, label in zip(groups, labels, strict=True) if label == 0]
    reals, fakes = highest_of_groups(p_fake[labels == 0], real_groups), np.sort(p_fake[labels == 1])
    if confidence is None:
        allowed = min(int(false_positive_rate * len(reals)), len(reals) - 1)
        chosen_on += "; too few groups to promise a rate"
    else:
        allowed = _allowed_alarms(len(reals), false_positive_rate, confidence)
    if allowed < 0 or not len(fakes):
        raise TrainingError(
            "choosing thresholds on",
            chosen_on,
            f"{len(reals)} real groups and {len(fakes)} fakes are too few for {false_positive_rate:.1%} false alarms",
            hint="hold out more groups, allow more false alarms, or give --no-guarantee",
        )
    # A verdict never contradicts its own probability, however well the held-out videos part.
    fake = max(0.5, _just_above(reals[len(reals) - 1 - allowed]))
    if np.sum(reals >= fake) > allowed:
        raise TrainingError(
            "choosing thresholds on",
            chosen_on,
            f"{np.sum(reals >= fake)} of {len(reals)} real groups have p(fake) {fake:g}, which no threshold is above",
            hint="fit a calibration that does not saturate (--method platt), or allow more false alarms",
        )
    missed = min(int(miss_rate * len(fakes)), len(fakes) - 1)
    real = min(0.5, _just_below(fakes[missed]))
    return Thresholds(real=real, fake=fake, false_positive_rate=float(np.mean(reals >= fake)), chosen_on=chosen_on)


def _allowed_alarms(count: int, rate: float, confidence: float) -> int:
    """Return the largest k of ``count`` whose upper bound is at most ``rate``; -1: not even none of them."""
    best = -1
    for alarms in range(count):
        if upper_bound(alarms, count, confidence) > rate:
            break
        best = alarms
    return best


def _just_above(value: float) -> float:
    return min(1.0, float(np.ceil(value * 1e4 + 1e-9) / 1e4))


def _just_below(value: float) -> float:
    return max(0.0, float((np.ceil(value * 1e4 - 1e-9) - 1) / 1e4))
