"""From judged items to the figures of a report; no plots, no text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dfwatch.training import metrics
from dfwatch.training.metrics import CALLED_FAKE, CALLED_REAL, UNDECIDED, Interval, bootstrap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from dfwatch.models.bundle import Bundle
    from dfwatch.training.judging import Judged

    Metric = Callable[[NDArray[np.int64], NDArray[np.float64]], float]

OTHER_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
RARE_SHARE = 0.01
FAILED = "FAILED"
VERDICTS = ("FAKE", "INCONCLUSIVE", "REAL", "NO_FACE", FAILED)
CAVEAT = (
    "A bootstrap cannot show what did not occur: where a rate is 0 (or 1) its interval is too narrow. "
    "None of 9 is compatible with up to 28 %, none of 300 with up to 1 %. Where a label has fewer than "
    f"{metrics.FEWEST_GROUPS} groups no interval is given."
)


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of one set of judged items.

    Attributes:
        title: What the set is.
        reals: Number of real videos with a score.
        fakes: Number of fake videos with a score.
        groups: Number of groups among them.
        without_face: Videos in which no face could be judged.
        unreadable: Videos that could not be read.
        figures: Name to value with its 95 % interval.
    """

    title: str
    reals: int
    fakes: int
    groups: int
    without_face: int
    unreadable: int
    figures: dict[str, Interval]


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What a FAKE threshold would do.

    Attributes:
        fake: The threshold.
        false_alarms: Share of reals called FAKE.
        hits: Share of fakes called FAKE.
        right_if_even: Share of right ones among the FAKE verdicts, at least, if half of all videos are fake.
        right_if_rare: The same if one in a hundred is. Both take the lower bound of a one-sided 95 % interval of the
            share of fakes found, with as much evidence as there are groups of fakes, and the upper bound of the share
            of real groups of which any video is called FAKE: that none was seen does not mean none, and videos of one
            group are not independent.
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
        no_face_as_real: The same, with videos without a face counted as p(fake) 0: nobody was warned of them.
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


def calls(judged: Sequence[Judged]) -> NDArray[np.float64]:
    """Return what was said of each, coded for ``metrics``: the verdict itself, which knows more than the thresholds."""
    codes = {"FAKE": CALLED_FAKE, "REAL": CALLED_REAL}
    return np.array([codes.get(item.verdict, UNDECIDED) for item in judged], np.float64)


def summarise(title: str, judged: Sequence[Judged], *, full: bool = True, rounds: int = 500) -> Summary:
    """Compute the figures of some items; ``full`` False gives the AUC and the rates of the verdicts only."""
    scored = [item for item in judged if not np.isnan(item.p_fake)]
    labels, p_fake, groups = arrays(scored)
    called = calls(scored)

    def intervals(values: NDArray[np.float64], chosen: dict[str, Metric]) -> dict[str, Interval]:
        return {name: bootstrap(metric, labels, values, groups, rounds=rounds) for name, metric in chosen.items()}

    figures = intervals(p_fake, {"AUC": metrics.auc})
    if full:
        figures |= intervals(
            p_fake,
            {
                "average precision": metrics.average_precision,
                "EER": metrics.equal_error_rate,
                "TPR at 1 % FPR": metrics.hits_at_false_alarms,
                "Brier score": metrics.brier,
            },
        )
        # A bootstrap adds to what chance does to an ECE already, and its interval would miss the truth.
        figures["ECE"] = Interval(metrics.expected_calibration_error(labels, p_fake))
        figures["ECE if calibrated"] = Interval(metrics.expected_of_calibrated(p_fake))
        figures |= intervals(
            called,
            {
                "balanced accuracy": metrics.balanced_accuracy,
                "coverage": metrics.coverage,
                "accuracy of the decided": metrics.accuracy_of_decided,
            },
        )
    figures |= intervals(
        called,
        {
            "reals called FAKE": metrics.false_alarms,
            "fakes called FAKE": metrics.hits,
            "fakes called REAL": metrics.misses,
        },
    )
    unreadable = sum(item.verdict == FAILED for item in judged)
    return Summary(
        title=title,
        reals=int((labels == 0).sum()),
        fakes=int((labels == 1).sum()),
        groups=len(set(groups)),
        without_face=len(judged) - len(scored) - unreadable,
        unreadable=unreadable,
        figures=figures,
    )


def operating_point(judged: Sequence[Judged], fake: float, *, rounds: int = 500) -> OperatingPoint:
    """Compute what a FAKE threshold would do to the items that have a score."""
    labels, p_fake, groups = arrays([item for item in judged if not np.isnan(item.p_fake)])
    called = metrics.calls_at(p_fake, -1.0, fake)
    alarms, hits = (
        bootstrap(metric, labels, called, groups, rounds=rounds) for metric in (metrics.false_alarms, metrics.hits)
    )
    groups_of = [[group for group, one in zip(groups, labels, strict=True) if one == label] for label in (0, 1)]
    reals = metrics.highest_of_groups(p_fake[labels == 0], groups_of[0])
    most = metrics.upper_bound(int((reals >= fake).sum()), len(reals), 0.95)
    evidence = len(set(groups_of[1]))
    # Rounded down, but not for what a float lacks of a whole number.
    least = metrics.lower_bound(int(hits.value * evidence + 1e-9), evidence, 0.95) if evidence else float("nan")
    even, rare = (metrics.right_among_flagged(least, most, share) for share in (0.5, RARE_SHARE))
    return OperatingPoint(fake, alarms, hits, even, rare)


def evaluate(bundle: Bundle, data: str, judged: list[Judged], *, trained_on: int = 0, rounds: int = 500) -> Evaluation:
    """Summarise judged items overall, per source and per manipulation."""
    import dataclasses  # noqa: PLC0415

    silent = [
        dataclasses.replace(item, p_fake=0.0, verdict="REAL") if item.verdict == "NO_FACE" else item for item in judged
    ]
    names = sorted({item.source for item in judged})
    kinds = sorted({(item.source, item.manipulation) for item in judged if item.label and item.manipulation})
    confusion = {truth: dict.fromkeys(VERDICTS, 0) for truth in ("REAL", "FAKE")}
    for item in judged:
        confusion["FAKE" if item.label else "REAL"][item.verdict] += 1
    return Evaluation(
        bundle=bundle,
        data=data,
        judged=judged,
        overall=summarise("all", judged, rounds=rounds),
        no_face_as_real=summarise("all, no face counted as not fake", silent, rounds=rounds),
        sources=[
            summarise(name, [item for item in judged if item.source == name], full=False, rounds=rounds)
            for name in names
        ],
        manipulations=[
            summarise(
                f"{source}: {kind}",
                [j for j in judged if j.source == source and (not j.label or j.manipulation == kind)],
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
