"""Batches as a pure function of seed and step, so that a killed run resumes exactly and a rerun is the same run."""

from __future__ import annotations

import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from dfwatch.errors import TrainingError
from dfwatch.training import augment, blending
from dfwatch.training.deck import FAKE, REAL, UNLABELLED, Deck, Item, Pools
from dfwatch.training.packs import Pack
from dfwatch.training.splits import take
from dfwatch.training.windows import Window, cut_window, reference_window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator
    from numpy.typing import NDArray

    from dfwatch.training.recipe import Recipe

_LARGEST_BLEND_SIDE_PX = 192


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch on the CPU.

    Attributes:
        crops: uint8 RGB, shape (n, size_px, size_px, 3).
        labels: int64, shape (n,): 0 REAL, 1 FAKE, -1 unlabelled.
        rows: int64, shape (n,): which row of ``rows_of`` the crop was cut from; -1 for self-blended fakes, and for all
            where nobody asks.
    """

    crops: NDArray[np.uint8]
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]


def open_items(
    data_root: str,
    names: Sequence[str],
    recipe: Recipe,
    excluded: frozenset[str],
    split: str,
    *,
    opened: dict[str, Pack] | None = None,
) -> list[Item]:
    """Return the items of one part of some packs; ``opened`` keeps packs by name from one call to the next."""
    opened = {} if opened is None else opened
    found: list[Item] = []
    for name in names:
        if name not in opened:
            opened[name] = Pack(os.path.join(data_root, name))
        pack = opened[name]
        part = take(pack.records, split, recipe.data.split, excluded)  # type: ignore[arg-type]
        found.extend(Item(pack, record) for record in part)
    return found


def open_pools(
    data_root: str, recipe: Recipe, excluded: frozenset[str], opened: dict[str, Pack] | None = None
) -> Pools:
    """Open the training part of a recipe's packs.

    Raises:
        TrainingError: When a pool that the recipe draws from is empty.
    """
    opened = {} if opened is None else opened
    labelled = open_items(data_root, recipe.data.packs, recipe, excluded, "train", opened=opened)
    blending_items = open_items(data_root, recipe.data.blend_packs, recipe, excluded, "train", opened=opened)
    reals = tuple(item for item in labelled if not item.record.is_fake)
    fakes: dict[str, list[Item]] = defaultdict(list)
    for item in labelled:
        if item.record.is_fake:
            fakes[item.record.group].append(item)
    with_real = {item.record.group for item in reals}
    pools = Pools(
        reals,
        {group: tuple(items) for group, items in fakes.items()},
        tuple(sorted(set(fakes) - with_real)),
        tuple(item for item in blending_items if not item.record.is_fake and len(item.record.landmarks) == 10),
        tuple(open_items(data_root, recipe.data.unlabelled_packs, recipe, excluded, "train", opened=opened)),
    )
    for stage in recipe.stages:
        lacks = (
            (stage.batch.labelled and not (pools.reals and pools.fakes_of), "labelled crops of both labels"),
            (stage.batch.blended and not pools.blendable, "real crops with landmarks"),
            (stage.batch.unlabelled and not pools.unlabelled, "unlabelled crops"),
        )
        for lacking, what in lacks:
            if lacking:
                raise TrainingError("opening the training data", data_root, f"there are no {what}")
    return pools


def rows_of(pools: Pools) -> dict[tuple[str, str, int], tuple[Item, int]]:
    """Number the crops of the pools: each with its row, by key, in an order that depends on nothing else."""
    found: dict[tuple[str, str, int], tuple[Item, int]] = {}
    for item in (*pools.reals, *pools.fakes, *pools.blendable, *pools.unlabelled):
        found.setdefault(item.key, (item, len(found)))
    return found


class BatchMaker:
    """Make the batch of any step. Picklable; holds no state that a step changes, apart from cached shuffles."""

    def __init__(self, recipe: Recipe, pools: Pools) -> None:
        self._recipe = recipe
        self._pools = pools
        self._deck = Deck(recipe.seed, pools)
        asked = recipe.teacher is not None and recipe.teacher.once
        self._rows = {key: row for key, (_, row) in rows_of(pools).items()} if asked else {}

    def __len__(self) -> int:
        return self._recipe.total_steps

    def __getitem__(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0."""
        cv2.setNumThreads(0)
        stage = self._recipe.stage_at(step)
        rng = np.random.default_rng((self._recipe.seed, step))
        crops: list[NDArray[np.uint8]] = []
        labels: list[int] = []
        rows: list[int] = []
        for number in range(stage.batch.labelled // 2):
            real, fake = self._deck.labelled_pair(step * (stage.batch.labelled // 2) + number, rng)
            for item, label in ((real, REAL), (fake, FAKE)):
                crops.append(self._plain(item, stage.size_px, rng))
                labels.append(label)
                rows.append(self._row(item))
        for number in range(stage.batch.blended // 2):
            index = step * (stage.batch.blended // 2) + number
            item = self._deck.nth("blend", self._pools.blendable, index)
            donate = rng.random() < stage.batch.donor_share
            other = self._deck.nth("donor", self._pools.blendable, index) if donate else None
            crops.extend(self._blended(item, other, stage.size_px, rng))
            labels.extend((REAL, FAKE))
            rows.extend((self._row(item), -1))
        for number in range(stage.batch.unlabelled):
            item = self._deck.nth("free", self._pools.unlabelled, step * stage.batch.unlabelled + number)
            crops.append(self._plain(item, stage.size_px, rng))
            labels.append(UNLABELLED)
            rows.append(self._row(item))
        return Batch(np.stack(crops), np.array(labels, np.int64), np.array(rows, np.int64))

    def _row(self, item: Item) -> int:
        return self._rows.get(item.key, -1)

    def _window(self, item: Item, picture: NDArray[np.uint8]) -> Window:
        data = self._recipe.data
        return reference_window(item.record, (picture.shape[0], picture.shape[1]), data.margin, data.shift_y)

    def _plain(self, item: Item, size_px: int, rng: Generator) -> NDArray[np.uint8]:
        picture = item.picture()
        plan = augment.draw(self._recipe.augment, rng)
        return augment.apply(plan, picture, self._window(item, picture), size_px)

    def _blended(
        self, item: Item, other: Item | None, size_px: int, rng: Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        picture, landmarks = _with_landmarks(item)
        donor = None
        if other is not None and other.record.group != item.record.group:
            face, its_landmarks = _with_landmarks(other)
            donor = blending.align_donor(face, its_landmarks, landmarks, (picture.shape[0], picture.shape[1]))
        real, fake, _ = blending.blend(picture, landmarks, rng, donor)
        plan = augment.draw(self._recipe.augment, rng)
        window = self._window(item, picture)
        return augment.apply(plan, real, window, size_px), augment.apply(plan, fake, window, size_px)


def _with_landmarks(item: Item) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the picture, no larger than blending needs, and its landmarks in pixels."""
    picture = item.picture()
    scale = _LARGEST_BLEND_SIDE_PX / max(picture.shape[:2])
    if scale < 1:
        size = (max(8, round(picture.shape[1] * scale)), max(8, round(picture.shape[0] * scale)))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    height, width = picture.shape[:2]
    landmarks = np.array(item.record.landmarks, np.float32).reshape(5, 2) * np.array([width, height], np.float32)
    return picture, landmarks


def plain_crops(items: Sequence[Item], size_px: int, margin: float, shift_y: float) -> NDArray[np.uint8]:
    """Cut reference crops without augmentation, in threads: uint8 RGB, shape (n, size_px, size_px, 3)."""
    crops = np.empty((len(items), size_px, size_px, 3), np.uint8)

    def cut(number: int) -> None:
        picture = items[number].picture()
        window = reference_window(items[number].record, (picture.shape[0], picture.shape[1]), margin, shift_y)
        crops[number] = cut_window(picture, window, size_px)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        # The results are nothing; asking for them brings out errors.
        for _ in threads.map(cut, range(len(items))):
            pass
    return crops
