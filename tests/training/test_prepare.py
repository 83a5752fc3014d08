from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from dfwatch.errors import MediaError, TrainingError, UndecodableError
from dfwatch.reasons import Reason
from dfwatch.training import layouts
from dfwatch.training.crops import CutSpec, Source
from dfwatch.training.packs import Pack
from dfwatch.training.prepare import PrepareOptions, contact_sheet, prepare, summary_table
from dfwatch.training.records import Record
from dfwatch.training.splits import SPLITS, SplitRule, check_disjoint, take
from tests.training.made import face_like, jpeg, record

WHOLE = CutSpec(whole=True)


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def by_video(sources: list[Source]) -> dict[str, Source]:
    return {source.video: source for source in sources}


def test_faceforensics_pairs_stay_together_and_follow_the_split_files(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *(f"original_sequences/youtube/c23/videos/{name}.mp4" for name in ("000", "003", "007")),
        *(f"manipulated_sequences/{kind}/c23/videos/000_003.mp4" for kind in ("Deepfakes", "FaceSwap")),
        "manipulated_sequences/Deepfakes/c23/videos/003_000.mp4",
    )
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "test.json").write_text(json.dumps([["000", "003"]]))
    assert layouts.detect(str(tmp_path)) == "ffpp"
    sources = layouts.scan("ffpp", str(tmp_path))
    pair = [source for source in sources if "007" not in source.video]
    assert {source.group for source in pair} == {"ffpp:000+003"}
    assert {source.split for source in pair} == {"test"}
    assert {source.manipulation for source in sources} == {"", "Deepfakes", "FaceSwap"}
    assert [source.split for source in sources if "007" in source.video] == [""]


def test_faceforensics_actors_are_one_group_each_by_their_body(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "original_sequences/actors/c23/videos/01__exit_phone_room.mp4",
        "original_sequences/actors/c23/videos/01__walking_outside.mp4",
        "original_sequences/actors/c23/videos/02__exit_phone_room.mp4",
        "manipulated_sequences/DeepFakeDetection/c23/videos/01_02__exit_phone_room__YVGY8LOK.mp4",
    )
    sources = layouts.scan("ffpp", str(tmp_path))
    groups = {Path(source.path).name: source.group for source in sources}
    assert groups == {
        "01__exit_phone_room.mp4": "ffpp:actor01",
        "01__walking_outside.mp4": "ffpp:actor01",
        "02__exit_phone_room.mp4": "ffpp:actor02",
        "01_02__exit_phone_room__YVGY8LOK.mp4": "ffpp:actor01",
    }
    assert {source.split for source in sources} == {""}


def test_celeb_df_one_means_real_and_tested_identities_stay_out_of_training(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "Celeb-real/id0_0001.mp4",
        "Celeb-real/id0_0002.mp4",
        "Celeb-real/id5_0001.mp4",
        "Celeb-synthesis/id0_id5_0001.mp4",
        "Celeb-synthesis/id5_id0_0001.mp4",
        "Celeb-synthesis/id5_id6_0001.mp4",
        "YouTube-real/00001.mp4",
    )
    listed = "1 Celeb-real/id0_0001.mp4\n0 Celeb-synthesis/id0_id5_0001.mp4\n"
    (tmp_path / "List_of_testing_videos.txt").write_text(listed)
    assert layouts.detect(str(tmp_path)) == "celebdf"
    found = by_video(layouts.scan("celebdf", str(tmp_path)))
    assert found["Celeb-real/id0_0001.mp4"].label == "REAL"
    assert found["Celeb-synthesis/id0_id5_0001.mp4"].label == "FAKE"
    assert found["Celeb-real/id0_0001.mp4"].split == "test"
    assert "Celeb-real/id0_0002.mp4" not in found
    # The body of id5 is in no listed video; with the face of id0 it would show a tested identity all the same.
    assert "Celeb-synthesis/id5_id0_0001.mp4" not in found
    assert found["Celeb-synthesis/id5_id6_0001.mp4"].group == "celebdf:id5"
    assert found["Celeb-real/id5_0001.mp4"].split == ""
    assert found["YouTube-real/00001.mp4"].group == "celebdf:00001"


def test_a_list_that_contradicts_the_folders_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "Celeb-real/id0_0001.mp4")
    (tmp_path / "List_of_testing_videos.txt").write_text("0 Celeb-real/id0_0001.mp4\n")
    with pytest.raises(TrainingError, match="listed as FAKE"):
        layouts.scan("celebdf", str(tmp_path))


