"""What batches are drawn from, and in which order: a pure function of the seed."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
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
    def fakes(self) -> tuple[Item, ...]:
        """All fakes, group by group."""
        return tuple(itertools.chain.from_iterable(self.fakes_of.values()))

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
        # Each real crop's place among its group's, and how many these are.
        self._places: dict[tuple[str, str, int], int] = {}
        self._reals_in: Counter[str] = Counter()
        for item in pools.reals:
            self._places[item.key] = self._reals_in[item.record.group]
            self._reals_in[item.record.group] += 1
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
        """Return a real and a fake to go with it.

        The fake is one of the real's own group, another one for each crop of the group and in each epoch, until all had
        their turn. A real whose group has no fakes is given any; and as often as groups of fakes have no real, one of
        theirs takes the place.
        """
        real = self.nth("real", self._pools.reals, index)
        group = real.record.group
        fakes_of, orphans = self._pools.fakes_of, self._pools.orphans
        fakes = fakes_of.get(group)
        if fakes is not None and not (orphans and rng.random() < len(orphans) / len(fakes_of)):
            epoch = index // len(self._pools.reals)
            turn = epoch * self._reals_in[group] + self._places[real.key]
            return real, fakes[(turn + hash_of(group)) % len(fakes)]
        groups = tuple(fakes_of) if fakes is None else orphans
        others = fakes_of[groups[int(rng.integers(len(groups)))]]
        return real, others[int(rng.integers(len(others)))]


def data_digest(pools: Pools, measured: Sequence[Item]) -> str:
    """SHA-256 of all that a run learns from and is measured on, in hexadecimal; where the packs lie does not matter."""
    digest = hashlib.sha256()
    for part in (pools.reals, pools.fakes, pools.blendable, pools.unlabelled, measured):
        for item in part:
            digest.update(repr(item.record).encode("utf-8", "surrogateescape"))
        digest.update(b"|")
    return digest.hexdigest()


def hash_of(text: str) -> int:
    """Return a small hash that is the same in every process, unlike Python's own."""
    value = 0
    for byte in text.encode("utf-8", "surrogateescape"):
        value = (value * 131 + byte) % 1_000_003
    return value
