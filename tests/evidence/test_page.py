from __future__ import annotations

import errno
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from dfwatch.evidence.choice import highest
from dfwatch.evidence.folder import folder_names, publish_folder
from dfwatch.evidence.page import page
from dfwatch.evidence.timeline import timeline
from dfwatch.reasons import Label, Status
from dfwatch.storage.layout import DroppedName
from dfwatch.verdict import Decision
from tests.factories import bundle, reading
from tests.test_document import decision_on, fake, run

SVG = "{http://www.w3.org/2000/svg}"


def two_tracks(scores: list[float]) -> Decision:
    return decision_on(reading([range(4), [1, 2]], frames=4), scores, bundle())


def named(name: str) -> dict[str, Any]:
    return {**fake(), "subject": {**fake()["subject"], "name": name}}


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_the_highest_frames_of_the_deciding_face_are_shown() -> None:
    shown = highest(two_tracks([0.9, 0.99, 0.8, 0.95, 0.1, 0.1]), 3)
    assert [face.face.frame_index for face in shown] == [1, 3, 0]
    assert {face.track for face in shown} == {0}
    assert len(highest(two_tracks([0.9] * 6), 20)) == 4


def test_what_kept_real_from_being_said_is_shown() -> None:
    decision = decision_on(reading([range(20), [3, 4]]), [0.01] * 20 + [0.99] * 2, bundle())
    assert (decision.label, decision.decided_by) == (Label.INCONCLUSIVE, 0)
    assert [(face.track, face.face.frame_index) for face in highest(decision, 3)] == [(1, 3), (1, 4), (0, 0)]


def test_the_page_states_scores_and_thresholds_with_every_digit() -> None:
    document = fake()
    document["thresholds"] |= {"real": 0.2097, "fake": 0.9476}
    frames = [{"file": "frame-1.jpg", "heat_map": None, "track": 0, "index": 0, "time_s": 1.0, "p_fake": 0.94758}]
    text = page({**document, "p_fake": 0.9478}, {"frame-1.jpg": b"one"}, frames)
    assert "p(fake) 0.9478<" in text
    assert "p(fake) 0.94758<" in text
    assert "REAL up to 0.2097, FAKE from 0.9476" in text


def test_the_page_says_who_decided() -> None:
    frames = [{"file": "frame-1.jpg", "heat_map": None, "track": 0, "index": 0, "time_s": 1.0, "p_fake": 0.9}]
    text = page(fake(), {"frame-1.jpg": b"one"}, frames)
    assert "the first colour is the one that decided" in text
    assert "Frames with the highest scores of the face that decided" in text
    together = page({**fake(), "decided_by_track": None}, {"frame-1.jpg": b"one"}, frames)
    assert "all of them decided together" in together
    assert "that decided" not in together


def test_faces_that_are_not_drawn_are_counted() -> None:
    document = fake()
    track = document["tracks"][1]
    crowd = {**document, "tracks": [document["tracks"][0], *({**track, "id": number} for number in range(1, 15))]}
    assert len(ET.fromstring(timeline(crowd)).findall(f"{SVG}polyline")) == 12
    assert "3 faces with lower scores are not drawn" in page(crowd, {}, [])
    assert "not drawn" not in page(document, {}, [])


@pytest.mark.parametrize(("confidence", "shown"), [(0.996, "more than 99%"), (0.994, "99%"), (0.75, "75%")])
def test_no_certainty_is_claimed_that_the_score_does_not_have(confidence: float, shown: str) -> None:
    assert f"<strong>{shown}</strong>" in page({**fake(), "confidence": confidence}, {}, [])


def test_timeline_is_whole_and_shows_every_face() -> None:
    root = ET.fromstring(timeline(fake()))
    assert len(root.findall(f"{SVG}polyline")) == 2
    assert len(root.findall(f"{SVG}circle")) == 6
    heights = {float(circle.attrib["cy"]) for circle in root.findall(f"{SVG}circle")}
    scores = sorted(frame["p_fake"] for track in fake()["tracks"] for frame in track["frames"])
    # 196 pixels for 0 to 1, upwards.
    assert max(heights) - min(heights) == pytest.approx(196 * (scores[-1] - scores[0]), abs=0.2)
    assert len(root.findall(f"{SVG}rect")) == len(fake()["segments"])


def test_the_page_needs_nothing_else_and_runs_nothing() -> None:
    frames = [{"file": "frame-1.jpg", "heat_map": "heat-1.jpg", "track": 0, "index": 0, "time_s": 1.0, "p_fake": 0.9}]
    text = page(fake(), {"frame-1.jpg": b"one", "heat-1.jpg": b"two"}, frames)
    tags = Tags(text)
    assert not {tag for tag, _ in tags.seen} & {"script", "link", "iframe", "object", "form", "base"}
    sources = [value for _, attributes in tags.seen for name, value in attributes.items() if name in {"src", "href"}]
    assert sources
    assert all(source is not None and source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not re.findall(r"url\(|@import", text)
    assert "default-src 'none'" in text
    assert "Where the model looked, not proof" in text
    for limit in fake()["limits"]:
        assert limit in text


@pytest.mark.parametrize("name", ["<script>alert(1)</script>.mp4", '"><img src=x onerror=alert(1)>.mp4', "a&b.mp4"])
def test_a_name_is_text_and_nothing_else(name: str) -> None:
    text = page(named(name), {}, [])
    expected = Tags(page(named("plain.mp4"), {}, []))
    assert [tag for tag, _ in Tags(text).seen] == [tag for tag, _ in expected.seen]
    assert "<script" not in text


def test_content_credentials_have_a_place_of_their_own() -> None:
    assert "Content credentials" not in page(fake(), {}, [])
    told = {
        "note": "That means nothing.",
        "signed_by": "<b>Nobody</b>",
        "signed_at": None,
        "made_with": "Editor",
        "actions": [{"action": "c2pa.created", "source_type": None}],
    }
    text = page({**fake(), "provenance": told}, {}, [])
    assert "&lt;b&gt;Nobody&lt;/b&gt;" in text
    assert "That means nothing." in text
    assert "c2pa.created" in text


def test_the_page_of_a_video_without_a_face() -> None:
    from dfwatch.document import build
    from tests.test_document import SUBJECT

    read = reading([])
    document = build(Status.DONE, SUBJECT, run(bundle()), reading=read, decision=decision_on(read, [], bundle()))
    text = page(document, {}, [])
    assert "nothing was judged" in text
    assert "<svg" not in text
    assert "probability of this label" not in text


def test_folder_names_fit_and_are_unicode() -> None:
    assert folder_names("clip.mp4", "job") == ["clip.mp4.job.evidence", "job.evidence"]
    for name in ("x" * 255, "ü" * 127, "clip\udcff.mp4"):
        for shown in folder_names(name, "20261122T002713.852029Z-aaadd1bd"):
            assert len(shown.encode()) <= 255
            assert shown.endswith("20261122T002713.852029Z-aaadd1bd.evidence")


def test_a_folder_takes_a_shorter_name_where_the_file_system_wants_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def of_ecryptfs(source: str, target: str) -> None:
        if len(os.path.basename(target)) > 143:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", of_ecryptfs)
    for content in (b"first", b"second"):
        path = publish_folder(str(tmp_path), DroppedName("", "x" * 140 + ".mp4"), "job", {"report.html": content})
        assert os.path.basename(path) == "job.evidence"
        assert Path(path, "report.html").read_bytes() == content
    assert os.listdir(tmp_path) == ["job.evidence"]
