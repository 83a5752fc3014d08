"""What headers declare: real files of real muxers, cut off anywhere, and bytes that mean harm."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from dfwatch.inbox.completeness import Length
from dfwatch.inbox.containers import MAX_READS, Declaration, declared_length
from tests.clips import make_clip, make_still

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def reader(data: bytes) -> Callable[[int, int], bytes]:
    def read_at(offset: int, count: int) -> bytes:
        assert 0 <= count <= 65536
        return data[offset : offset + count]

    return read_at


def ask(data: bytes) -> Declaration:
    return declared_length(reader(data), len(data))


def judge(data: bytes) -> Length:
    return ask(data).compare(len(data))


SMALL = {"seconds": 0.5, "size": (64, 48), "faces": ()}
REAL_FILES: dict[str, dict[str, object]] = {
    "last.mp4": SMALL,
    "first.mp4": SMALL | {"container_options": {"movflags": "faststart"}},
    "clip.mov": SMALL | {"codec": "mpeg4"},
    "clip.mkv": SMALL,
    "clip.webm": SMALL | {"codec": "libvpx"},
    "clip.avi": SMALL | {"codec": "mpeg4"},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("containers")
    made = {name: make_clip(folder / name, **options) for name, options in REAL_FILES.items()}  # type: ignore[arg-type]
    made["picture.png"] = make_still(folder / "picture.png", size=(64, 48))
    made["picture.webp"] = make_still(folder / "picture.webp", size=(64, 48))
    return {name: path.read_bytes() for name, path in made.items()}


NAMES = [*REAL_FILES, "picture.png", "picture.webp"]


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_file_is_whole(files: dict[str, bytes], name: str) -> None:
    assert judge(files[name]) is Length.WHOLE
    assert ask(files[name]).length_bytes == len(files[name])


@pytest.mark.parametrize("name", NAMES)
def test_every_beginning_of_a_file_is_short_once_its_header_is_there(files: dict[str, bytes], name: str) -> None:
    data = files[name]
    header = 64
    answers = {judge(data[:size]) for size in range(header, len(data), max(1, len(data) // 400))}
    assert answers == {Length.SHORT}
    assert Length.WHOLE not in {judge(data[:size]) for size in range(header)}


@pytest.mark.parametrize("name", NAMES)
def test_a_preallocated_file_that_is_half_filled_is_not_whole(files: dict[str, bytes], name: str) -> None:
    data = files[name]
    half = data[: len(data) // 2] + bytes(len(data) - len(data) // 2)
    expected = Length.SHORT if name in {"last.mp4", "clip.mov", "clip.avi", "picture.png"} else Length.WHOLE
    # Formats that only declare their length at the start cannot tell; the blocks and times of the file do.
    assert judge(half) is expected


def test_a_fragmented_file_needs_no_index_at_its_end_but_whole_fragments(tmp_path: Path) -> None:
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    data = make_clip(tmp_path / "fragments.mp4", container_options=options, **SMALL).read_bytes()  # type: ignore[arg-type]
    assert judge(data) is Length.WHOLE
    assert judge(data[:-10]) is Length.SHORT


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_a_preallocated_fragmented_file_that_is_half_filled_is_short(tmp_path: Path, share: float) -> None:
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    path = make_clip(tmp_path / "fragments.mp4", container_options=options, gop=2, **SMALL | {"seconds": 2})  # type: ignore[arg-type]
    data = path.read_bytes()
    filled = int(len(data) * share)
    half = data[:filled] + bytes(len(data) - filled)
    assert judge(half) is Length.SHORT
    assert ask(half).missing == "what follows its last fragment"
    # A whole one may be padded.
    assert judge(data + bytes(5000)) is Length.WHOLE


def box(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (box(b"ftyp", b"isom") + box(b"mdat", bytes(90)), Length.SHORT),
        (box(b"ftyp", b"isom") + box(b"mdat", bytes(90)) + box(b"moov"), Length.WHOLE),
        (box(b"mdat", bytes(90)) + box(b"moov"), Length.WHOLE),
        (box(b"ftyp", b"isom") + struct.pack(">I4s", 0, b"mdat") + bytes(90), Length.SHORT),
        (box(b"moov") + struct.pack(">I4s", 0, b"mdat") + bytes(90), Length.UNKNOWN),
        (box(b"ftyp", b"isom") + struct.pack(">I4sQ", 1, b"mdat", 16) + box(b"moov"), Length.WHOLE),
        (box(b"ftyp", b"isom") + struct.pack(">I4sQ", 1, b"mdat", 2**63) + box(b"moov"), Length.SHORT),
        (box(b"ftyp", b"isom") + struct.pack(">I4sQ", 1, b"mdat", 3) + box(b"moov"), Length.UNKNOWN),
        (box(b"ftyp", b"isom") + struct.pack(">I4s", 5, b"mdat") + box(b"moov"), Length.UNKNOWN),
        (box(b"ftyp", b"avif") + box(b"meta") + box(b"mdat", bytes(9)), Length.WHOLE),
        (box(b"styp", b"msdh") + box(b"moof") + box(b"mdat", bytes(9)), Length.WHOLE),
        (box(b"ftyp", b"isom") + box(b"moov") + box(b"mdat") + b"rubbish behind the last box", Length.SHORT),
        (box(b"ftyp", b"isom") + box(b"moov") + box(b"mdat") + b"junk\xff\xfe\x00\x01rubbish", Length.UNKNOWN),
        (box(b"ftyp", b"isom") + box(b"moov") + box(b"mdat") + bytes(100), Length.WHOLE),
        (box(b"ftyp", b"isom") + box(b"moov") + box(b"mdat") + bytes(9000) + box(b"moof"), Length.UNKNOWN),
        (box(b"ftyp", b"isom") + box(b"mdat") + bytes(9000) + box(b"moov"), Length.SHORT),
        (box(b"ftyp", b"isom") + box(b"moov"), Length.SHORT),
        (box(b"ftyp", b"isom") + box(b"moov") + box(b"moof"), Length.SHORT),
        (box(b"ftyp", b"isom") + box(b"moov") + box(b"moof") + box(b"mdat") + bytes(100), Length.SHORT),
        (box(b"ftyp", b"isom") + box(b"moov") + box(b"moof") + bytes(100), Length.SHORT),
        (box(b"ftyp", b"isom") + box(b"moov") + box(b"moof") + box(b"mdat") + box(b"mfra") + bytes(99), Length.WHOLE),
    ],
)
def test_boxes(data: bytes, expected: Length) -> None:
    assert judge(data) is expected


def riff(form: bytes, body: bytes, length: int | None = None) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + len(body) if length is None else length) + form + body


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (riff(b"AVI ", b"x" * 50), Length.WHOLE),
        (riff(b"AVI ", b"x" * 50) + riff(b"AVIX", b"x" * 70), Length.WHOLE),
        ((riff(b"AVI ", b"x" * 50) + riff(b"AVIX", b"x" * 70))[:-1], Length.SHORT),
        (riff(b"AVI ", b"x" * 51) + b"\0" + riff(b"AVIX", b"x" * 70), Length.WHOLE),
        (riff(b"AVI ", b"x" * 50, 0), Length.SHORT),
        (riff(b"AVI ", b"x" * 50, 0xFFFFFFFF), Length.SHORT),
        (riff(b"WEBP", b"x" * 50) + b"RIFFtrailer....", Length.WHOLE),
        (riff(b"AVI ", b"x" * 50) + b"some other trailer", Length.WHOLE),
    ],
)
def test_riff(data: bytes, expected: Length) -> None:
    assert judge(data) is expected


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


FRAMES = chunk(b"LIST", b"hdrl" + chunk(b"avih", b"h" * 56)) + chunk(b"LIST", b"movi" + b"f" * 901)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (chunk(b"RIFF", b"AVI " + FRAMES + chunk(b"idx1", b"i" * 96)), Length.WHOLE),
        (chunk(b"RIFF", b"AVI " + FRAMES), Length.WHOLE),
        (chunk(b"RIFF", b"AVI " + FRAMES + chunk(b"idx1", b"i" * 96)) + bytes(500), Length.WHOLE),
        (chunk(b"RIFF", b"AVI " + FRAMES + chunk(b"JUNK", bytes(96))), Length.WHOLE),
        (chunk(b"RIFF", b"AVI " + FRAMES + bytes(104)), Length.SHORT),
        (chunk(b"RIFF", b"AVI " + FRAMES + bytes(90) + b"rubbish"), Length.WHOLE),
        (chunk(b"RIFF", b"AVI " + FRAMES) + chunk(b"RIFF", b"AVIX" + FRAMES + bytes(104)), Length.SHORT),
        (chunk(b"RIFF", b"WEBP" + bytes(104)), Length.WHOLE),
    ],
)
def test_chunks_of_an_avi(data: bytes, expected: Length) -> None:
    assert judge(data) is expected


EBML = b"\x1aE\xdf\xa3\x84" + bytes(4)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (EBML + b"\x18\x53\x80\x67\x8a" + bytes(10), Length.WHOLE),
        (EBML + b"\x18\x53\x80\x67\x8b" + bytes(10), Length.SHORT),
        (EBML + b"\xec\x82ab" + b"\x18\x53\x80\x67\x8a" + bytes(10), Length.WHOLE),
        (EBML + b"\x18\x53\x80\x67\xff" + bytes(10), Length.UNKNOWN),
        (EBML + b"\x18\x53\x80\x67\x01" + b"\xff" * 7 + bytes(10), Length.UNKNOWN),
        (EBML + b"\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xfe", Length.SHORT),
        (EBML + b"\x18\x53\x80\x67\x00" + bytes(10), Length.UNKNOWN),
        (EBML + b"\x42\x86\x81\x01", Length.UNKNOWN),
        (EBML, Length.UNKNOWN),
        (b"\x1aE\xdf\xa3", Length.UNKNOWN),
    ],
)
def test_matroska(data: bytes, expected: Length) -> None:
    assert judge(data) is expected


@pytest.mark.parametrize(
    "data", [b"", b"R", b"FLV\x01" + bytes(50), b"G" + bytes(187), b"\x00\x00\x01\xba" + bytes(50)]
)
def test_other_formats_make_no_statement(data: bytes) -> None:
    assert ask(data) == Declaration()


STARTS = [
    b"",
    b"RIFF",
    b"RIFF\0\0\0\0AVI ",
    b"\x1aE\xdf\xa3",
    b"\x89PNG\r\n\x1a\n",
    b"\0\0\0\x08ftyp",
    b"\0\0\0\x01mdat",
]


@settings(max_examples=300, deadline=None)
@given(start=st.sampled_from(STARTS), rest=st.binary(max_size=400), claimed=st.integers(0, 2**63))
def test_no_bytes_make_it_fail_or_read_much(start: bytes, rest: bytes, claimed: int) -> None:
    data = start + rest
    reads = 0

    def read_at(offset: int, count: int) -> bytes:
        nonlocal reads
        reads += 1
        assert 0 <= offset < 2**70
        assert count <= 65536
        return data[offset : offset + count]

    declared_length(read_at, len(data)).compare(claimed)
    assert reads <= MAX_READS + 4


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(NAMES), at=st.integers(0, 4000), bit=st.integers(0, 7))
def test_flipped_bits_do_no_harm(files: dict[str, bytes], name: str, at: int, bit: int) -> None:
    data = bytearray(files[name])
    data[at % len(data)] ^= 1 << bit
    assert judge(bytes(data)) in set(Length)


def test_a_file_of_endless_tiny_boxes_is_given_up_soon() -> None:
    reads = 0
    pattern = box(b"ftyp", b"isom")

    def read_at(offset: int, count: int) -> bytes:
        nonlocal reads
        reads += 1
        return (
            (pattern + box(b"free"))[:count] if offset == 0 else box(b"free")[:count] + b"\0\0\0\x08free"[: count - 8]
        )

    assert declared_length(read_at, 2**40).compare(2**40) is Length.UNKNOWN
    assert reads <= MAX_READS + 4


def test_the_chunks_of_all_parts_of_an_avi_share_the_limit() -> None:
    empty = chunk(b"JUNK") * 90
    data = chunk(b"RIFF", b"AVI " + empty) + 90 * chunk(b"RIFF", b"AVIX" + empty)
    reads = 0

    def read_at(offset: int, count: int) -> bytes:
        nonlocal reads
        reads += 1
        return data[offset : offset + count]

    declared_length(read_at, len(data))
    assert reads <= MAX_READS + 4
