"""The commands of the guide on real video files: a folder of `real/` and `fake/` clips becomes a calibrated bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dfwatch.config import FaceSettings, ReaderSettings
from dfwatch.errors import TrainingError
from dfwatch.faces import crop_region
from dfwatch.models.bundle import load_bundle
from dfwatch.models.checkpoints import load_network
from dfwatch.reader import Reader
from dfwatch.reading import CropSpec
from dfwatch.training.layouts import scan
from dfwatch.training.packs import Pack
from dfwatch.training.teacher import Teacher, open_teacher
from tests.clips import PlacedFace, make_clip
from tests.training.test_evaluate import call

RECIPE = """
id: mine
architecture: {name: efficientnet_lite0}
data: {packs: [mine], blend_packs: [mine], margin: 0.0, shift_y: 0.0}
stages: [{size_px: 32, steps: 2, batch: {labelled: 4, blended: 2}}]
measure_every: 1
about: {description: Trained on other people's videos., data: [theirs]}
"""


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for number in range(4):
        for label in ("real", "fake"):
            (root / label).mkdir(exist_ok=True)
            place = PlacedFace(x=0.4 + 0.05 * number, height=0.7 + 0.05 * number)
            name = f"clip{number}.mp4" if label == "real" else f"clip{number}_swap.mp4"
            make_clip(root / label / name, seconds=0.5, faces=(place,))
    # People put a data set together from links.
    store = tmp_path_factory.mktemp("store") / "clip1.mp4"
    (root / "real" / "clip1.mp4").rename(store)
    (root / "real" / "clip1.mp4").symlink_to(store)
    make_clip(root / "real" / "empty.mp4", seconds=0.3, faces=())
    (root / "fake" / "broken.mp4").write_bytes(b"no video" * 100)
    return root


@pytest.fixture(scope="module")
def packs(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("packs")
    assert call("prepare", str(videos), str(root / "mine"), "--frames", "3", "--size", "128") == 0
    # Four groups are too few for a split by hash: here every group trains, and one is measured.
    index = root / "mine" / "index.csv"
    rows = index.read_text().splitlines()
    place = rows[0].split(",").index("split")
    for number, row in enumerate(rows[1:], 1):
        cells = row.split(",")
        cells[place] = "select" if "clip3" in row else "train"
        rows[number] = ",".join(cells)
    index.write_text("\n".join(rows) + "\n")
    return root


def test_prepare_cuts_what_the_reader_cuts(videos: Path, packs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack = Pack(str(packs / "mine"))
    assert {record.video for record in pack.records} == {
        *(f"real/clip{number}.mp4" for number in range(4)),
        *(f"fake/clip{number}_swap.mp4" for number in range(4)),
    }
    assert len(pack.records) == 8 * 3
    of_first = [record for record in pack.records if record.video == "real/clip0.mp4"]
    assert [record.time_s for record in of_first] == sorted(record.time_s for record in of_first)
    assert all(len(record.landmarks) == 10 for record in of_first)
    settings, spec = ReaderSettings(frames=3), CropSpec(size_px=128, margin=0.35)
    with (videos / "real/clip0.mp4").open("rb") as stream, Reader(settings, FaceSettings()) as reader:
        reading = reader.read(stream.fileno(), spec)
    face = reading.tracks[0].faces[0]
    difference = pack.picture(of_first[0]).astype(int) - reading.crops[face.crop_index]
    assert np.abs(difference).mean() < 3  # nothing but JPEG
    # The stored box is where the face finder saw it inside the crop.
    region = crop_region(face.box, spec)
    expected = ((face.box.x - region.x) / region.width, (face.box.y - region.y) / region.height)
    assert of_first[0].box[:2] == pytest.approx(expected, abs=0.001)
    assert (packs / "mine" / "contact_sheet.jpg").exists()


def test_a_folder_of_videos_becomes_a_bundle_that_judges_videos(videos: Path, packs: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    recipe, bundle, run = tmp_path / "recipe.yaml", tmp_path / "bundle", tmp_path / "run"
    recipe.write_text(RECIPE)
    data = ["--data", str(packs)]
    words = ["train", str(recipe), *data, "--pack", "mine", "--run", str(run), "--workers", "0", "--threads", "1"]
    carried = tmp_path / "carried"
    assert call(*words, "--bundle", str(bundle), "--parts", str(carried)) == 0
    # What was carried away makes the same bundle elsewhere.
    assert sorted(path.name for path in carried.iterdir()) == [
        "best-001-of-001.safetensors", "log.jsonl", "training_groups.txt",
    ]  # fmt: skip
    words = ["train", str(recipe), *data, "--pack", "mine", "--run", str(carried), "--only-bundle"]
    assert call(*words, "--bundle", str(tmp_path / "elsewhere" / "bundle")) == 0
    for name in ("weights.safetensors", "training_groups.txt"):
        assert (tmp_path / "elsewhere" / "bundle" / name).read_bytes() == (bundle / name).read_bytes()
    made = load_bundle(bundle)
    # The recipe's words about its own data would be untrue of this bundle.
    assert (made.id, made.description) == ("bundle", "")
    assert made.training.data == ("mine",)
    # Two held-out videos decide nothing; this only shows that the bundle is judged by whole videos.
    out = tmp_path / "report"
    words = ["evaluate", str(bundle), "--videos", str(videos), "--out", str(out), "--rounds", "5", "--device", "cpu"]
    assert call(*words, "--include-trained") == 0
    figures = json.loads((out / "evaluation.json").read_text())
    assert (figures["all"]["reals"], figures["all"]["fakes"]) == (4, 4)
    assert figures["confusion"]["REAL"]["NO_FACE"] == 1
    assert figures["confusion"]["FAKE"]["FAILED"] == 1
    assert (figures["all"]["without_face"], figures["all"]["unreadable"]) == (1, 1)
    assert "flatter" in figures["warning"]
    page = (out / "report.html").read_text()
    assert page.count("<figure>") == 8
    assert "clip0_swap.mp4: 0." in page
    # Without what was trained on nothing is refused.
    theirs = {record.group for record in Pack(str(packs / "mine")).records if record.split == "train"}
    (tmp_path / "exclude.txt").write_text("\n".join(theirs))
    assert call(*words, "--exclude", str(tmp_path / "exclude.txt")) == 0
    figures = json.loads((out / "evaluation.json").read_text())
    assert "warning" not in figures
    assert (figures["all"]["reals"], figures["all"]["fakes"]) == (1, 1)
    every = {source.group for source in scan("folders", str(videos)).sources}
    (tmp_path / "exclude.txt").write_text("\n".join(every))
    with pytest.raises(TrainingError, match="its select part is empty"):
        call(*words, "--split", "select", "--exclude", str(tmp_path / "exclude.txt"))


def test_a_teacher_answers_as_its_network_does(packs: Path, tmp_path: Path) -> None:
    recipe, bundle = tmp_path / "recipe.yaml", tmp_path / "bundle"
    recipe.write_text(RECIPE.replace("steps: 2", "steps: 1"))
    call(
        "train",
        str(recipe),
        "--data",
        str(packs),
        "--run",
        str(tmp_path / "run"),
        "--bundle",
        str(bundle),
        "--workers",
        "0",
    )
    facts = load_bundle(bundle)
    network = load_network(facts)
    crops = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (facts.input.mean, facts.input.std))
    with torch.no_grad():
        expected = network((crops.permute(0, 3, 1, 2) / 255 - mean) / std)
    answer = Teacher(str(bundle), "cpu")(crops)
    assert torch.allclose(answer, expected, atol=1e-4)
    larger = torch.nn.functional.interpolate(crops.permute(0, 3, 1, 2).float(), scale_factor=2, mode="nearest")
    again = Teacher(str(bundle), "cpu")(larger.permute(0, 2, 3, 1).to(torch.uint8))
    assert torch.allclose(again, expected, atol=0.3)


def test_several_teachers_answer_with_the_mean_of_their_logits_and_the_firsts_features() -> None:
    names = ("shipped:efficientnet_lite2_dfdc", "shipped:efficientnet_lite0_dfdc")
    apart = [open_teacher([name], "cpu") for name in names]
    panel, turned = open_teacher(names, "cpu"), open_teacher(names[::-1], "cpu")
    side_px = apart[0].size_px
    crops = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, side_px, side_px, 3)).astype(np.uint8))
    answers = [teacher(crops) for teacher in apart]
    assert not torch.allclose(*answers, atol=0.01)
    assert torch.allclose(panel(crops), sum(answers) / 2, atol=1e-5)
    assert torch.equal(panel.features, apart[0].features)
    assert all(map(torch.equal, panel.maps(crops), apart[0].maps(crops)))
    assert panel.weights_sha256 == "+".join(teacher.weights_sha256 for teacher in apart) != turned.weights_sha256
    assert panel.conventions.count(apart[0].conventions) == len(apart)
