"""What batches are drawn from, and in which order: a pure function of the seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator
    from numpy.typing import NDArray

    from dfwatch.training.packs import Pack
    from dfwatch.training.records import Record


REAL, FAKE, UNLABELLED = 0, 1, -1


@dataclass(frozen=True, slots=True)
class Item:
    """A record and the pack that holds its picture."""

    pack: Pack
    record: Record

    def picture(self) -> NDArray[np.uint8]:
        """Return the stored picture, uint8 RGB."""
        return self.pack.picture(self.record)

    @property
    def key(self) -> tuple[str, str, int]:
        """Where the picture lies: the same for every item of the same crop."""
        return self.pack.folder, self.record.shard, self.record.offset


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


class Deck:
    """Deals items in endless epochs. Holds no state that a draw changes, apart from cached shuffles."""

    def __init__(self, seed: int, pools: Pools) -> None:
        self._seed = seed
        self._pools = pools
        self._shuffles: dict[tuple[str, int], NDArray[np.int64]] = {}

    def _shuffle(self, name: str, length: int, epoch: int) -> NDArray[np.int64]:
        key = (name, epoch)
        if key not in self._shuffles:
            for old in [known for known in self._shuffles if known[0] == name and known[1] < epoch - 1]:
                del self._shuffles[old]
            salt = int.from_bytes(name.encode()[:8], "big")
            self._shuffles[key] = np.random.default_rng((self._seed, salt, epoch)).permutation(length)
        return self._shuffles[key]

    def nth(self, name: str, items: Sequence[Item], index: int) -> Item:
        """Return the ``index``-th item of endless epochs, each of them in an order of its own."""
        epoch, place = divmod(index, len(items))
        return items[int(self._shuffle(name, len(items), epoch)[place])]

    def labelled_pair(self, index: int, rng: Generator) -> tuple[Item, Item]:
        """Return a real and a fake made from it; a real without fakes is paired with a fake of unknown source."""
        real = self.nth("real", self._pools.reals, index)
        fakes = self._pools.fakes_of.get(real.record.group)
        if fakes is None:
            groups = self._pools.orphans or tuple(self._pools.fakes_of)
            fakes = self._pools.fakes_of[groups[int(rng.integers(len(groups)))]]
            return real, fakes[int(rng.integers(len(fakes)))]
        epoch = index // len(self._pools.reals)
        return real, fakes[(epoch + hash_of(real.record.group)) % len(fakes)]


def hash_of(text: str) -> int:
    """Return a small hash that is the same in every process, unlike Python's own."""
    value = 0
    for byte in text.encode():
        value = (value * 131 + byte) % 1_000_003
    return value
