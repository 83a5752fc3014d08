"""Batches as a pure function of seed and step, so that a killed run resumes exactly and a rerun is the same run."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from dfwatch.errors import TrainingError
from dfwatch.training import augment, blending
from dfwatch.training.packs import Pack
from dfwatch.training.splits import take
from dfwatch.training.windows import Window, cut_window, reference_window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator
    from numpy.typing import NDArray

    from dfwatch.training.recipe import Recipe
    from dfwatch.training.records import Record

REAL, FAKE, UNLABELLED = 0, 1, -1
_LARGEST_BLEND_SIDE_PX = 192


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch on the CPU.

    Attributes:
        crops: uint8 RGB, shape (n, size_px, size_px, 3).
        labels: int64, shape (n,): 0 REAL, 1 FAKE, -1 unlabelled.
    """

    crops: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Item:
    """A record and the pack that holds its picture."""

    pack: Pack
    record: Record

    def picture(self) -> NDArray[np.uint8]:
        """Return the stored picture, uint8 RGB."""
        return self.pack.picture(self.record)


@dataclass(frozen=True, slots=True)
class Pools:
    """What batches are drawn from.

    Attributes:
        reals: Real crops of the labelled packs.
        fakes_of: Fakes by group; ``orphans`` are the groups that have no real crop.
        blendable: Real crops with landmarks.
        unlabelled: Crops for the teacher alone.
    """

    reals: tuple[Item, ...]
    fakes_of: dict[str, tuple[Item, ...]]
    orphans: tuple[str, ...]
    blendable: tuple[Item, ...]
    unlabelled: tuple[Item, ...]

    @property
    def groups(self) -> frozenset[str]:
        """Every group that training can touch."""
        items = (*self.reals, *self.blendable, *self.unlabelled)
        return frozenset(item.record.group for item in items) | frozenset(self.fakes_of)


def open_items(
    data_root: str, names: Sequence[str], recipe: Recipe, excluded: frozenset[str], split: str
) -> list[Item]:
    """Return the items of one part of some packs."""
    found: list[Item] = []
    for name in names:
        pack = Pack(os.path.join(data_root, name))
        part = take(pack.records, split, recipe.data.split, excluded)  # type: ignore[arg-type]
        found.extend(Item(pack, record) for record in part)
    return found


def open_pools(data_root: str, recipe: Recipe, excluded: frozenset[str]) -> Pools:
    """Open the training part of a recipe's packs.

    Raises:
        TrainingError: When a pool that the recipe draws from is empty.
    """
    labelled = open_items(data_root, recipe.data.packs, recipe, excluded, "train")
    blending_items = open_items(data_root, recipe.data.blend_packs, recipe, excluded, "train")
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
        tuple(open_items(data_root, recipe.data.unlabelled_packs, recipe, excluded, "train")),
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


class BatchMaker:
    """Make the batch of any step. Picklable; holds no state that a step changes, apart from cached shuffles."""

    def __init__(self, recipe: Recipe, pools: Pools) -> None:
        self._recipe = recipe
        self._pools = pools
        self._shuffles: dict[tuple[str, int], NDArray[np.int64]] = {}
        # Draws of each kind made before each stage, so that a stage goes on where the last one stopped.
        self._starts = [0]
        for stage in recipe.stages:
            self._starts.append(self._starts[-1] + stage.steps)

    def __len__(self) -> int:
        return self._recipe.total_steps

    def __getitem__(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0."""
        cv2.setNumThreads(0)
        stage = self._recipe.stage_at(step)
        rng = np.random.default_rng((self._recipe.seed, step))
        crops: list[NDArray[np.uint8]] = []
        labels: list[int] = []
        for number in range(stage.batch.labelled // 2):
            real, fake = self._labelled_pair(step * (stage.batch.labelled // 2) + number, rng)
            for item, label in ((real, REAL), (fake, FAKE)):
                crops.append(self._plain(item, stage.size_px, rng))
                labels.append(label)
        for number in range(stage.batch.blended // 2):
            index = step * (stage.batch.blended // 2) + number
            item = self._nth("blend", self._pools.blendable, index)
            donate = rng.random() < stage.batch.donor_share
            other = self._nth("donor", self._pools.blendable, index) if donate else None
            crops.extend(self._blended(item, other, stage.size_px, rng))
            labels.extend((REAL, FAKE))
        for number in range(stage.batch.unlabelled):
            item = self._nth("free", self._pools.unlabelled, step * stage.batch.unlabelled + number)
            crops.append(self._plain(item, stage.size_px, rng))
            labels.append(UNLABELLED)
        return Batch(np.stack(crops), np.array(labels, np.int64))

    def _shuffle(self, name: str, length: int, epoch: int) -> NDArray[np.int64]:
        key = (name, epoch)
        if key not in self._shuffles:
            for old in [known for known in self._shuffles if known[0] == name and known[1] < epoch - 1]:
                del self._shuffles[old]
            salt = int.from_bytes(name.encode()[:8], "big")
            self._shuffles[key] = np.random.default_rng((self._recipe.seed, salt, epoch)).permutation(length)
        return self._shuffles[key]

    def _nth(self, name: str, items: Sequence[Item], index: int) -> Item:
        """Return the ``index``-th item of endless epochs, each of them in an order of its own."""
        epoch, place = divmod(index, len(items))
        return items[int(self._shuffle(name, len(items), epoch)[place])]

    def _labelled_pair(self, index: int, rng: Generator) -> tuple[Item, Item]:
        """Return a real and a fake made from it; a real without fakes is paired with a fake of unknown source."""
        real = self._nth("real", self._pools.reals, index)
        fakes = self._pools.fakes_of.get(real.record.group)
        if fakes is None:
            groups = self._pools.orphans or tuple(self._pools.fakes_of)
            fakes = self._pools.fakes_of[groups[int(rng.integers(len(groups)))]]
            return real, fakes[int(rng.integers(len(fakes)))]
        epoch = index // len(self._pools.reals)
        return real, fakes[(epoch + hash_of(real.record.group)) % len(fakes)]

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


def hash_of(text: str) -> int:
    """Return a small hash that is the same in every process, unlike Python's own."""
    value = 0
    for byte in text.encode():
        value = (value * 131 + byte) % 1_000_003
    return value


def plain_crops(items: Sequence[Item], size_px: int, margin: float, shift_y: float) -> NDArray[np.uint8]:
    """Cut reference crops without augmentation: uint8 RGB, shape (n, size_px, size_px, 3)."""
    crops = np.empty((len(items), size_px, size_px, 3), np.uint8)
    for number, item in enumerate(items):
        picture = item.picture()
        window = reference_window(item.record, (picture.shape[0], picture.shape[1]), margin, shift_y)
        crops[number] = cut_window(picture, window, size_px)
    return crops
