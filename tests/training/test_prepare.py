from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from dfwatch.errors import MediaError, ReaderStartError, TrainingError, UndecodableError
from dfwatch.reasons import Reason
from dfwatch.training.crops import CutSpec, Source
from dfwatch.training.packs import Pack, PackWriter
from dfwatch.training.prepare import PrepareOptions, contact_sheet, prepare, summary_table
from dfwatch.training.records import Record
from dfwatch.training.splits import SPLITS, SplitRule, check_disjoint, take
from tests.training.made import face_like, jpeg, record

WHOLE = CutSpec(whole=True)


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


def test_a_run_that_was_killed_before_its_first_piece_goes_on(tmp_path: Path, pictures: list[Source]) -> None:
    options = PrepareOptions(folder=str(tmp_path / "out"), cut=WHOLE)
    (tmp_path / "out" / "parts").mkdir(parents=True)
    (tmp_path / "out" / "parts" / "work.sha256.part").write_text("half")
    assert len(prepare(pictures, options).records) == 25


def test_a_run_that_was_killed_while_it_tidied_up_goes_on(
    tmp_path: Path, pictures: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepare(pictures, PrepareOptions(folder=str(tmp_path / "whole"), cut=WHOLE, chunk=13)).records
    out, parts = tmp_path / "out", str(tmp_path / "out" / "parts")
    options = PrepareOptions(folder=str(out), cut=WHOLE, chunk=13)
    unlink, removed, last = os.unlink, 0, 0

    def kill(path: str) -> None:
        nonlocal removed
        if path.startswith(parts) and (out / "index.csv").exists():
            if removed == last:
                raise KeyboardInterrupt
            removed += 1
        unlink(path)

    for last in range(7):  # noqa: B007 - read by kill; two pieces of three files, and what the work is
        removed = 0
        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", kill)
            with pytest.raises(KeyboardInterrupt):
                prepare(pictures, options)
        assert prepare(pictures, options).records == whole
        assert not (out / "parts").exists()


def test_two_at_once_do_not_work_in_one_folder(tmp_path: Path, pictures: list[Source]) -> None:
    options = PrepareOptions(folder=str(tmp_path / "out"), cut=WHOLE, chunk=7)
    asked = []

    def begin_another(done: int, _total: int) -> None:
        with pytest.raises(TrainingError, match="another command is at work in it"):
            prepare(pictures, options)
        asked.append(done)

    assert len(prepare(pictures, options, progress=begin_another).records) == 25
    assert asked == [7, 14, 21, 25]
    assert len(prepare(pictures, options).records) == 25


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path: Path, pictures: list[Source]) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(TrainingError, match=r"opening the folder .*out"):
        prepare(pictures, PrepareOptions(folder=str(tmp_path / "out"), cut=WHOLE))


def test_pieces_of_other_work_are_not_mixed_in(tmp_path: Path, pictures: list[Source]) -> None:
    options = PrepareOptions(folder=str(tmp_path / "out"), cut=WHOLE, chunk=7)

    def kill(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(pictures, options, progress=kill)
    corrected = dataclasses.replace(pictures[3], label="REAL")
    others = (
        (pictures[:-1], options),
        ([*pictures[:3], corrected, *pictures[4:]], options),
        (pictures, dataclasses.replace(options, frames=2)),
    )
    for sources, asked in others:
        with pytest.raises(TrainingError, match="pieces of other work"):
            prepare(sources, asked)
    assert len(prepare(pictures, options).records) == 25


def test_pictures_that_cannot_be_read_are_told_from_those_without_a_face(
    tmp_path: Path, pictures: list[Source]
) -> None:
    for number, content in ((1, b""), (2, b"no picture")):
        Path(pictures[number].path).write_bytes(content)
    Path(pictures[3].path).unlink()
    done = prepare(pictures, PrepareOptions(folder=str(tmp_path / "out"), cut=WHOLE))
    assert (len(done.records), done.without_face) == (22, 0)
    assert {Path(path).name: cause for path, cause in done.failed.items()} == {
        "1.jpg": "it is empty", "2.jpg": "it is no picture", "3.jpg": "No such file or directory",
    }  # fmt: skip
    away = [dataclasses.replace(source, path=f"/nowhere/{source.video}") for source in pictures]
    with pytest.raises(TrainingError, match=r"25 of them unreadable \(No such file or directory\)"):
        prepare(away, PrepareOptions(folder=str(tmp_path / "away"), cut=WHOLE))


@pytest.mark.parametrize("name", ["я" * 57 + ".jpg", os.fsdecode(b"caf\xe9.jpg")])
def test_any_file_name_can_be_packed(tmp_path: Path, pictures: list[Source], name: str) -> None:
    path = Path(pictures[0].path).rename(tmp_path / "in" / name)
    named = dataclasses.replace(pictures[0], path=str(path), video=name, group=name)
    prepare([named, *pictures[1:]], PrepareOptions(folder=str(tmp_path / "out"), cut=WHOLE))
    pack = Pack(str(tmp_path / "out"))
    assert (pack.records[0].video, pack.records[0].group) == (name, name)
    assert pack.picture(pack.records[0]).shape == (64, 64, 3)


def test_a_pack_that_is_made_anew_is_none_until_it_is_whole(tmp_path: Path, pictures: list[Source]) -> None:
    options = PrepareOptions(folder=str(tmp_path / "out"), cut=WHOLE)
    prepare(pictures, options)
    # Shards of the new pack are there, its index is not.
    with contextlib.suppress(KeyboardInterrupt), PackWriter(options.folder) as writer:
        writer.add(jpeg(face_like(np.random.default_rng(9))), record("new", "REAL", "new"))
        raise KeyboardInterrupt
    with pytest.raises(TrainingError, match="reading the index"):
        Pack(options.folder)


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


def test_a_machine_that_starts_no_reader_is_not_held_against_the_videos(tmp_path: Path) -> None:
    source = Source(path="/nowhere/a.mp4", label="REAL", group="a", source="made", video="a.mp4")
    options = PrepareOptions(folder=str(tmp_path / "out"))

    def no_reader(_source: Source) -> Iterator[tuple[bytes, Record]]:
        raise ReaderStartError("starting", "the reader process", "no memory", reason=Reason.READER_CRASHED)

    with pytest.raises(ReaderStartError):
        prepare([source], options, cut_video=no_reader)
    picture = jpeg(face_like(np.random.default_rng(0)))
    done = prepare([source], options, cut_video=lambda _: iter([(picture, record("a-000", "REAL", "a"))]))
    assert (len(done.records), done.failed) == (1, {})


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
