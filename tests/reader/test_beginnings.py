"""Files whose beginning is missing: damaged, where the rest tells what they were; nothing else is called that."""

from __future__ import annotations

import io
import tarfile
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfwatch.decode.beginnings import without_beginning
from dfwatch.errors import MediaError, RefusedError, UndecodableError
from dfwatch.reasons import Reason
from tests.clips import make_clip, make_still
from tests.reader.helpers import read

if TYPE_CHECKING:
    from pathlib import Path

CLIPS: dict[str, dict[str, Any]] = {
    "last.mp4": {},
    "first.mp4": {"container_options": {"movflags": "faststart"}},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov+default_base_moof"}},
    "part2.mov": {"codec": "mpeg4"},
    "a.mkv": {},
    "b.webm": {"codec": "libvpx"},
    "c.avi": {"codec": "mpeg4"},
    "d.avi": {"codec": "mjpeg"},
}
DAMAGES = ("zero 1024", "zero 20000", "cut 1024", "cut 64", "cut 20001")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("beginnings")


def whole(folder: Path, name: str) -> bytes:
    path = folder / name
    return (path if path.exists() else make_clip(path, seconds=6, faces=(), **CLIPS[name])).read_bytes()


def damaged(data: bytes, damage: str) -> bytes:
    what, count = damage.split()
    return (bytes(int(count)) if what == "zero" else b"") + data[int(count) :]


def ask(data: bytes) -> str | None:
    return without_beginning(lambda offset, count: data[offset : offset + count], len(data))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", CLIPS)
def test_a_video_whose_beginning_is_missing_is_damaged(folder: Path, name: str, damage: str) -> None:
    data = damaged(whole(folder, name), damage)
    if name == "first.mp4" and damage.endswith(("20000", "20001")):
        # Nothing is left but coded pictures.
        assert ask(data) is None
        return
    path = folder / f"damaged-{name}"
    path.write_bytes(data)

    with pytest.raises(UndecodableError, match=r"its beginning is missing or overwritten") as caught:
        read(path)

    assert caught.value.reason is Reason.CORRUPT
    kind = {"mkv": "Matroska", "webm": "Matroska", "avi": "AVI"}.get(name.rpartition(".")[2], "MP4")
    assert kind in caught.value.cause


@pytest.mark.parametrize("name", CLIPS)
def test_a_whole_file_of_a_format_that_is_not_allowed_is_not_damaged(folder: Path, name: str) -> None:
    whole(folder, name)
    with pytest.raises(RefusedError) as caught:
        read(folder / name, formats=["ogg"])
    assert caught.value.reason is Reason.FORMAT_NOT_ALLOWED


def zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("video", data)
    return file.getvalue()


def tarred(data: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("video")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


WRAPPED = {
    "zip": zipped,
    "tar": tarred,
    "behind a program": lambda data: b"\x7fELF" + bytes(200) + data,
    "with a trailer": lambda data: bytes(100) + data[100:] + b"trailer",
    "cut off": lambda data: bytes(100) + data[100:-100],
}


@pytest.mark.parametrize("how", WRAPPED)
@pytest.mark.parametrize("name", CLIPS)
def test_a_video_in_another_file_is_not_called_damaged(folder: Path, name: str, how: str) -> None:
    assert ask(WRAPPED[how](whole(folder, name))) is None


@pytest.mark.parametrize(
    "data",
    [b"moov mdat moof idx1 LIST movi " * 99, b"\0" * 9000, bytes(range(256)) * 50, b"\x1f\x43\xb6\x75" * 90, b"x", b""],
)
def test_what_is_no_video_is_not_called_one(tmp_path: Path, data: bytes) -> None:
    assert ask(data) is None
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    with pytest.raises(MediaError) as caught:
        read(path)
    assert caught.value.reason in {Reason.EMPTY, Reason.UNKNOWN_FORMAT, Reason.FORMAT_NOT_ALLOWED}


def test_pictures_are_not_called_videos(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "a.webp"):
        assert ask(damaged(make_still(tmp_path / name).read_bytes(), "zero 64")) is None


def test_endless_parts_are_given_up_soon() -> None:
    # Every box leads to the next one, and from none of them to the end.
    data = b"\xff" * 64 + b"\0\0\0\x08moof" * 100_000 + b"x"
    reads = 0

    def read_at(offset: int, count: int) -> bytes:
        nonlocal reads
        reads += 1
        return data[offset : offset + count]

    assert without_beginning(read_at, len(data)) is None
    assert reads < 70_000


PARTS = [b"moof", b"mdat", b"\x1f\x43\xb6\x75", b"LIST\0\0\0\0movi", b"idx1", b"\0\0\0\1mdat", b"\xec", b"\0\0\0\x08"]


@settings(max_examples=300, deadline=None)
@given(data=st.lists(st.sampled_from(PARTS) | st.binary(max_size=12), max_size=60))
def test_no_bytes_make_it_fail(data: list[bytes]) -> None:
    assert ask(b"\xff" * 64 + b"".join(data)) in {
        None,
        "an MP4 or QuickTime file",
        "a Matroska or WebM file",
        "an AVI file",
    }
