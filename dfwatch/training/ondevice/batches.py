"""Batches made on the device, as a pure function of seed and step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from dfwatch.training.deck import FAKE, REAL, UNLABELLED, Deck, Item, Pools
from dfwatch.training.ondevice import augment, blending, resident
from dfwatch.training.ondevice.resident import send

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray
    from torch import Tensor

    from dfwatch.training.recipe import Recipe


@dataclass(frozen=True, slots=True)
class TensorBatch:
    """One batch on the device.

    Attributes:
        crops: uint8 RGB, shape (n, size_px, size_px, 3).
        labels: int64, shape (n,): 0 REAL, 1 FAKE, -1 unlabelled.
        rows: int64, shape (n,): as in ``dfwatch.training.batches.Batch``; all -1 where batches are made on the device.
    """

    crops: Tensor
    labels: Tensor
    rows: Tensor


class DeviceBatchMaker:
    """Make the batch of any step on the device. Decodes every crop of the pools when it is made.

    Args:
        recipe: What to draw and how to change it.
        pools: The training part of the data.
        device: A torch device name.
    """

    def __init__(self, recipe: Recipe, pools: Pools, device: str) -> None:
        self._recipe, self._pools, self._device = recipe, pools, device
        self._deck = Deck(recipe.seed, pools)
        used = [stage.batch for stage in recipe.stages]
        labelled = any(batch.labelled for batch in used)
        wanted = [
            *(item for item in pools.reals if labelled),
            *(item for item in pools.fakes if labelled),
            *(item for item in pools.blendable if any(batch.blended for batch in used)),
            *(item for item in pools.unlabelled if any(batch.unlabelled for batch in used)),
        ]
        data = recipe.data
        self._store = resident.load(wanted, recipe.resident_px, data.margin, data.shift_y, device)
        self._augmenter = augment.Augmenter(device)
        self._generator = torch.Generator(device)

    def __len__(self) -> int:
        return self._recipe.total_steps

    @torch.no_grad()
    def __getitem__(self, step: int) -> TensorBatch:
        """Return the batch of a step, counted from 0. Nothing in it waits for the device."""
        recipe, store = self._recipe, self._store
        stage = recipe.stage_at(step)
        rng = np.random.default_rng((recipe.seed, step))
        self._generator.manual_seed(recipe.seed * 1_000_003 + step)
        plain, labels = self._plain(step, rng)
        originals, donors, donated = self._pairs(step, rng)
        pairs = len(originals)
        table = augment.draw(recipe.augment, rng, len(plain) + pairs)
        # Both partners of a pair go through the same changes.
        table = table.rows(np.r_[: len(plain) + pairs, len(plain) : len(plain) + pairs])
        faces = [store.stack(plain)] if plain else []
        if pairs:
            whole = store.stack(originals)
            partners, fakes, _ = blending.blend(whole, rng, store.stack(donors), donated)
            faces += [whole.with_pictures(partners), whole.with_pictures(fakes)]
            labels += [REAL] * pairs + [FAKE] * pairs
        work_px = augment.working_px(rng, stage.size_px, store.side_px)
        crops = self._augmenter(table, resident.join(faces), work_px, stage.size_px, self._generator)
        nobody = torch.full((len(labels),), -1, device=self._device)
        return TensorBatch(crops, send(np.array(labels, np.int64), self._device), nobody)

    def _plain(self, step: int, rng: Generator) -> tuple[list[Item], list[int]]:
        batch = self._recipe.stage_at(step).batch
        items: list[Item] = []
        for number in range(batch.labelled // 2):
            items.extend(self._deck.labelled_pair(step * (batch.labelled // 2) + number, rng))
        labels = [REAL, FAKE] * (batch.labelled // 2) + [UNLABELLED] * batch.unlabelled
        items.extend(
            self._deck.nth("free", self._pools.unlabelled, step * batch.unlabelled + number)
            for number in range(batch.unlabelled)
        )
        return items, labels

    def _pairs(self, step: int, rng: Generator) -> tuple[list[Item], list[Item], NDArray[np.bool_]]:
        batch, pool = self._recipe.stage_at(step).batch, self._pools.blendable
        count = batch.blended // 2
        indices = range(step * count, (step + 1) * count)
        originals = [self._deck.nth("blend", pool, index) for index in indices]
        donors = [self._deck.nth("donor", pool, index) for index in indices]
        others = [a.record.group != b.record.group for a, b in zip(originals, donors, strict=True)]
        donated = (rng.random(count) < batch.donor_share) & np.array(others, np.bool_)
        return originals, donors, donated
