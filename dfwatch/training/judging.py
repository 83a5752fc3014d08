"""Score crops of packs, or whole videos through the service's own code, into one list of judged items."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dfwatch.errors import TrainingError
from dfwatch.models.bundle import group_hash
from dfwatch.training.batches import plain_crops
from dfwatch.training.summary import FAILED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from dfwatch.models.bundle import Bundle
    from dfwatch.training.crops import Source
    from dfwatch.training.deck import Item

_CHUNK = 256


class Scorer(Protocol):
    """What is needed of a detector; ``dfwatch.detector.Detector`` is the real one."""

    @property
    def bundle(self) -> Bundle:
        """The model's facts."""

    def score(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Raw p(fake) of uint8 RGB crops (n, size_px, size_px, 3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One video (or single crop) with its truth and its score.

    Attributes:
        name: The video's name.
        label: 0 REAL, 1 FAKE.
        group: Source video or identity.
        source: Data set.
        manipulation: Kind of fake, where known.
        p_raw: Uncalibrated p(fake); NaN where no face was found.
        p_fake: Calibrated p(fake); NaN where no face was found.
        verdict: FAKE, REAL, INCONCLUSIVE, NO_FACE, or FAILED where the video could not be read.
        faces: Number of crops behind the score.
        picture: A crop to look at, uint8 RGB, or None.
    """

    name: str
    label: int
    group: str
    source: str
    manipulation: str
    p_raw: float
    p_fake: float
    verdict: str
    faces: int = 1
    picture: NDArray[np.uint8] | None = None


def refuse_trained(bundle: Bundle, groups: Sequence[str], *, allowed: bool) -> int:
    """Return how many of the groups the bundle was trained on.

    Raises:
        TrainingError: When there are any and that was not allowed.
    """
    trained = bundle.trained_groups()
    count = sum(group_hash(group) in trained for group in set(groups))
    if count and not allowed:
        raise TrainingError(
            "evaluating",
            bundle.id,
            f"it was trained on {count} of these {len(set(groups))} groups, so the figures would flatter it",
            hint="take a held-out split, or give --include-trained and say so to your readers",
        )
    return count


@dataclass(frozen=True, slots=True)
class Scored:
    """Raw scores of the crops of some items, in their order.

    Attributes:
        raw: float64, shape (n,): uncalibrated p(fake).
        pictures: uint8 RGB, of the first crop of each video by the crop's place; none where they were not kept.
    """

    raw: NDArray[np.float64]
    pictures: dict[int, NDArray[np.uint8]]


def judge_crops(
    scorer: Scorer,
    items: Sequence[Item],
    *,
    change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
    keep_pictures: bool = True,
) -> list[Judged]:
    """Score crops of packs and gather them into videos under the scorer's own calibration and thresholds.

    Args:
        scorer: The detector.
        items: What to score.
        change: Applied to every crop before it is scored (a robustness test).
        keep_pictures: Whether to keep one crop of each video to look at.
    """
    return gather_videos(scorer.bundle, items, score_crops(scorer, items, change=change, keep_pictures=keep_pictures))


def score_crops(
    scorer: Scorer,
    items: Sequence[Item],
    *,
    change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
    keep_pictures: bool = False,
) -> Scored:
    """Score crops of packs one by one; the arguments are those of ``judge_crops``."""
    spec = scorer.bundle.crop
    scored = Scored(np.empty(len(items)), {})
    shown = {places[0] for places in _videos(items)} if keep_pictures else set()
    for start in range(0, len(items), _CHUNK):
        crops = plain_crops(items[start : start + _CHUNK], spec.size_px, spec.margin, spec.shift_y)
        if change is not None:
            crops = np.stack([change(crop) for crop in crops])
        scored.raw[start : start + len(crops)] = scorer.score(crops)
        for place in shown & set(range(start, start + len(crops))):
            # A view would keep the whole piece.
            scored.pictures[place] = crops[place - start].copy()
    return scored


def gather_videos(bundle: Bundle, items: Sequence[Item], scored: Scored) -> list[Judged]:
    """Gather scored crops into videos: calibrated crops of one video are averaged, as the service averages a track.

    Args:
        bundle: Whose calibration and thresholds hold.
        items: What was scored.
        scored: Its scores.
    """
    calibrated = bundle.calibration.apply(scored.raw)
    judged = []
    for places in _videos(items):
        record = items[places[0]].record
        p_fake = float(np.mean(calibrated[places]))
        judged.append(
            Judged(
                name=record.video,
                label=int(record.is_fake),
                group=record.group,
                source=record.source,
                manipulation=record.manipulation,
                p_raw=float(np.mean(scored.raw[places])),
                p_fake=p_fake,
                verdict=verdict_of(bundle, p_fake),
                faces=len(places),
                picture=scored.pictures.get(places[0]),
            )
        )
    return judged


def weights_in_videos(items: Sequence[Item]) -> NDArray[np.float64]:
    """Return one over the number of crops of each item's video, float64 of shape (n,): each video then weighs 1."""
    weights = np.empty(len(items))
    for places in _videos(items):
        weights[places] = 1 / len(places)
    return weights


def _videos(items: Sequence[Item]) -> list[list[int]]:
    """Return the places of each video's items, the video that comes first at the front.

    A real and a fake are two videos, also where a table calls both by one name.
    """
    found: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        found[item.record.source, item.record.video, item.record.label].append(place)
    return list(found.values())


def no_more_fakes_than_reals(items: Sequence[Item]) -> list[Item]:
    """Return all crops of all real videos and of at most as many fake ones, drawn with a fixed seed.

    Without any real all fakes are returned: whoever measures on fakes alone means them.
    """
    reals = sum(not items[places[0]].record.is_fake for places in _videos(items))
    return draw_videos(items, most_reals=reals, most_fakes=reals or len(items))


def draw_videos(items: Sequence[Item], *, most_reals: int, most_fakes: int) -> list[Item]:
    """Return all crops of so many videos of each label, or of all there are, drawn with a fixed seed; reals first."""
    rng = np.random.default_rng(0)
    videos = _videos(items)
    drawn: list[list[int]] = []
    for fake, most in ((False, most_reals), (True, most_fakes)):
        part = [places for places in videos if items[places[0]].record.is_fake == fake]
        drawn += [part[int(place)] for place in sorted(rng.permutation(len(part))[:most])]
    return [items[place] for places in drawn for place in places]


def verdict_of(bundle: Bundle, p_fake: float) -> str:
    """Return the verdict at the bundle's thresholds."""
    if p_fake >= bundle.thresholds.fake:
        return "FAKE"
    return "REAL" if p_fake <= bundle.thresholds.real else "INCONCLUSIVE"


def judge_videos(
    judge: Callable[[str], tuple[dict[str, Any], NDArray[np.uint8] | None]],
    sources: Sequence[Source],
    progress: Callable[[int, int], None] | None = None,
) -> list[Judged]:
    """Judge whole videos through the service's reader, detector and verdict.

    Args:
        judge: From a path to the sidecar document and a crop to look at (``dfwatch.training.videos.VideoJudge``).
        sources: The videos and what is known of them.
        progress: Called with the number done and the number of all.
    """
    judged = []
    for number, source in enumerate(sources):
        document, picture = judge(source.path)
        p_fake, p_raw = document.get("p_fake"), document.get("p_fake_raw")
        judged.append(
            Judged(
                name=os.path.basename(source.path),
                label=int(source.label == "FAKE"),
                group=source.group,
                source=source.source,
                manipulation=source.manipulation,
                p_raw=float("nan") if p_raw is None else float(p_raw),
                p_fake=float("nan") if p_fake is None else float(p_fake),
                verdict=str(document.get("verdict") or FAILED),
                faces=sum(len(track["frames"]) for track in document.get("tracks") or ()),
                picture=picture,
            )
        )
        if progress is not None:
            progress(number + 1, len(sources))
    return judged