def test_dfdc_groups_a_fake_with_its_original(tmp_path: Path) -> None:
    touch(tmp_path, "part_0/real.mp4", "part_0/fake.mp4")
    meta = {
        "real.mp4": {"label": "REAL", "split": "train"},
        "fake.mp4": {"label": "FAKE", "original": "real.mp4"},
        "absent.mp4": {"label": "FAKE", "original": "real.mp4"},
    }
    (tmp_path / "part_0" / "metadata.json").write_text(json.dumps(meta))
    assert layouts.detect(str(tmp_path)) == "dfdc"
    found = layouts.scan("dfdc", str(tmp_path))
    assert {(source.video, source.label, source.group) for source in found} == {
        ("real.mp4", "REAL", "real.mp4"),
        ("fake.mp4", "FAKE", "real.mp4"),
    }


def test_plain_folders_group_files_that_share_a_beginning(tmp_path: Path) -> None:
    touch(tmp_path, "real/anna.mp4", "fake/anna_swapped.mp4", "fake/bert.mov", "real/notes.txt")
    assert layouts.detect(str(tmp_path)) == "folders"
    found = by_video(layouts.scan("folders", str(tmp_path)))
    assert found["fake/anna_swapped.mp4"].group == found["real/anna.mp4"].group
    assert found["fake/bert.mov"].group != found["real/anna.mp4"].group
    assert len(found) == 3


def test_trees_of_splits_keep_their_parts(tmp_path: Path) -> None:
    touch(tmp_path, "Train/Real/a.png", "Validation/Fake/b.png", "test/fake/c.png")
    assert layouts.detect(str(tmp_path)) == "splits"
    found = layouts.scan("splits", str(tmp_path))
    assert {(source.label, source.split) for source in found} == {
        ("REAL", "train"), ("FAKE", "select"), ("FAKE", "test"),
    }  # fmt: skip


def test_files_of_one_name_in_two_parts_are_two_groups(tmp_path: Path) -> None:
    touch(tmp_path, "train/real/0001.jpg", "train/fake/0001_swap.jpg", "test/real/0001.jpg")
    found = by_video(layouts.scan("splits", str(tmp_path)))
    assert set(found) == {"train/real/0001.jpg", "train/fake/0001_swap.jpg", "test/real/0001.jpg"}
    assert found["train/fake/0001_swap.jpg"].group == found["train/real/0001.jpg"].group
    assert found["test/real/0001.jpg"].group != found["train/real/0001.jpg"].group
    assert {source.source for source in found.values()} == {tmp_path.name}


def test_a_table_says_it_all(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("path,label,group,manipulation,split\na.mp4,real,g1,,val\nsub/b.mp4,FAKE,g1,faceswap,\n")
    first, second = layouts.scan("csv", str(path))
    assert (first.label, first.split, first.source) == ("REAL", "select", "mine")
    assert (second.group, second.manipulation, second.path) == ("g1", "faceswap", str(tmp_path / "sub/b.mp4"))
    path.write_text("path,label\na.mp4,unsure\n")
    with pytest.raises(TrainingError, match="'unsure' is neither REAL nor FAKE"):
        layouts.scan("csv", str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00\x00\x00\x20ftypisom\xff\xfe\x00", "it is not a CSV"),
        (b"path,label,face_px\na.mp4,real,big\n", "'big' is no whole number"),
    ],
)
def test_what_is_no_table_is_said_so(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(TrainingError, match=message):
        layouts.scan("csv", str(path))


def test_an_unknown_layout_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="write a CSV"):
        layouts.detect(str(tmp_path))


@pytest.fixture
def pictures(tmp_path: Path) -> list[Source]:
    rng = np.random.default_rng(0)
    sources = []
    for number in range(25):
        path = tmp_path / "in" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(jpeg(face_like(rng)))
        label = "FAKE" if number % 2 else "REAL"
        sources.append(Source(path=str(path), label=label, group=f"g{number // 2}", source="made", video=path.name))
    return sources


