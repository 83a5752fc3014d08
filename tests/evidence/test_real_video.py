"""From a real video, through the confined reader and a real (seeded) model, to pictures."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dfwatch.config import EvidenceSettings, Settings
from dfwatch.decode import wire
from dfwatch.detector import Detector
from dfwatch.evidence.maker import make
from dfwatch.judge import conclude
from dfwatch.reading import MAX_THUMBNAIL_BYTES, Reading, thumbnail_side
from tests.evidence.conftest import FRAMES, SIDE_PX
from tests.test_document import fake


def test_thumbnails_are_the_upright_frames(read: Reading) -> None:
    assert read.thumbnails is not None
    longer = max(read.video.width, read.video.height)
    size = (round(read.video.height * SIDE_PX / longer), round(read.video.width * SIDE_PX / longer))
    assert read.thumbnails.shape == (FRAMES, *size, 3)
    assert read.thumbnails.dtype == np.uint8
    face = read.tracks[0].faces[0]
    scale = read.thumbnails.shape[2] / read.video.width
    x, y = round((face.box.x + face.box.width / 2) * scale), round((face.box.y + face.box.height / 2) * scale)
    red, _, blue = read.thumbnails[face.frame_index][y - 3 : y + 3, x - 3 : x + 3].reshape(-1, 3).mean(axis=0)
    assert red > blue + 10, "skin is in the middle of the box, and red comes first"


def test_pictures_show_box_and_heat(read: Reading, detector: Detector) -> None:
    settings = Settings()
    decision = conclude(read, detector.score(read.crops), detector.bundle, settings)
    described, files = make(fake(), read, decision, detector, EvidenceSettings(enabled=True, frames=2))
    assert sorted(files) == ["frame-1.jpg", "frame-2.jpg", "heat-1.jpg", "heat-2.jpg", "report.html", "timeline.svg"]
    assert described["heat_map_note"] == "where the model looked, not proof"
    scores = [frame["p_fake"] for frame in described["frames"]]
    assert scores == sorted(scores, reverse=True)
    frame = cv2.imdecode(np.frombuffer(files["frame-1.jpg"], np.uint8), cv2.IMREAD_COLOR)
    assert read.thumbnails is not None
    assert frame.shape == read.thumbnails.shape[1:]
    plain = read.thumbnails[described["frames"][0]["index"]][:, :, ::-1]
    drawn = np.abs(frame.astype(int) - plain).max(axis=2) > 80
    rows, columns = np.nonzero(drawn)
    shown = next(face for face in read.tracks[0].faces if face.frame_index == described["frames"][0]["index"])
    scale = frame.shape[1] / read.video.width
    assert columns.min() == pytest.approx(shown.box.x * scale, abs=4)
    assert rows.max() == pytest.approx((shown.box.y + shown.box.height) * scale, abs=4)
    heat = cv2.imdecode(np.frombuffer(files["heat-1.jpg"], np.uint8), cv2.IMREAD_COLOR)
    assert heat.shape == (320, 640, 3)
    assert files["report.html"].count(b"data:image/jpeg") == 4


def test_heat_maps_of_a_real_network(read: Reading, detector: Detector) -> None:
    side = detector.bundle.input.size_px
    maps = detector.heat_maps(read.crops)
    assert maps.shape == (len(read.crops), side, side)
    assert np.isfinite(maps).all()
    assert maps.min() >= 0.0
    assert maps.max() <= 1.0
    assert maps.any()
    before = detector.score(read.crops)
    detector.heat_maps(read.crops[:1])
    assert np.array_equal(detector.score(read.crops), before), "looking changes no score"
    assert detector.heat_maps(read.crops[:0]).shape == (0, side, side)


def test_without_heat_maps(read: Reading, detector: Detector) -> None:
    decision = conclude(read, detector.score(read.crops), detector.bundle, Settings())
    for explainer, settings in ((object(), EvidenceSettings()), (detector, EvidenceSettings(heat_map=False))):
        described, files = make(fake(), read, decision, explainer, settings)
        assert not [name for name in files if name.startswith("heat")]
        assert all(frame["heat_map"] is None for frame in described["frames"])


def test_thumbnails_are_bounded() -> None:
    assert thumbnail_side(480, 20) == 480
    for frames in (1, 20, 60, 1000):
        assert 3 * frames * thumbnail_side(640, frames) ** 2 <= MAX_THUMBNAIL_BYTES


@pytest.mark.parametrize("lie", [[200, 201], [0, 10], [10], [10, 10, 3], "big", [10, 10], [-1, 10]])
def test_a_child_cannot_lie_about_thumbnails(read: Reading, detector: Detector, lie: object) -> None:
    data = wire.encode_reading(read)
    json_bytes, _ = wire.HEAD.unpack(data[: wire.HEAD.size])
    message = wire.parse_json(data[wire.HEAD.size : wire.HEAD.size + json_bytes])
    blob = data[wire.HEAD.size + json_bytes :]
    crop = detector.bundle.crop
    honest = wire.decode_reading(message["ok"], blob, crop, FRAMES, 10, thumbnail_side_px=SIDE_PX)
    assert read.thumbnails is not None
    assert np.array_equal(honest.thumbnails, read.thumbnails)
    with pytest.raises(wire.ProtocolError):
        wire.decode_reading({**message["ok"], "thumbnails": lie}, blob, crop, FRAMES, 10, thumbnail_side_px=SIDE_PX)
    with pytest.raises(wire.ProtocolError):
        wire.decode_reading(message["ok"], blob, crop, FRAMES, 10)
