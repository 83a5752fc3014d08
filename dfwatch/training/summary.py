"""From judged items to the figures of a report; no plots, no text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dfwatch.training import metrics
from dfwatch.training.metrics import Cut, Interval, bootstrap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from dfwatch.models.bundle import Bundle
    from dfwatch.training.judging import Judged

OTHER_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
RARE_SHARE = 0.01
VERDICTS = ("FAKE", "INCONCLUSIVE", "REAL", "NO_FACE", "FAILED")


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of one set of judged items.

    Attributes:
        title: What the set is.
        reals: Number of real videos with a score.
        fakes: Number of fake videos with a score.
        groups: Number of groups among them.
        without_face: Videos without a score.
        figures: Name to value with its 95 % interval.
    """

    title: str
    reals: int
    fakes: int
    groups: int
    without_face: int
    figures: dict[str, Interval]


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What a FAKE threshold would do.

    Attributes:
        fake: The threshold.
        false_alarms: Share of reals called FAKE.
        hits: Share of fakes called FAKE.
        right_if_even: Share of right ones among the FAKE verdicts, at least, if half of all videos are fake.
        right_if_rare: The same if one in a hundred is. Both take the share of fakes found as it was measured and, for
            false alarms, the upper bound of a one-sided 95 % interval of the share of real groups of which any video is
            called FAKE: that none was seen does not mean none, and videos of one group are not independent.
    """

    fake: float
    false_alarms: Interval
    hits: Interval
    right_if_even: float
    right_if_rare: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything a report shows.

    Attributes:
        bundle: The model.
        data: What was judged, in words.
        judged: Every item.
        overall: Figures of all items that have a score.
        no_face_as_real: The same, with videos without a score counted as p(fake) 0: nobody was warned of them.
        sources: One summary for each source.
        manipulations: One for each kind of fake, against all reals of the same source.
        confusion: Truth (REAL, FAKE) to verdict to count.
        operating_points: What the shipped FAKE threshold and others would do, the lowest first.
        robustness: Name of a change to summary of the same items after it.
        trained_on: Groups among them that the model was trained on; anything but 0 is a warning.
    """

    bundle: Bundle
    data: str
    judged: list[Judged]
    overall: Summary
    no_face_as_real: Summary
    sources: list[Summary]
    manipulations: list[Summary]
    confusion: dict[str, dict[str, int]]
    operating_points: list[OperatingPoint] = field(default_factory=list)
    robustness: dict[str, Summary] = field(default_factory=dict)
    trained_on: int = 0


def arrays(judged: Sequence[Judged]) -> tuple[NDArray[np.int64], NDArray[np.float64], list[str]]:
    """Return labels, calibrated p(fake) and groups."""
    labels = np.array([item.label for item in judged], np.int64)
    return labels, np.array([item.p_fake for item in judged], np.float64), [item.group for item in judged]


def summarise(title: str, judged: Sequence[Judged], cut: Cut, *, full: bool = True, rounds: int = 500) -> Summary:
    """Compute the figures of some items; ``full`` False gives the AUC and the rates at the thresholds only."""
    scored = [item for item in judged if not np.isnan(item.p_fake)]
    labels, p_fake, groups = arrays(scored)
    chosen: dict[str, Callable[[NDArray[np.int64], NDArray[np.float64]], float]] = {"AUC": metrics.auc}
    if full:
        chosen |= {
            "average precision": metrics.average_precision,
            "EER": metrics.equal_error_rate,
            "TPR at 1 % FPR": metrics.hits_at_false_alarms,
            "Brier score": metrics.brier,
            "ECE": metrics.expected_calibration_error,
            "balanced accuracy": cut.balanced_accuracy,
            "coverage": cut.coverage,
            "accuracy of the decided": cut.accuracy_of_decided,
        }
    chosen |= {"reals called FAKE": cut.false_alarms, "fakes called FAKE": cut.hits, "fakes called REAL": cut.misses}
    return Summary(
        title=title,
        reals=int((labels == 0).sum()),
        fakes=int((labels == 1).sum()),
        groups=len(set(groups)),
        without_face=len(judged) - len(scored),
        figures={name: bootstrap(metric, labels, p_fake, groups, rounds=rounds) for name, metric in chosen.items()},
    )


def operating_point(judged: Sequence[Judged], fake: float, *, rounds: int = 500) -> OperatingPoint:
    """Compute what a FAKE threshold would do to the items that have a score."""
    labels, p_fake, groups = arrays([item for item in judged if not np.isnan(item.p_fake)])
    cut = Cut(0.0, fake)
    alarms, hits = (bootstrap(metric, labels, p_fake, groups, rounds=rounds) for metric in (cut.false_alarms, cut.hits))
    real_groups = [group for group, label in zip(groups, labels, strict=True) if label == 0]
    reals = metrics.highest_of_groups(p_fake[labels == 0], real_groups)
    most = metrics.upper_bound(int((reals >= fake).sum()), len(reals), 0.95)
    even, rare = (metrics.right_among_flagged(hits.value, most, share) for share in (0.5, RARE_SHARE))
    return OperatingPoint(fake, alarms, hits, even, rare)


def evaluate(bundle: Bundle, data: str, judged: list[Judged], *, trained_on: int = 0, rounds: int = 500) -> Evaluation:
    """Summarise judged items overall, per source and per manipulation."""
    import dataclasses  # noqa: PLC0415

    cut = Cut(bundle.thresholds.real, bundle.thresholds.fake)
    silent = [dataclasses.replace(item, p_fake=0.0) if np.isnan(item.p_fake) else item for item in judged]
    names = sorted({item.source for item in judged})
    kinds = sorted({(item.source, item.manipulation) for item in judged if item.label and item.manipulation})
    confusion = {truth: dict.fromkeys(VERDICTS, 0) for truth in ("REAL", "FAKE")}
    for item in judged:
        confusion["FAKE" if item.label else "REAL"][item.verdict] += 1
    return Evaluation(
        bundle=bundle,
        data=data,
        judged=judged,
        overall=summarise("all", judged, cut, rounds=rounds),
        no_face_as_real=summarise("all, no face counted as not fake", silent, cut, rounds=rounds),
        sources=[
            summarise(name, [item for item in judged if item.source == name], cut, full=False, rounds=rounds)
            for name in names
        ],
        manipulations=[
            summarise(
                f"{source}: {kind}",
                [j for j in judged if j.source == source and (not j.label or j.manipulation == kind)],
                cut,
                full=False,
                rounds=rounds,
            )
            for source, kind in kinds
        ],
        confusion=confusion,
        operating_points=[
            operating_point(judged, fake, rounds=rounds) for fake in sorted({*OTHER_THRESHOLDS, bundle.thresholds.fake})
        ],
        trained_on=trained_on,
    )
