from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest

from dfwatch.config import STILL_EXTENSIONS, VIDEO_EXTENSIONS
from dfwatch.errors import TrainingError
from dfwatch.training import layouts
from dfwatch.training.crops import Source
from dfwatch.training.frames import is_video
from dfwatch.training.splits import SplitRule


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
    sources = layouts.scan("ffpp", str(tmp_path)).sources
    pair = [source for source in sources if "007" not in source.video]
    assert {source.group for source in pair} == {"ffpp:000+003"}
    assert {source.split for source in pair} == {"test"}
    assert {source.manipulation for source in sources} == {"", "Deepfakes", "FaceSwap"}
    assert [source.split for source in sources if "007" in source.video] == [""]


def test_faceforensics_pairs_stay_together_without_split_files_and_masks_are_no_fakes(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *(f"original_sequences/youtube/c23/videos/{name}.mp4" for name in ("000", "003", "007")),
        *(f"manipulated_sequences/Deepfakes/{kind}/videos/000_003.mp4" for kind in ("c23", "masks")),
    )
    found = layouts.scan("ffpp", str(tmp_path))
    assert {Path(source.path).stem: source.group for source in found.sources} == {
        "000": "ffpp:000+003", "003": "ffpp:000+003", "000_003": "ffpp:000+003", "007": "ffpp:007",
    }  # fmt: skip
    assert not any("masks" in source.path for source in found.sources)
    assert found.left_out == {"masks": 1}


def test_faceforensics_actors_are_one_group_each_by_their_body(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "original_sequences/actors/c23/videos/01__exit_phone_room.mp4",
        "original_sequences/actors/c23/videos/01__walking_outside.mp4",
        "original_sequences/actors/c23/videos/02__exit_phone_room.mp4",
        "manipulated_sequences/DeepFakeDetection/c23/videos/01_02__exit_phone_room__YVGY8LOK.mp4",
    )
    sources = layouts.scan("ffpp", str(tmp_path)).sources
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
    found = by_video(layouts.scan("celebdf", str(tmp_path)).sources)
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
    found = layouts.scan("dfdc", str(tmp_path)).sources
    assert {(source.video, source.label, source.group) for source in found} == {
        ("real.mp4", "REAL", "real.mp4"),
        ("fake.mp4", "FAKE", "real.mp4"),
    }


def test_plain_folders_group_files_that_share_a_beginning(tmp_path: Path) -> None:
    touch(tmp_path, "real/anna.mp4", "fake/anna_swapped.mp4", "fake/bert.mov", "real/notes.txt")
    assert layouts.detect(str(tmp_path)) == "folders"
    found = by_video(layouts.scan("folders", str(tmp_path)).sources)
    assert found["fake/anna_swapped.mp4"].group == found["real/anna.mp4"].group
    assert found["fake/bert.mov"].group != found["real/anna.mp4"].group
    assert len(found) == 3


def test_trees_of_splits_keep_their_parts(tmp_path: Path) -> None:
    touch(tmp_path, "Train/Real/a.png", "Validation/Fake/b.png", "test/fake/c.png")
    assert layouts.detect(str(tmp_path)) == "splits"
    found = layouts.scan("splits", str(tmp_path)).sources
    assert {(source.label, source.split) for source in found} == {
        ("REAL", "train"), ("FAKE", "select"), ("FAKE", "test"),
    }  # fmt: skip


def test_files_of_one_name_in_two_parts_are_two_groups(tmp_path: Path) -> None:
    touch(tmp_path, "train/real/0001.jpg", "train/fake/0001_swap.jpg", "test/real/0001.jpg")
    found = by_video(layouts.scan("splits", str(tmp_path)).sources)
    assert set(found) == {"train/real/0001.jpg", "train/fake/0001_swap.jpg", "test/real/0001.jpg"}
    assert found["train/fake/0001_swap.jpg"].group == found["train/real/0001.jpg"].group
    assert found["test/real/0001.jpg"].group != found["train/real/0001.jpg"].group
    assert {source.source for source in found.values()} == {tmp_path.name}