def test_a_killed_run_goes_on_and_ends_as_a_whole_one(tmp_path: Path, pictures: list[Source]) -> None:
    class KilledError(Exception):
        pass

    def kill(done: int, _total: int) -> None:
        if done >= 14:
            raise KilledError

    broken = PrepareOptions(folder=str(tmp_path / "broken"), cut=WHOLE, chunk=7)
    with pytest.raises(KilledError):
        prepare(pictures, broken, progress=kill)
    done: list[int] = []
    # The finished pieces' pictures are gone: they must not be read again.
    for source in pictures[:14]:
        Path(source.path).rename(f"{source.path}.away")
    resumed = prepare(pictures, broken, progress=lambda number, _: done.append(number))
    for source in pictures[:14]:
        Path(f"{source.path}.away").rename(source.path)
    whole = prepare(pictures, PrepareOptions(folder=str(tmp_path / "whole"), cut=WHOLE, chunk=100))
    assert resumed.records == whole.records
    assert len(whole.records) == 25
    assert not (tmp_path / "broken" / "parts").exists()


def test_pieces_of_other_work_are_not_mixed_in(tmp_path: Path, pictures: list[Source]) -> None:
    options = PrepareOptions(folder=str(tmp_path / "out"), cut=WHOLE, chunk=7)

    def kill(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(pictures, options, progress=kill)
    with pytest.raises(TrainingError, match="pieces of other work"):
        prepare(pictures[:-1], options)


def test_unreadable_videos_are_counted_and_named(tmp_path: Path) -> None:
    sources = [
        Source(path=f"/nowhere/{name}.mp4", label="REAL", group=name, source="made", video=f"{name}.mp4")
        for name in ("good", "broken", "empty")
    ]

    def cut(source: Source) -> Iterator[tuple[bytes, Record]]:
        if source.group == "broken":
            raise UndecodableError("reading", source.video, "no frames", reason=Reason.NO_FRAMES)
        if source.group == "good":
            yield jpeg(face_like(np.random.default_rng(0))), record("good-000", "REAL", "good")

    done = prepare(sources, PrepareOptions(folder=str(tmp_path / "out")), cut_video=cut)
    assert (len(done.records), done.without_face, done.failed) == (1, 1, {"broken.mp4": "no frames"})
    assert issubclass(UndecodableError, MediaError)


def test_a_picture_without_a_face_gives_no_crop_unless_kept_whole(tmp_path: Path, pictures: list[Source]) -> None:
    with pytest.raises(TrainingError, match="no face was found in 3 sources"):
        prepare(pictures[:3], PrepareOptions(folder=str(tmp_path / "faces")))
    kept = prepare(pictures[:3], PrepareOptions(folder=str(tmp_path / "whole"), cut=WHOLE))
    assert [item.landmarks for item in kept.records] == [(), (), ()]


def test_summary_and_contact_sheet(pack: Pack, tmp_path: Path) -> None:
    table = summary_table(pack.records, SplitRule())
    rows = [line.split() for line in table.splitlines()[1:]]
    assert sum(int(row[3]) for row in rows) == len(pack.records)
    assert {row[2] for row in rows} == {"train", "select", "test"}
    contact_sheet(pack, str(tmp_path / "sheet.jpg"))
    sheet = cv2.imread(str(tmp_path / "sheet.jpg"))
    assert sheet is not None
    assert sheet.std() > 20


def test_no_group_of_a_prepared_pack_crosses_a_split(pack: Pack) -> None:
    check_disjoint([take(pack.records, split, SplitRule(), frozenset()) for split in SPLITS])


def test_crops_are_stored_as_webp_of_the_size_asked_for(tmp_path: Path, pictures: list[Source]) -> None:
    folders = {}
    for codec, suffix, magic in (("jpeg", ".jpg", b"\xff\xd8"), ("webp", ".webp", b"RIFF")):
        cut = CutSpec(whole=True, size_px=40, codec=codec, quality=80)  # type: ignore[arg-type]
        options = PrepareOptions(folder=str(tmp_path / codec), cut=cut)
        made = prepare(pictures, options)
        pack = Pack(options.folder)
        assert all(item.name.endswith(suffix) for item in made.records)
        assert all(pack.encoded(item).startswith(magic) for item in pack.records)
        folders[codec] = [pack.picture(item).astype(int) for item in pack.records]
    assert all(picture.shape == (40, 40, 3) for picture in folders["webp"])
    assert np.mean([np.abs(a - b).mean() for a, b in zip(*folders.values(), strict=True)]) < 8
