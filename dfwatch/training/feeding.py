"""From a recipe's batches to tensors on the device, by either of the two ways there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from dfwatch.training.batches import Batch, BatchMaker
from dfwatch.training.ondevice.batches import DeviceBatchMaker, TensorBatch
from dfwatch.training.ondevice.resident import send

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dfwatch.training.deck import Pools
    from dfwatch.training.recipe import Recipe


class Feed:
    """Hands out the batches of a run.

    Args:
        recipe: Its ``batches`` says where they are made: in worker processes on the CPU, or on the device itself.
        pools: The training part of the data.
        device: A torch device name.
        workers: Worker processes; 0 makes the batches in this one. On the device there are none.
    """

    def __init__(self, recipe: Recipe, pools: Pools, device: str, workers: int) -> None:
        self._device, self._workers = device, workers
        self._maker: BatchMaker | DeviceBatchMaker
        if recipe.batches == "device":
            self._maker = DeviceBatchMaker(recipe, pools, device)
        else:
            self._maker = BatchMaker(recipe, pools)

    def batches(self, steps: range) -> Iterator[TensorBatch]:
        """Yield the batches of some steps, in order."""
        maker = self._maker
        if isinstance(maker, DeviceBatchMaker):
            yield from (maker[step] for step in steps)
        elif not self._workers:
            yield from (self._to_device(maker[step]) for step in steps)
        else:
            loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
                maker,  # type: ignore[arg-type]
                batch_size=None,
                sampler=steps,
                num_workers=self._workers,
                # A copy by fork would hold the locks of threads that it does not have: those of OpenMP, of torch.
                multiprocessing_context="spawn",
                prefetch_factor=8,
                collate_fn=_as_it_is,
            )
            yield from map(self._to_device, loader)

    def _to_device(self, batch: Batch) -> TensorBatch:
        return TensorBatch(*(send(part, self._device) for part in (batch.crops, batch.labels, batch.rows)))


def _as_it_is(batch: Any) -> Any:  # noqa: ANN401 - torch hands over whatever the maker made
    return batch
