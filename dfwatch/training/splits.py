"""Who trains, who selects, who tests: decided for whole groups, by a hash that never changes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from dfwatch.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dfwatch.training.records import Record

Split = Literal["train", "select", "test"]
SPLITS: tuple[Split, ...] = ("train", "select", "test")


class Dealt(Protocol):
    """What can be dealt to a part: a crop of a pack, or a file of a data set."""

    @property
    def group(self) -> str:
        """What must not cross a split."""

    @property
    def video(self) -> str:
        """The file that it is, or was cut from."""

    @property
    def split(self) -> str:
        """The part where the data set fixes it; else empty."""


_Dealt = TypeVar("_Dealt", bound=Dealt)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRule:
    """Shares of the groups held out, and the salt of the hash. The same rule always gives the same split.

    Attributes:
        salt: Changing it deals the groups anew.
        select: Share of groups on which models, calibration and thresholds are chosen.
        test: Share of groups that are only reported on.
    """

    salt: str = "dfwatch-1"
    select: float = 0.10
    test: float = 0.10

    def of_group(self, group: str) -> Split:
        """Return the part that a group belongs to; a pure function of salt and group."""
        digest = hashlib.sha256(f"{self.salt}:{group}".encode("utf-8", "surrogateescape")).digest()
        position = int.from_bytes(digest[:8], "big") / 2**64
        if position < self.test:
            return "test"
        return "select" if position < self.test + self.select else "train"

    def of_record(self, record: Dealt) -> Split:
        """Return the part that something belongs to: the data set's own where it has one, else by group."""
        for split in SPLITS:
            if record.split == split:
                return split
        return self.of_group(record.group)


def take(records: Iterable[_Dealt], split: Split | None, rule: SplitRule, excluded: frozenset[str]) -> list[_Dealt]:
    """Return one part, None: all, without what is on the exclusion list by its video or group."""
    return [
        record
        for record in records
        if record.video not in excluded
        and record.group not in excluded
        and (split is None or rule.of_record(record) == split)
    ]


def read_exclusions(path: str) -> frozenset[str]:
    """Read an exclusion list: one video or group name a line, ``#`` begins a comment."""
    try:
        # Names of files need not be text, and editors on Windows put a mark before the first name.
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as stream:
            text = stream.read()
    except OSError as error:
        raise TrainingError("reading the exclusion list", path, error.strerror or error) from error
    if "\0" in text:
        raise TrainingError(
            "reading the exclusion list", path, "it is not UTF-8", hint="save it as UTF-8, a name a line"
        )
    lines = (line.partition("#")[0].strip() for line in text.split("\n"))
    return frozenset(line for line in lines if line)


def check_disjoint(parts: Sequence[Iterable[Record]]) -> None:
    """Refuse parts that share a group.

    Raises:
        TrainingError: Naming one group that is in two parts.
    """
    seen: dict[str, int] = {}
    for number, part in enumerate(parts):
        for record in part:
            if seen.setdefault(record.group, number) != number:
                raise TrainingError(
                    "splitting the data",
                    record.group,
                    "this group is in two parts",
                    hint="fix the index's split column",
                )
