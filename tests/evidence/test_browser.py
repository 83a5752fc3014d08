"""The evidence page in a real browser, as a person gets it: a file, without network, on a phone and on a desk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dfwatch.config import EvidenceSettings, Settings
from dfwatch.detector import Detector
from dfwatch.document import build
from dfwatch.evidence.maker import REPORT, make
from dfwatch.judge import conclude
from dfwatch.reading import Reading
from dfwatch.reasons import Status
from dfwatch.verdict import Decision
from tests.browser import DESKTOP_PX, WIDTHS_PX, Browser
from tests.factories import bundle, reading
from tests.test_document import SUBJECT, decision_on, run

# Nowhere in it may a line be broken by nature.
LONG_NAME = f"{'interview' * 20}.mp4"
CREDENTIALS = {
    "note": "The file carries content credentials. They say what a signer claims, and that nothing was changed since.",
    "signed_by": "Example Newsroom",
    "signed_at": "2026-01-02T03:04:05Z",
    "made_with": "Example Camera 1.0",
    "actions": [
        {"action": "c2pa.created", "source_type": "http://cv.iptc.org/newscodes/digitalsourcetype/" + "x" * 90}
    ],
}


def written(folder: Path, read: Reading, decision: Decision, detector: object, **changes: Any) -> Path:
    """The folder of evidence of a judged video, as the service writes it; returns its page."""
    document = build(Status.DONE, SUBJECT, run(bundle()), reading=read, decision=decision)
    document = {**document, **changes}
    _, files = make(document, read, decision, detector, EvidenceSettings(enabled=True, frames=3))
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder / REPORT


@pytest.fixture
def judged(read: Reading, detector: Detector) -> Decision:
    return conclude(read, detector.score(read.crops), detector.bundle, Settings())


@pytest.mark.parametrize("width_px", WIDTHS_PX)
def test_the_page_of_a_real_video(
    browser: Browser, tmp_path: Path, read: Reading, judged: Decision, detector: Detector, width_px: int
) -> None:
    page = written(tmp_path, read, judged, detector)
    look = browser.look(page, width_px)
    look.is_sound(width_px)
    assert look.title.startswith(f"{judged.label}: ")
    assert look.headings == [
        SUBJECT.dropped.name, "Scores over time", "Frames with the highest scores", "How it was judged",
    ]  # fmt: skip
    assert len(look.pictures) == 6, "three frames, and what the model was given of each"
    assert min(picture["width"] for picture in look.pictures) >= 300
    (drawn,) = look.drawings
    assert drawn > 0.75 * min(width_px, 760)


@pytest.mark.parametrize("width_px", WIDTHS_PX)
def test_whatever_a_file_is_called_and_a_signer_says_stays_on_the_page(
    browser: Browser, tmp_path: Path, read: Reading, judged: Decision, detector: Detector, width_px: int
) -> None:
    subject = {"name": LONG_NAME, "folder": "desk" * 50, "received_at": "2026-01-02T03:04:05.678Z", "sha256": "ab" * 32}
    warning = f"the file {'w' * 150} declares something else"
    page = written(tmp_path, read, judged, detector, subject=subject, provenance=CREDENTIALS, warnings=[warning])
    look = browser.look(page, width_px)
    look.is_sound(width_px)
    assert look.headings[0] == LONG_NAME
    assert {"Mind", "Content credentials"} <= set(look.headings)


@pytest.mark.parametrize("width_px", WIDTHS_PX)
def test_the_page_of_a_video_without_a_face(browser: Browser, tmp_path: Path, width_px: int) -> None:
    empty = reading([])
    page = written(tmp_path, empty, decision_on(empty, [], bundle()), None)
    look = browser.look(page, width_px)
    look.is_sound(width_px)
    assert look.title.startswith("NO_FACE: ")
    assert (look.pictures, look.drawings) == ([], [])


def test_a_page_that_is_not_sound_is_noticed(browser: Browser, tmp_path: Path) -> None:
    """The other tests can fail."""
    page = tmp_path / "page.html"
    page.write_text(
        '<!doctype html><meta name="viewport" content="width=device-width"><h1>x</h1>'
        '<div style="width:3000px">wide</div><img src="http://pictures.example/a.png" alt="">'
        "<script>console.error('oops')</script>"
    )
    look = browser.look(page, DESKTOP_PX)
    assert look.scroll_width_px >= 3000
    assert "wide" in look.outside[0]
    assert [picture["whole"] for picture in look.pictures] == [False]
    assert look.asked_for == ["http://pictures.example/a.png"]
    assert any("oops" in line for line in look.console)
    assert any("ERR_NAME_NOT_RESOLVED" in line for line in look.console)
    with pytest.raises(AssertionError):
        look.is_sound(DESKTOP_PX)
