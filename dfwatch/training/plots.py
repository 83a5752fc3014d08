"""The plots of a report, as SVG or PNG bytes. Needs matplotlib, from the extra `train`."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from dfwatch.training.metrics import calibration_bins
from dfwatch.training.summary import VERDICTS, arrays

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from dfwatch.training.judging import Judged
    from dfwatch.training.summary import Evaluation

_REAL, _FAKE, _LINE = "#2a7fba", "#d1495b", "#333333"


def _figure(width: float = 5.0, height: float = 4.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, alpha=0.25)
    return figure, axes


def _svg(figure: Figure) -> bytes:
    memory = io.BytesIO()
    # Without a date and with fixed ids the same figures give the same bytes.
    with rc_context({"svg.hashsalt": "dfwatch"}):
        figure.savefig(memory, format="svg", metadata={"Date": None})
    return memory.getvalue()


def _label(name: str) -> str:
    """A data set's name as matplotlib shows it as it is: names need not be text, ``$`` is mathematics, ``_`` hides."""
    text = name.encode("utf-8", "backslashreplace").decode().replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _scored(evaluation: Evaluation) -> list[Judged]:
    return [item for item in evaluation.judged if not np.isnan(item.p_fake)]


def roc(evaluation: Evaluation) -> bytes:
    """ROC curve, overall and per source, with the shipped FAKE threshold marked."""
    figure, axes = _figure()
    scored = _scored(evaluation)
    parts = [("all", scored)]
    if len(evaluation.sources) > 1:
        parts += [(s.title, [item for item in scored if item.source == s.title]) for s in evaluation.sources]
    for title, items in parts:
        labels, p_fake, _ = arrays(items)
        if len(np.unique(labels)) < 2:
            continue
        false_alarms, hits, _ = roc_curve(labels, p_fake)
        axes.plot(false_alarms, hits, lw=2.2 if title == "all" else 1.2, label=_label(title))
    labels, p_fake, _ = arrays(scored)
    fake = p_fake >= evaluation.bundle.thresholds.fake
    if len(np.unique(labels)) == 2:
        axes.plot(np.mean(fake[labels == 0]), np.mean(fake[labels == 1]), "o", color=_FAKE, label="FAKE threshold")
    axes.plot([0, 1], [0, 1], color="#bbbbbb", lw=1, ls="--")
    axes.set(xlabel="reals called FAKE", ylabel="fakes called FAKE", title="ROC")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right", fontsize=8)
    return _svg(figure)


def histogram(evaluation: Evaluation) -> bytes:
    """Scores of reals and fakes, with both thresholds."""
    figure, axes = _figure()
    labels, p_fake, _ = arrays(_scored(evaluation))
    bins = [number / 30 for number in range(31)]
    for label, name, colour in ((0, "REAL", _REAL), (1, "FAKE", _FAKE)):
        axes.hist(p_fake[labels == label], bins=bins, alpha=0.6, label=name, color=colour)
    for value in (evaluation.bundle.thresholds.real, evaluation.bundle.thresholds.fake):
        axes.axvline(value, color=_LINE, lw=1, ls=":")
    axes.set(xlabel="calibrated p(fake)", ylabel="videos", title="Scores (dotted: thresholds)")
    axes.legend(fontsize=8)
    return _svg(figure)


def reliability(evaluation: Evaluation) -> bytes:
    """Share of fakes against probability."""
    figure, axes = _figure()
    labels, p_fake, _ = arrays(_scored(evaluation))
    bins = calibration_bins(labels, p_fake)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", lw=1, ls="--")
    axes.plot([mean for mean, _, _ in bins], [share for _, share, _ in bins], "o-", color=_LINE)
    for mean, share, count in bins:
        axes.annotate(str(count), (mean, share), textcoords="offset points", xytext=(4, -10), fontsize=7)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="mean p(fake) in the bin", ylabel="share of fakes", title="Reliability")
    return _svg(figure)


def confusion(evaluation: Evaluation) -> bytes:
    """Truth against verdict."""
    figure, axes = _figure(5.0, 2.6)
    table = np.array([[evaluation.confusion[truth][verdict] for verdict in VERDICTS] for truth in ("REAL", "FAKE")])
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(table):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{count}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(VERDICTS)), VERDICTS, fontsize=7)
    axes.set_yticks(range(2), ("REAL", "FAKE"))
    axes.grid(visible=False)
    axes.set(xlabel="verdict", ylabel="truth", title="Verdicts at the shipped thresholds")
    return _svg(figure)


def training_curves(log: Sequence[dict[str, Any]]) -> bytes:
    """Loss, and AUC and accuracy on the select part, by step."""
    figure, axes = _figure(7.0, 3.6)
    train = [entry for entry in log if entry["event"] == "train"]
    measured = [entry for entry in log if entry["event"] == "measure" and entry.get("auc") is not None]
    axes.plot([e["step"] for e in train], [e["loss"] for e in train], color="#999999", lw=1, label="training loss")
    axes.plot(
        [e["step"] for e in measured], [e["loss"] for e in measured], "s-", color=_LINE, ms=3, label="select loss"
    )
    axes.set(xlabel="step", ylabel="loss", title="Training")
    right = axes.twinx()
    right.plot([e["step"] for e in measured], [e["auc"] for e in measured], "o-", color=_FAKE, ms=3, label="select AUC")
    right.plot(
        [e["step"] for e in measured],
        [e["accuracy"] for e in measured],
        "o-",
        color=_REAL,
        ms=3,
        label="select accuracy",
    )
    right.set_ylabel("AUC, accuracy")
    handles = [*axes.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=4, fontsize=8, frameon=False)
    return _svg(figure)


def picture_png(picture: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """PNG of a uint8 RGB picture."""
    return cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()
