"""The report of an evaluation in a real browser: a file, without network, on a phone and on a desk."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dfwatch.training import robustness
from dfwatch.training.report import write_report
from dfwatch.training.summary import Evaluation, evaluate
from tests.browser import WIDTHS_PX, Browser
from tests.factories import bundle
from tests.training.test_evaluate import some_judged

LOG = [
    {"event": "train", "step": 10, "loss": 0.7},
    {"event": "measure", "step": 20, "loss": 0.6, "auc": 0.7, "accuracy": 0.65},
    {"event": "train", "step": 30, "loss": 0.5},
    {"event": "measure", "step": 40, "loss": 0.4, "auc": 0.9, "accuracy": 0.85},
]


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """With everything in it that a report can show, and names that no line can hold."""
    judged = some_judged(bundle())
    judged[0] = dataclasses.replace(judged[0], name=f"{'clip' * 60}.mp4", source="s" * 120)
    found = evaluate(bundle(), "made", judged, rounds=5)
    changes = dict.fromkeys(robustness.CHANGES, found.overall)
    changes = {name: dataclasses.replace(summary, title=name) for name, summary in changes.items()}
    return dataclasses.replace(found, robustness=changes, trained_on=3)


@pytest.mark.parametrize("width_px", WIDTHS_PX)
def test_the_report_of_an_evaluation(browser: Browser, tmp_path: Path, evaluation: Evaluation, width_px: int) -> None:
    write_report(evaluation, str(tmp_path), LOG)
    look = browser.look(tmp_path / "report.html", width_px)
    look.is_sound(width_px)
    assert look.title == "Evaluation of test-model 1"
    assert look.headings == [
        "Evaluation of test-model 1", "Figures", "Verdicts at the shipped thresholds",
        "What other FAKE thresholds would do", "Per source", "Per manipulation", "Robustness",
        "Reals with the highest scores", "Fakes with the lowest scores",
    ]  # fmt: skip
    assert len(look.drawings) == 5
    assert min(look.drawings) > 0.75 * min(width_px, 400)
    assert len(look.pictures) == 24
