from __future__ import annotations

from pathlib import Path

import pytest

from dfwatch.training import layouts
from tools import public_data


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def rows(name: str, folder: Path, table: Path) -> list[layouts.Source]:
    assert public_data.main([name, str(folder), str(table)]) == 0
    return layouts.scan("csv", str(table)).sources


def test_a_dfdc_fake_and_its_source_are_one_group_under_the_sources_file_name(tmp_path: Path) -> None:
    touch(tmp_path, *(f"dfdc/faces_224/{name}.jpg" for name in ("real", "fake", "lone")))
    (tmp_path / "dfdc" / "metadata.csv").write_text(
        "videoname,original_width,original_height,label,original\n"
        "real.mp4,120,118,REAL,\nfake.mp4,96,96,FAKE,real.mp4\nlone.mp4,96,96,FAKE,gone.mp4\n"
        "nocrop.mp4,96,96,FAKE,real.mp4\n"
    )
    (tmp_path / "tables").mkdir()
    found = {source.video: source for source in rows("dfdc", tmp_path / "dfdc", tmp_path / "tables" / "dfdc.csv")}
    assert {name: (source.label, source.group, source.face_px) for name, source in found.items()} == {
        "real.mp4": ("REAL", "real.mp4", 120),
        "fake.mp4": ("FAKE", "real.mp4", 96),
        "lone.mp4": ("FAKE", "gone.mp4", 96),
    }
    assert all(Path(source.path).read_bytes() == b"x" for source in found.values())


def test_a_dfdc_fake_without_a_source_is_not_guessed_at(tmp_path: Path) -> None:
    touch(tmp_path, "faces_224/fake.jpg")
    (tmp_path / "metadata.csv").write_text("videoname,original_width,label,original\nfake.mp4,96,FAKE,NaN\n")
    with pytest.raises(SystemExit, match=r"fake\.mp4 is neither"):
        public_data.main(["dfdc", str(tmp_path), str(tmp_path / "dfdc.csv")])
    assert not (tmp_path / "dfdc.csv").exists()


def test_people_of_a_held_out_set_can_be_left_out(tmp_path: Path) -> None:
    touch(tmp_path / "frames", "training/Al_Gore_10.jpg")
    touch(tmp_path / "lfw", "Al_Gore/Al_Gore_0001.jpg", "Bo_Li/Bo_Li_0001.jpg")
    frames = str(tmp_path / "udacity.csv")
    assert public_data.main(["udacity", str(tmp_path / "frames"), frames]) == 0
    assert public_data.main(["lfw", str(tmp_path / "lfw"), str(tmp_path / "lfw.csv"), "--leave-out", frames]) == 0
    assert {source.group for source in layouts.scan("csv", str(tmp_path / "lfw.csv")).sources} == {"Bo_Li"}


@pytest.mark.parametrize(
    ("name", "files", "groups"),
    [
        ("lfw", ("Al_Gore/Al_Gore_0001.jpg", "Al_Gore/Al_Gore_0002.jpg", "Bo/Bo_0001.jpg"), {"Al_Gore", "Bo"}),
        ("udacity", ("training/Al_Gore_10.jpg", "test/Al_Gore_21.jpg", "test/Bo_Li_00.jpg"), {"Al_Gore", "Bo_Li"}),
        ("utkface", ("1_0.jpg.chip.jpg", "2_0.jpg.chip.jpg"), {"1_0.jpg.chip.jpg", "2_0.jpg.chip.jpg"}),
    ],
)
def test_real_faces_are_grouped_by_who_they_show(
    tmp_path: Path, name: str, files: tuple[str, ...], groups: set[str]
) -> None:
    touch(tmp_path / "in", *files)
    found = rows(name, tmp_path / "in", tmp_path / f"{name}.csv")
    assert {source.group for source in found} == groups
    assert {source.label for source in found} == {"REAL"}
    assert len(found) == len(files)


def test_frames_of_one_youtube_video_belong_together(tmp_path: Path) -> None:
    touch(tmp_path / "in", "training/Bo_Li_10.jpg", "training/Bo_Li_12.jpg", "training/Bo_Li_21.jpg")
    assert [source.video for source in rows("udacity", tmp_path / "in", tmp_path / "u.csv")] == [
        "Bo_Li_1",
        "Bo_Li_1",
        "Bo_Li_2",
    ]


def test_an_empty_folder_leaves_no_table(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no pictures"):
        public_data.main(["lfw", str(tmp_path), str(tmp_path / "lfw.csv")])
    assert list(tmp_path.iterdir()) == []
