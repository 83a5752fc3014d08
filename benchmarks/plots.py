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
    except ImportError as error:
        raise Skipped("matplotlib is not installed: pip install 'dfwatch[train]'") from error
    # The same figures give the same file.
    with mpl.rc_context({"svg.hashsalt": plot.name, "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.add_subplot()
        for name, points in plot.lines.items():
            axes.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=4, label=name)
        if plot.logarithmic:
            axes.set_xscale("log")
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set(title=plot.title, xlabel=plot.x, ylabel=plot.y)
        axes.grid(visible=True, which="major", linewidth=0.4)
        axes.legend(fontsize=8)
        path = folder / f"{plot.name}.svg"
        figure.savefig(path, metadata={"Date": None})
    return path
