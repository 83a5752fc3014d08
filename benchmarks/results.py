"""What a benchmark gives: tables, targets that were met or missed, plots. Data types only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Cell = str | int | float | None


class Skipped(Exception):  # noqa: N818 - not an error
    """A benchmark cannot be run on this machine; says why."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under column heads; None is a cell that has nothing to say."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"a row of '{self.title}' has more or fewer cells than there are columns")


@dataclass(frozen=True, slots=True)
class Target:
    """One promise and what was measured.

    Attributes:
        met: None where this run cannot tell.
    """

    what: str
    wanted: str
    measured: str
    met: bool | None


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines over one axis; ``name`` is the file's name without ending."""

    name: str
    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    logarithmic: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """All that one case found."""

    tables: Sequence[Table] = ()
    targets: Sequence[Target] = ()
    plots: Sequence[Plot] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """One run of the harness.

    Attributes:
        facts: The machine and the versions, in order.
        results: By name of the case, in the order in which they ran.
        took_s: By name of the case.
        skipped: Why a case did not run, by its name.
        failed: What went wrong, by the case's name.
    """

    facts: Mapping[str, str]
    results: dict[str, Result] = field(default_factory=dict)
    took_s: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
