"""Tables and targets as Markdown, which reads well at a terminal too."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from benchmarks.results import Cell, Report, Result, Table, Target


def cell(value: Cell) -> str:
    """A number with as many digits as it means something: three."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def table(content: Table) -> str:
    """A table with its title and notes."""
    lines = [f"**{content.title}**", "", *_grid(content.columns, content.rows)]
    for note in content.notes:
        lines += ["", note]
    return "\n".join(lines)


def targets(found: Iterable[Target]) -> str:
    """What was promised, and what was measured."""
    words = {True: "met", False: "**missed**", None: "not told"}
    return "\n".join(
        _grid(
            ("target", "wanted", "measured", ""),
            [(target.what, target.wanted, target.measured, words[target.met]) for target in found],
        )
    )


def result(content: Result) -> str:
    """All tables of a case."""
    return "\n\n".join(table(one) for one in content.tables)


def facts(content: Mapping[str, str]) -> str:
    """The machine."""
    return "\n".join(_grid(("", ""), list(content.items())))


def document(report: Report) -> str:
    """The whole run."""
    parts = ["# Benchmark", facts(report.facts)]
    found = [target for one in report.results.values() for target in one.targets]
    if found:
        parts += ["## Targets", targets(found)]
    for name, one in report.results.items():
        parts += [f"## {name} ({report.took_s.get(name, 0.0):.0f} s)", result(one)]
    parts += [f"## {name}\n\nSkipped: {why}" for name, why in report.skipped.items()]
    parts += [f"## {name}\n\nFailed: {why}" for name, why in report.failed.items()]
    return "\n\n".join(parts) + "\n"


def _grid(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[str]:
    texts = [[cell(value).replace("|", "\\|") for value in row] for row in rows]
    widths = [max([len(head), 3, *(len(row[i]) for row in texts)]) for i, head in enumerate(columns)]
    numeric = [all(isinstance(row[i], int | float | None) for row in rows) and bool(rows) for i in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(cells, widths, numeric, strict=True)
        ]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * (width - 1) + ":") if right else "-" * width for width, right in zip(widths, numeric, strict=True)]
    return [line(columns), line(rule), *(line(row) for row in texts)]
