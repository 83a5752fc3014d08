"""Messages between parent and child: what goes out comes back, anything else is a ProtocolError and nothing worse."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfwatch.config import ReaderSettings
from dfwatch.decode import wire as reader_wire
from dfwatch.decode.wire import HEAD, ProtocolError
from dfwatch.errors import RefusedError
from dfwatch.reading import Box, CropSpec, Face, QualityFlag, Reading, SampledFrame, Sampling, Track, VideoInfo
from dfwatch.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

CROP = CropSpec(size_px=4, margin=0.25, square=False, shift_y=-0.1)
FRAMES, FACES = ReaderSettings().frames, 10


def reading() -> Reading:
    frames = tuple(SampledFrame(n, n / 2) for n in range(3))
    faces = [Face(n % 3, (n % 3) / 2, Box(-1.5, n, 20, 30), 0.5 + n / 20, n) for n in range(5)]
    return Reading(
        video=VideoInfo("mov", "h264", 640, 360, "yuv420p", 29.97, 10.5, 90),
        sampling=Sampling(FRAMES, 20, 3, 17, "seek", frames),
        tracks=(Track(0, tuple(faces[:3])), Track(1, tuple(faces[3:]))),
        crops=np.arange(5 * 4 * 4 * 3, dtype=np.uint8).reshape(5, 4, 4, 3),
        decoder="decoder",
        quality=(QualityFlag("dark", "so dark"),),
        warnings=("careful",),
        timings_ms={"probe": 1.5},
    )


def unpack(data: bytes) -> tuple[dict[str, Any], bytes]:
    json_bytes, blob_bytes = reader_wire.unpack_head(data[: HEAD.size], 1 << 20)
    text = data[HEAD.size :][:json_bytes]
    blob = data[HEAD.size + json_bytes :]
    assert len(blob) == blob_bytes
    return reader_wire.parse_json(text), blob


def decode(fields: object, blob: bytes) -> Reading:
    return reader_wire.decode_reading(fields, blob, CROP, FRAMES, FACES)


def test_a_reading_comes_back_as_it_was() -> None:
    message, blob = unpack(reader_wire.encode_reading(reading()))
    back = decode(message["ok"], blob)
    for name in ("video", "sampling", "tracks", "decoder", "quality", "warnings", "timings_ms"):
        assert getattr(back, name) == getattr(reading(), name), name
    assert (back.crops == reading().crops).all()


def test_a_request_comes_back_as_it_was() -> None:
    assert reader_wire.decode_request(unpack(reader_wire.encode_request(CROP))[0]) == CROP


def test_an_error_comes_back_as_it_was() -> None:
    error = RefusedError("reading", "x", "because", reason=Reason.TOO_LONG, hint="shorter")
    fields = unpack(reader_wire.encode_error(error))[0]["error"]
    assert reader_wire.decode_error(fields) == ("refused", Reason.TOO_LONG, "because", "shorter")


# Python's JSON knows whole numbers beyond every float, and halves of surrogate pairs.
HUGE, HALF = 10**400, "\ud800"
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([HUGE, -HUGE])
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.text(st.characters(categories=["Cs"]), min_size=1, max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of every value inside a JSON value."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


PLACES = places(unpack(reader_wire.encode_reading(reading()))[0]["ok"])


@given(st.sampled_from(PLACES), json_values)
def test_any_other_value_anywhere_is_refused_or_harmless(place: tuple[Any, ...], value: Any) -> None:
    message, blob = unpack(reader_wire.encode_reading(reading()))
    fields = message["ok"]
    inner = fields
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value

    try:
        back = decode(json.loads(json.dumps(fields)), blob)
    except ProtocolError:
        return
    # The sidecar is UTF-8.
    json.dumps([asdict(part) for part in (back.video, *back.quality)], ensure_ascii=False).encode()
    json.dumps([back.decoder, *back.warnings, *back.timings_ms], ensure_ascii=False).encode()
    faces = [face for track in back.tracks for face in track.faces]
    assert sorted(face.crop_index for face in faces) == list(range(len(back.crops)))
    assert all(face.time_s == back.sampling.frames[face.frame_index].time_s for face in faces)
    assert all(np.isfinite([face.box.x, face.box.y, face.box.width, face.box.height]).all() for face in faces)


@pytest.mark.parametrize("value", [HUGE, -HUGE, HALF], ids=["huge", "less than huge", "half a pair"])
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_what_no_float_and_no_utf8_can_hold_is_refused_everywhere(place: tuple[Any, ...], value: Any) -> None:
    message, blob = unpack(reader_wire.encode_reading(reading()))
    inner = message["ok"]
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(ProtocolError):
        decode(message["ok"], blob)


@given(json_values)
def test_any_json_is_refused_or_read(value: Any) -> None:
    for function in (lambda: decode(value, b""), lambda: reader_wire.decode_error(value)):
        with pytest.raises(ProtocolError):
            function()


@given(st.binary(max_size=200))
def test_any_bytes_are_no_json_or_an_object(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        assert isinstance(reader_wire.parse_json(data), dict)


@pytest.mark.parametrize("head", [HEAD.pack(0, 0), HEAD.pack(1 << 30, 0), HEAD.pack(10, 101), HEAD.pack(1, 5)])
def test_lengths_are_bounded(head: bytes) -> None:
    with pytest.raises(ProtocolError):
        reader_wire.unpack_head(head, 100)


@pytest.mark.parametrize("text", [b'{"a": NaN}', b'{"a": Infinity}', b"[]", b'{"a": ', b"\xff", b"[" * 100_000])
def test_what_is_no_plain_json_object_is_refused(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        reader_wire.parse_json(text)


@pytest.mark.parametrize(
    "change",
    [
        lambda ok: ok["sampling"]["frames"].reverse(),
        lambda ok: ok["tracks"].reverse(),
        lambda ok: ok["tracks"][0]["faces"].reverse(),
        lambda ok: ok["sampling"].update(requested=7),
        lambda ok: ok["video"].update(width=0),
        lambda ok: ok["video"].update(width=True),
        lambda ok: ok.update(warnings=["x"] * 1000),
    ],
)
def test_contradictions_are_refused(change: Callable[[dict[str, Any]], object]) -> None:
    message, blob = unpack(reader_wire.encode_reading(reading()))
    change(message["ok"])
    with pytest.raises(ProtocolError):
        decode(message["ok"], blob)