def test_a_table_says_it_all(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("path,label,group,manipulation,split\na.mp4,real,g1,,val\nsub/b.mp4,FAKE,g1,faceswap,\n")
    first, second = layouts.scan("csv", str(path)).sources
    assert (first.label, first.split, first.source) == ("REAL", "select", "mine")
    assert (second.group, second.manipulation, second.path) == ("g1", "faceswap", str(tmp_path / "sub/b.mp4"))
    path.write_text("path,label\na.mp4,unsure\n")
    with pytest.raises(TrainingError, match="'unsure' is neither REAL nor FAKE"):
        layouts.scan("csv", str(path))


def test_a_table_from_a_spreadsheet_keeps_its_groups_and_splits(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes("\ufeffPath, Label,Group ,SPLIT\r\na.mp4, Real,g1 ,Test\r\n,,,\r\n".encode())
    (only,) = layouts.scan("csv", str(path)).sources
    assert (only.label, only.group, only.split, only.path) == ("REAL", "g1", "test", str(tmp_path / "a.mp4"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00\x00\x00\x20ftypisom\xff\xfe\x00", "it is not a CSV"),
        (b"path,label,face_px\na.mp4,real,big\n", "'big' is no whole number"),
        (b"path;label\r\na.mp4;REAL\r\n", "no column path and no column label .columns are divided by commas"),
        (b"path,class\na.mp4,REAL\n", "names no column label"),
        (b"", "names no column path"),
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


def parts_of_videos(sources: list[Source]) -> dict[str, set[str]]:
    """The parts that each video's frames are dealt to, by folder or beginning of the name."""
    parts = defaultdict(set)
    for source in sources:
        parts[source.video].add(SplitRule().of_record(source))
    return parts


@pytest.mark.parametrize(
    "name",
    ["{label}/{video}/{frame}.png", "{label}/{video}_{frame}.jpg", "{label}/{video}/frames/f-{frame}.png"],
)
def test_frames_of_a_video_stay_together(tmp_path: Path, name: str) -> None:
    videos = [pair for number in range(20) for pair in (("real", f"clip{number}"), ("fake", f"clip{number}_swap"))]
    touch(
        tmp_path,
        *(name.format(label=label, video=video, frame=f"{frame:04d}") for label, video in videos for frame in range(5)),
    )
    sources = layouts.scan("folders", str(tmp_path)).sources
    parts = parts_of_videos(sources)
    assert len(parts) == 40
    assert all(len(found) == 1 for found in parts.values())
    assert {source.group for source in sources} == {f"{tmp_path.name}:clip{number}" for number in range(20)}


def test_numbered_pictures_without_another_name_stand_for_themselves(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{label}/{label}_{number:05d}.jpg" for label in ("real", "fake") for number in range(10)))
    sources = layouts.scan("folders", str(tmp_path)).sources
    assert len({source.group for source in sources}) == 20


def test_what_other_systems_leave_in_folders_is_no_data(tmp_path: Path) -> None:
    names = [f"{label}/{label}_{number}.jpg" for label in ("real", "fake") for number in range(3)]
    touch(tmp_path, *names, "real/._real_0.jpg", "real/@eaDir/real_0.jpg/SYNOPHOTO_THUMB_M.jpg", "fake/.cache/x.mp4")
    found = layouts.scan("folders", str(tmp_path))
    assert sorted(source.video for source in found.sources) == sorted(names)
    # One more name beside theirs would have made frames of one video of all reals.
    assert len({source.group for source in found.sources}) == 6
    assert sum(found.left_out.values()) == 1


def test_a_folder_of_another_name_is_not_left_out_without_a_word(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.mp4", "fake/b.mp4", "fakes_2/c.mp4", ".git/x")
    left_out = layouts.scan("folders", str(tmp_path)).left_out
    assert left_out == {"folder that is called neither real nor fake: fakes_2/": 1}
    touch(tmp_path, "test/real/a.mp4", "test/faked/b.mp4")
    assert layouts.detect(str(tmp_path)) == "splits"
    assert layouts.scan("splits", str(tmp_path)).left_out == {
        "folder that is called neither real nor fake: test/faked/": 1,
        **{f"folder beside the parts: {name}/": 1 for name in ("fake", "fakes_2", "real")},
    }


def test_links_are_followed_into_each_folder_once(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/a.mp4", "set/fake/b.mp4", "set/real/train/c.mp4")
    (tmp_path / "set/real/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/round").symlink_to(tmp_path / "set/real")
    found = layouts.scan("folders", str(tmp_path / "set")).sources
    assert sorted((source.video, source.split) for source in found) == [
        ("fake/b.mp4", ""), ("real/more/a.mp4", ""), ("real/train/c.mp4", "train"),
    ]  # fmt: skip


def test_every_ending_that_the_service_takes_is_taken(tmp_path: Path) -> None:
    touch(tmp_path, *(f"real/{ending}.{ending.upper()}" for ending in (*VIDEO_EXTENSIONS, *STILL_EXTENSIONS)))
    found = layouts.scan("folders", str(tmp_path)).sources
    assert {Path(source.path).stem for source in found} == {*VIDEO_EXTENSIONS, *STILL_EXTENSIONS}
    assert all(is_video(f"a.{ending}") for ending in VIDEO_EXTENSIONS)


@pytest.mark.parametrize("metadata", ['[{"id": 1}]', '{"title": "ours"}', '{"a.mp4": "REAL"}'])
def test_metadata_of_something_else_is_told_from_dfdcs(tmp_path: Path, metadata: str) -> None:
    touch(tmp_path, "real/a.mp4", "fake/b.mp4")
    (tmp_path / "real" / "metadata.json").write_text(metadata)
    with pytest.raises(TrainingError, match="--layout"):
        layouts.scan(layouts.detect(str(tmp_path)), str(tmp_path))
    assert len(layouts.scan("folders", str(tmp_path)).sources) == 2


@pytest.mark.parametrize("frame", ["{video}/000.png", "{video}/0012.png", "{video}_0012.png"])
def test_frames_of_faceforensics_follow_their_video(tmp_path: Path, frame: str) -> None:
    below = ("original_sequences/youtube/c23/frames", "manipulated_sequences/Deepfakes/c23/frames")
    touch(tmp_path, f"{below[0]}/{frame.format(video='071')}", f"{below[1]}/{frame.format(video='071_054')}")
    (tmp_path / "test.json").write_text(json.dumps([["071", "054"]]))
    real, fake = sorted(layouts.scan("ffpp", str(tmp_path)).sources, key=lambda source: source.label, reverse=True)
    assert (real.group, fake.group) == ("ffpp:054+071", "ffpp:054+071")
    assert (real.split, fake.split) == ("test", "test")
    assert (Path(real.video).name, Path(fake.video).name) == ("071", "071_054")


def test_pictures_of_no_known_name_stand_for_themselves_or_for_their_folder(tmp_path: Path) -> None:
    names = ("0001.png", "odd/0001.png", "odd/0002.png", "odd_0003.png")
    touch(tmp_path, *(f"original_sequences/{name}" for name in names))
    found = layouts.scan("ffpp", str(tmp_path)).sources
    assert [source.group for source in found] == ["ffpp:0001", "ffpp:odd", "ffpp:odd", "ffpp:odd"]


@pytest.mark.parametrize("frame", ["{video}/0007.png", "{video}_0007.png"])
def test_frames_of_celeb_df_follow_their_video_and_the_list(tmp_path: Path, frame: str) -> None:
    names = ("Celeb-real/{}", "id0_0001"), ("Celeb-synthesis/{}", "id3_id5_0004"), ("YouTube-real/{}", "00012")
    touch(tmp_path, *(folder.format(frame.format(video=video)) for folder, video in names))
    (tmp_path / "List_of_testing_videos.txt").write_text("1 Celeb-real/id0_0001.mp4\n")
    found = by_video(layouts.scan("celebdf", str(tmp_path)).sources)
    assert {video: (source.group, source.split) for video, source in found.items()} == {
        "Celeb-real/id0_0001.mp4": ("celebdf:id0", "test"),
        "Celeb-synthesis/id3_id5_0004.mp4": ("celebdf:id3", ""),
        "YouTube-real/00012.mp4": ("celebdf:00012", ""),
    }


def test_split_folders_below_the_labels_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "real/train/a.mp4", "fake/train/a_swap.mp4", "real/test/a.mp4", "fake/b.mp4")
    found = by_video(layouts.scan("folders", str(tmp_path)).sources)
    assert {video: source.split for video, source in found.items()} == {
        "real/train/a.mp4": "train", "fake/train/a_swap.mp4": "train", "real/test/a.mp4": "test", "fake/b.mp4": "",
    }  # fmt: skip
    assert found["real/train/a.mp4"].group == found["fake/train/a_swap.mp4"].group
    assert found["real/train/a.mp4"].group != found["real/test/a.mp4"].group


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    touch(tmp_path, "there.mp4")
    meta = {name: {"label": "REAL"} for name in ("there.mp4", "gone.mp4", "lost.mp4")}
    (tmp_path / "metadata.json").write_text(json.dumps(meta))
    assert dict(layouts.scan("dfdc", str(tmp_path)).left_out) == {"named in metadata.json that are not there": 2}
    touch(tmp_path, "Celeb-real/id0_0001.mp4", "Celeb-real/id0_0002.mp4")
    (tmp_path / "List_of_testing_videos.txt").write_text("1 Celeb-real/id0_0001.mp4\n")
    assert sum(layouts.scan("celebdf", str(tmp_path)).left_out.values()) == 1


@pytest.mark.parametrize("word", ["dev", "holdout", "eval"])
def test_a_split_of_unknown_name_is_refused_and_never_dealt(tmp_path: Path, word: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(f"path,label,split\na.mp4,real,Test \nb.mp4,real,{word}\n")
    with pytest.raises(TrainingError, match=f"'{word}' is none of train, select, test"):
        layouts.scan("csv", str(path))
    path.write_text("path,label,split\na.mp4,real,Test \n")
    assert layouts.scan("csv", str(path)).sources[0].split == "test"
