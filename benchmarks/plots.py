"""Plots as small SVG files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.results import Skipped

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.results import Plot


def draw(plot: Plot, folder: Path) -> Path:
    """Write ``<name>.svg``.

    Raises:
        Skipped: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415 - heavy, and an extra
        from matplotlib.figure import Figure  # noqa: PLC0415
        from matplotlib.ticker import (  # noqa: PLC0415
            MaxNLocator,
            NullLocator,
            StrMethodFormatter,
        )
    except ImportError as error:
        raise Skipped("matplotlib is not installed: pip install 'dfwatch[train]'") from error
    # The same figures give the same file.
    with mpl.rc_context({"svg.hashsalt": plot.name, "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.add_subplot()
        for name, points in plot.lines.items():
            axes.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=4, label=name)
        heights = [y for points in plot.lines.values() for _, y in points]
        if plot.logarithmic:
            axes.set_xscale("log")
            # Seconds are easier to read than powers of ten; the places between say nothing more.
            axes.set_xticks(sorted({x for points in plot.lines.values() for x, _ in points}))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if plot.logarithmic and max(heights) > 10 * min(heights):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        else:
            axes.set_ylim(0, 1.1 * max(heights))
        axes.set(title=plot.title, xlabel=plot.x, ylabel=plot.y)
        axes.grid(visible=True, which="major", linewidth=0.4)
        axes.legend(fontsize=8)
        path = folder / f"{plot.name}.svg"
        figure.savefig(path, metadata={"Date": None})
    return path
