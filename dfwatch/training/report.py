"""The evaluation as Markdown and as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import math
import os
from typing import TYPE_CHECKING, Any

from dfwatch.training import plots
from dfwatch.training.summary import CAVEAT, VERDICTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dfwatch.training.judging import Judged
    from dfwatch.training.summary import Evaluation, Summary

_WORST = 12
_STYLE = """
:root{color-scheme:light}
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff;
overflow-wrap:anywhere}
h1{font-size:1.6rem;line-height:1.2}h2{font-size:1.2rem;margin-top:2.2rem;border-bottom:1px solid #ddd}
.table{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;overflow-wrap:normal}
td,th{padding:.25rem .7rem;border-bottom:1px solid #e5e5e5;text-align:left;vertical-align:top}
th{vertical-align:bottom}
td:first-child{min-width:6rem;max-width:18rem;overflow-wrap:anywhere}
td:not(:first-child){font-variant-numeric:tabular-nums}
small{color:#666;white-space:nowrap}
.wide small{display:block}.wide td,.wide th{padding:.25rem .4rem}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(28rem,100%),1fr));gap:1rem}
.plots svg{display:block;width:100%;height:auto}
.worst{display:grid;grid-template-columns:repeat(auto-fill,minmax(9rem,1fr));gap:.8rem}.worst figure{margin:0}
.worst img{display:block;width:100%}
figcaption{font-size:.75rem}
.warning{background:#fff3cd;padding:.6rem 1rem;border-left:4px solid #d39e00}
"""
_FEW_COLUMNS = 6
Table = tuple[list[str], list[list[str]]]


def write_report(evaluation: Evaluation, folder: str, log: Sequence[dict[str, Any]] = ()) -> None:
    """Write ``report.md``, ``report.html``, ``evaluation.json`` and ``scores.csv`` into a folder."""
    os.makedirs(folder, exist_ok=True)
    texts = {
        "report.md": markdown(evaluation),
        "report.html": page(evaluation, log),
        "evaluation.json": json.dumps(as_json(evaluation), indent=2) + "\n",
        "scores.csv": _scores(evaluation),
    }
    for name, text in texts.items():
        # Names of files need not be text.
        with open(os.path.join(folder, name), "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(text)


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return the figures as plain values, as they are stored under ``metrics`` in a bundle."""

    def plain(summary: Summary) -> dict[str, Any]:
        figures = {
            name: [round(number, 6) for number in (item.value, item.low, item.high) if not math.isnan(number)]
            for name, item in summary.figures.items()
        }
        counts = {"reals": summary.reals, "fakes": summary.fakes, "groups": summary.groups}
        unreadable = {"unreadable": summary.unreadable} if summary.unreadable else {}
        return {**counts, "without_face": summary.without_face, **unreadable, **figures}

    found: dict[str, Any] = {
        "data": evaluation.data,
        "interval": "95 %, bootstrap over groups",
        "all": plain(evaluation.overall),
        "confusion": evaluation.confusion,
    }
    if len(evaluation.sources) > 1:
        found["sources"] = {summary.title: plain(summary) for summary in evaluation.sources}
    if evaluation.manipulations:
        found["manipulations"] = {summary.title: plain(summary) for summary in evaluation.manipulations}
    if evaluation.robustness:
        found["robustness"] = {name: plain(summary) for name, summary in evaluation.robustness.items()}
    if evaluation.trained_on:
        found["warning"] = _warning(evaluation)
    return found


def markdown(evaluation: Evaluation) -> str:
    """Return the report as Markdown."""
    parts = [f"# Evaluation of {evaluation.bundle.id} {evaluation.bundle.version}", "", _facts(evaluation), ""]
    if evaluation.trained_on:
        parts += [f"**{_warning(evaluation)}**", ""]
    for title, (head, rows) in _tables(evaluation):
        parts += [f"## {title}", "", "| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
        parts += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        parts.append("")
    return "\n".join(parts)


def page(evaluation: Evaluation, log: Sequence[dict[str, Any]] = ()) -> str:
    """Return the report as one HTML page with its plots inside."""
    title = html.escape(f"Evaluation of {evaluation.bundle.id} {evaluation.bundle.version}")
    drawn = [plots.roc, plots.histogram, plots.reliability, plots.confusion]
    pictures = [_inline(plot(evaluation)) for plot in drawn]
    if any(entry["event"] == "measure" for entry in log):
        pictures.append(_inline(plots.training_curves(log)))
    warning = f'<p class="warning">{html.escape(_warning(evaluation))}</p>' if evaluation.trained_on else ""
    tables = "".join(f"<h2>{html.escape(name)}</h2>{_html_table(table)}" for name, table in _tables(evaluation))
    worst = "".join(
        f"<h2>{html.escape(name)}</h2><div class=worst>{''.join(_figure(item) for item in items)}</div>"
        for name, items in _worst(evaluation)
        if items
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{title}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{title}</h1><p>{html.escape(_facts(evaluation))}</p>{warning}"
        f"<div class=plots>{''.join(f'<div>{picture}</div>' for picture in pictures)}</div>"
        f"{tables}{worst}</body></html>\n"
    )


def _facts(evaluation: Evaluation) -> str:
    bundle, overall = evaluation.bundle, evaluation.overall
    unreadable = f", {overall.unreadable} that could not be read" if overall.unreadable else ""
    known = bundle.training.groups_file or bundle.training.groups
    unknown = "" if known else "What this model was trained on is not known: it may have been these very videos. "
    return (
        f"{evaluation.data}: {overall.reals} real and {overall.fakes} fake videos in {overall.groups} groups, "
        f"{overall.without_face} without a face that could be judged{unreadable}. {unknown}"
        f"Calibration: {bundle.calibration.method}; "
        f"REAL at or below {bundle.thresholds.real:.4f}, FAKE at or above {bundle.thresholds.fake:.4f} "
        f"({bundle.thresholds.chosen_on}). In brackets: 95 % interval of a bootstrap over groups. {CAVEAT} "
        "A score is an estimate, not proof."
    )


def _warning(evaluation: Evaluation) -> str:
    return (
        f"The model was trained on {evaluation.trained_on} of these groups. "
        "These figures flatter it and say nothing about new videos."
    )


def _tables(evaluation: Evaluation) -> list[tuple[str, Table]]:
    overall, silent = evaluation.overall, evaluation.no_face_as_real
    head = ["figure", "videos with a face"]
    rows = [[name, str(value)] for name, value in overall.figures.items()]
    if overall.without_face:
        head.append("no face counted as not fake")
        rows = [[*row, str(silent.figures[row[0]])] for row in rows]
    tables: list[tuple[str, Table]] = [("Figures", (head, rows))]
    confusion = [[truth, *(str(evaluation.confusion[truth][v]) for v in VERDICTS)] for truth in ("REAL", "FAKE")]
    tables.append(("Verdicts at the shipped thresholds", (["truth", *VERDICTS], confusion)))
    tables.append(("What other FAKE thresholds would do", _threshold_table(evaluation)))
    for title, summaries in (("Per source", evaluation.sources), ("Per manipulation", evaluation.manipulations)):
        if summaries:
            tables.append((title, _summary_table(summaries)))
    if evaluation.robustness:
        tables.append(("Robustness", _summary_table(list(evaluation.robustness.values()))))
    return tables


def _summary_table(summaries: Sequence[Summary]) -> Table:
    names = list(summaries[0].figures)
    rows = [[s.title, str(s.reals), str(s.fakes), *(str(s.figures[name]) for name in names)] for s in summaries]
    return ["set", "reals", "fakes", *names], rows


def _threshold_table(evaluation: Evaluation) -> Table:
    shipped = evaluation.bundle.thresholds.fake

    def at_least(share: float) -> str:
        return "–" if math.isnan(share) else f"{math.floor(100 * share)} %"

    rows = [
        [
            f"{point.fake:.4g}" + (" (shipped)" if point.fake == shipped else ""),
            str(point.false_alarms),
            str(point.hits),
            at_least(point.right_if_even),
            at_least(point.right_if_rare),
        ]
        for point in evaluation.operating_points
    ]
    head = ["FAKE from", "reals called FAKE", "fakes called FAKE"]
    return [*head, "FAKE is right, at least: if half are fake", "if one in 100 is"], rows


def _worst(evaluation: Evaluation) -> list[tuple[str, list[Judged]]]:
    shown = [item for item in evaluation.judged if item.picture is not None and not math.isnan(item.p_fake)]
    by_score = sorted(shown, key=lambda item: item.p_fake)
    return [
        ("Reals with the highest scores", [item for item in reversed(by_score) if not item.label][:_WORST]),
        ("Fakes with the lowest scores", [item for item in by_score if item.label][:_WORST]),
    ]


def _figure(item: Judged) -> str:
    assert item.picture is not None
    data = base64.b64encode(plots.picture_png(item.picture)).decode()
    caption = html.escape(f"{item.name}: {item.p_fake:.3f}, {item.verdict}")
    image = f'<img alt="A face that was judged" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _html_table(table: Table) -> str:
    head, rows = table
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{_html_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    kind = "table wide" if len(head) > _FEW_COLUMNS else "table"
    return f'<div class="{kind}"><table><tr>{top}</tr>{body}</table></div>'


def _html_cell(text: str) -> str:
    """A figure's interval is smaller print, and is not torn apart."""
    value, bracket, interval = html.escape(text).partition(" [")
    return f"{value} <small>[{interval}</small>" if bracket else value


def _inline(svg: bytes) -> str:
    text = svg.decode()
    return text[text.index("<svg") :]


def _scores(evaluation: Evaluation) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "source", "group", "manipulation", "label", "p_fake", "verdict", "faces"])
    for item in evaluation.judged:
        label = "FAKE" if item.label else "REAL"
        p_fake = f"{item.p_fake:.4f}"
        writer.writerow(
            [item.name, item.source, item.group, item.manipulation, label, p_fake, item.verdict, item.faces]
        )
    return text.getvalue()
