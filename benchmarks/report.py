"""What a run leaves behind: JSON, Markdown, plots, and the marked sections of a page."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING

from benchmarks import plots, tables
from benchmarks.results import Skipped

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.results import Report

# <!-- benchmark: NAME --> … <!-- end --> in a page; NAME is a case, or one of machine, targets.
_SECTION = re.compile(r"(<!-- benchmark: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def write(report: Report, folder: Path) -> list[Path]:
    """Write ``benchmark.json``, ``benchmark.md`` and the plots; returns what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    data, page = folder / "benchmark.json", folder / "benchmark.md"
    data.write_text(json.dumps(asdict(report), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page.write_text(tables.document(report), encoding="utf-8")
    return [data, page, *draw(report, folder)]


def draw(report: Report, folder: Path) -> list[Path]:
    """Write the plots; none where matplotlib is not installed."""
    try:
        return [plots.draw(plot, folder) for result in report.results.values() for plot in result.plots if plot.lines]
    except Skipped:
        return []


def fill(page: Path, report: Report) -> list[str]:
    """Put a run into a page's marked sections, and its plots beside the page.

    Sections of cases that did not run are left as they are; so are machine and targets, which tell of all cases, unless
    each case of the page has run.

    Returns:
        Names of the sections that were filled.
    """
    contents = {name: tables.result(result) for name, result in report.results.items()}
    contents |= {name: f"Skipped: {why}." for name, why in report.skipped.items()}
    found = [target for result in report.results.values() for target in result.targets]
    of_all = {"machine": tables.facts(report.facts), "targets": tables.targets(found)}
    text = page.read_text(encoding="utf-8")
    if {match["name"] for match in _SECTION.finditer(text)} <= {*contents, *of_all}:
        contents |= of_all
    filled: list[str] = []

    def put(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in contents:
            return match[0]
        filled.append(name)
        return f"{match[1]}\n{contents[name]}\n\n{match[3]}"

    page.write_text(_SECTION.sub(put, text), encoding="utf-8")
    draw(report, page.parent)
    return filled
