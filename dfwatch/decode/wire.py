"""What the parent and its reader child say to each other, over a stream socket.

Each message is a head of two big-endian 32-bit lengths, a JSON object of the first length and raw bytes of the second.
A request carries the file's descriptor beside it. The child may have been taken over by the file that it read, so the
parent believes nothing: lengths are bounded before a byte is allocated, the JSON must have exactly the shape that is
expected, numbers must be finite and in range, and indices must fit together. There is no pickle anywhere.

    request   {"crop": {...}}                                   + descriptor
    answer    {"ok": {reading without crops, "crops": n,        + n * side * side * 3 bytes
                      "thumbnails": [height, width] or null}}     + frames * height * width * 3 bytes
              {"error": {"kind", "reason", "cause", "hint"}}
              {"error": {"kind": "disk", "reason", "cause", "hint", "offset", "count"}}
    hello     {"hello": {"pid", "decoder", "confinement": [...], "skipped": [...]}}
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from dfwatch.errors import RefusedError, UndecodableError
from dfwatch.reading import (
    CROP_MARGINS,
    CROP_SHIFTS,
    MAX_FRAMES_PER_S,
    Box,
    CropSpec,
    Face,
    QualityFlag,
    Reading,
    SampledFrame,
    Sampling,
    Track,
    VideoInfo,
)
from dfwatch.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from dfwatch.errors import MediaError, UnreadableBytesError

HEAD = struct.Struct(">II")
MAX_JSON_BYTES = 8 * 1024 * 1024
MAX_TEXT = 2000
MAX_SIDE_PX = 4096
MAX_COORDINATE = 1e6
MAX_SECONDS = 1e9
MAX_OFFSET = (1 << 63) - 1
STRATEGIES = frozenset({"sequential", "seek", "keyframes", "exact", "still"})


class ProtocolError(Exception):
    """The other side said something that it may not say."""


# Parent to child


def encode_request(crop: CropSpec) -> bytes:
    """A request; its descriptor travels beside it."""
    return pack({"crop": asdict(crop)})


def decode_request(message: dict[str, Any]) -> CropSpec:
    """The crop that a request asks for."""
    fields = _object(message.get("crop"), "crop")
    return CropSpec(
        size_px=_integer(fields.get("size_px"), "size_px", 1, MAX_SIDE_PX),
        margin=_number(fields.get("margin"), "margin", *CROP_MARGINS),
        square=bool(fields.get("square")),
        shift_y=_number(fields.get("shift_y"), "shift_y", *CROP_SHIFTS),
    )


# Child to parent


def encode_reading(reading: Reading) -> bytes:
    """A successful answer."""
    body = {
        "video": asdict(reading.video),
        "sampling": asdict(reading.sampling),
        "tracks": [asdict(track) for track in reading.tracks],
        "crops": len(reading.crops),
        "decoder": reading.decoder,
        "quality": [asdict(flag) for flag in reading.quality],
        "warnings": list(reading.warnings),
        "timings_ms": reading.timings_ms,
        "thumbnails": None if reading.thumbnails is None else list(reading.thumbnails.shape[1:3]),
    }
    blob = np.ascontiguousarray(reading.crops).tobytes()
    if reading.thumbnails is not None:
        blob += np.ascontiguousarray(reading.thumbnails).tobytes()
    return pack({"ok": body}, blob)


def encode_error(error: MediaError) -> bytes:
    """An answer for a file that cannot be judged."""
    kind = "refused" if isinstance(error, RefusedError) else "undecodable"
    body = {"kind": kind, "reason": error.reason.value, "cause": error.cause[:MAX_TEXT], "hint": error.hint[:MAX_TEXT]}
    return pack({"error": body})


def encode_out_of_memory() -> bytes:
    """An answer for a file that needs more memory than the child may have."""
    return pack({"error": {"kind": "memory", "reason": Reason.READER_OUT_OF_MEMORY.value, "cause": "", "hint": ""}})


def encode_disk_failure(error: UnreadableBytesError) -> bytes:
    """An answer for a file whose bytes the disk does not give; it says which ones, and nothing of the file."""
    body = {"kind": "disk", "reason": Reason.INTERNAL_ERROR.value, "cause": error.cause[:MAX_TEXT], "hint": ""}
    return pack({"error": {**body, "offset": error.offset, "count": error.count}})


def encode_failure(cause: str) -> bytes:
    """An answer after an exception that nobody foresaw: a defect of dfwatch or of a library."""
    body = {"kind": "internal", "reason": Reason.INTERNAL_ERROR.value, "cause": cause[:MAX_TEXT], "hint": ""}
    return pack({"error": body})


def pack(message: dict[str, Any], blob: bytes = b"") -> bytes:
    """A whole message."""
    text = json.dumps(message, allow_nan=False, separators=(",", ":")).encode()
    return HEAD.pack(len(text), len(blob)) + text + blob


def unpack_head(head: bytes, max_blob_bytes: int) -> tuple[int, int]:
    """Lengths of the JSON and of the bytes behind it.

    Raises:
        ProtocolError: A length is out of bounds.
    """
    json_bytes, blob_bytes = HEAD.unpack(head)
    if not 2 <= json_bytes <= MAX_JSON_BYTES or blob_bytes > max_blob_bytes:
        raise ProtocolError(f"a message of {json_bytes} + {blob_bytes} bytes")
    return json_bytes, blob_bytes


def parse_json(text: bytes) -> dict[str, Any]:
    """A JSON object without NaN or infinity.

    Raises:
        ProtocolError: It is anything else.
    """

    def refuse(constant: str) -> None:
        raise ProtocolError(f"the number {constant}")

    try:
        message = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"no JSON: {error}") from error
    return _object(message, "message")


def decode_error(fields: object) -> tuple[str, Reason, str, str]:
    """``(kind, reason, cause, hint)`` of an error answer.

    Raises:
        ProtocolError: It has another shape.
    """
    body = _object(fields, "error")
    kind = _text(body.get("kind"), "kind")
    if kind not in {"refused", "undecodable", "memory", "disk", "internal"}:
        raise ProtocolError(f"the error kind {kind!r}")
    try:
        reason = Reason(_text(body.get("reason"), "reason"))
    except ValueError as error:
        raise ProtocolError(str(error)) from error
    return kind, reason, _text(body.get("cause"), "cause"), _text(body.get("hint"), "hint")


def decode_unreadable(fields: object) -> tuple[int, int]:
    """``(offset, count)`` of the bytes that an answer of kind ``disk`` speaks of.

    Raises:
        ProtocolError: It has another shape.
    """
    body = _object(fields, "error")
    return _integer(body.get("offset"), "offset", 0, MAX_OFFSET), _integer(body.get("count"), "count", 1, MAX_OFFSET)


def media_error(kind: str, reason: Reason, cause: str, hint: str, subject: str) -> RefusedError | UndecodableError:
    """The exception of an error answer of kind ``refused`` or ``undecodable``."""
    cls = RefusedError if kind == "refused" else UndecodableError
    return cls("reading", subject, cause, reason=reason, hint=hint)


def decode_reading(
    fields: object, blob: bytes, crop: CropSpec, max_frames: int, max_faces: int, *, thumbnail_side_px: int = 0
) -> Reading:
    """The reading of a successful answer.

    Args:
        fields: The JSON object.
        blob: The crops' bytes.
        crop: What was asked for.
        max_frames: Frames that were asked for.
        max_faces: Faces allowed in one frame.
        thumbnail_side_px: Longer side allowed for thumbnails; 0: none were asked for.

    Raises:
        ProtocolError: Anything that an honest child would not say.
    """
    body = _object(fields, "ok")
    video = _video(body.get("video"))
    sampling = _sampling(body.get("sampling"), max_frames)
    count = _integer(body.get("crops"), "crops", 0, max_frames * max_faces)
    size = _thumbnail_size(body.get("thumbnails"), thumbnail_side_px)
    crops_bytes = count * crop.size_px * crop.size_px * 3
    thumbnails_bytes = 0 if size is None else sampling.decoded * size[0] * size[1] * 3
    if len(blob) != crops_bytes + thumbnails_bytes:
        raise ProtocolError(f"{len(blob)} bytes for {count} crops of {crop.size_px} pixels and thumbnails of {size}")
    tracks = _tracks(body.get("tracks"), sampling, count, max_faces)
    return Reading(
        video=video,
        sampling=sampling,
        tracks=tracks,
        crops=np.frombuffer(blob, np.uint8, crops_bytes).reshape(count, crop.size_px, crop.size_px, 3),
        thumbnails=None
        if size is None
        else np.frombuffer(blob, np.uint8, thumbnails_bytes, crops_bytes).reshape(sampling.decoded, *size, 3),
        decoder=_text(body.get("decoder"), "decoder"),
        quality=tuple(
            QualityFlag(_text(flag.get("flag"), "flag"), _text(flag.get("detail"), "detail"))
            for flag in _objects(body.get("quality"), "quality", 64)
        ),
        warnings=tuple(_text(text, "warning") for text in _list(body.get("warnings"), "warnings", 256)),
        timings_ms={
            _text(name, "stage"): _number(value, "timing", 0.0, MAX_SECONDS)
            for name, value in _object(body.get("timings_ms"), "timings_ms").items()
        },
    )


def _thumbnail_size(value: object, side_px: int) -> tuple[int, int] | None:
    if value is None:
        return None
    size = _list(value, "thumbnails", 2)
    if len(size) != 2 or not side_px:
        raise ProtocolError("thumbnails that nobody asked for")
    height, width = (_integer(side, "thumbnail side", 1, side_px) for side in size)
    return height, width


def _video(fields: object) -> VideoInfo:
    body = _object(fields, "video")
    return VideoInfo(
        container=_text(body.get("container"), "container"),
        codec=_text(body.get("codec"), "codec"),
        width=_integer(body.get("width"), "width", 1, 1 << 20),
        height=_integer(body.get("height"), "height", 1, 1 << 20),
        pixel_format=_text(body.get("pixel_format"), "pixel_format"),
        fps=_optional_number(body.get("fps"), "fps", 0.0, MAX_FRAMES_PER_S),
        duration_s=_optional_number(body.get("duration_s"), "duration_s", 0.0, MAX_SECONDS),
        rotation=_one_of(body.get("rotation"), "rotation", (0, 90, 180, 270)),
        still=_boolean(body.get("still"), "still"),
    )


def _sampling(fields: object, max_frames: int) -> Sampling:
    body = _object(fields, "sampling")
    frames = tuple(
        SampledFrame(
            _integer(frame.get("index"), "index", position, position),
            _number(frame.get("time_s"), "time_s", 0.0, MAX_SECONDS),
        )
        for position, frame in enumerate(_objects(body.get("frames"), "frames", max_frames))
    )
    if any(later.time_s < earlier.time_s for earlier, later in pairwise(frames)):
        raise ProtocolError("frames out of order")
    strategy = _text(body.get("strategy"), "strategy")
    if strategy not in STRATEGIES:
        raise ProtocolError(f"the strategy {strategy!r}")
    expected = _integer(body.get("expected_frames"), "expected_frames", 1, max_frames)
    decoded = _integer(body.get("decoded"), "decoded", len(frames), len(frames))
    return Sampling(
        requested=_integer(body.get("requested"), "requested", max_frames, max_frames),
        expected_frames=expected,
        decoded=decoded,
        failed=_integer(body.get("failed"), "failed", 0, expected),
        strategy=strategy,
        frames=frames,
    )


def _tracks(fields: object, sampling: Sampling, crops: int, max_faces: int) -> tuple[Track, ...]:
    tracks = []
    used: set[int] = set()
    for number, track in enumerate(_objects(fields, "tracks", crops)):
        faces = tuple(_face(face, sampling, crops) for face in _objects(track.get("faces"), "faces", crops))
        indices = [face.frame_index for face in faces]
        if not faces or any(later <= earlier for earlier, later in pairwise(indices)):
            raise ProtocolError("a track without order")
        used.update(face.crop_index for face in faces)
        tracks.append(Track(_integer(track.get("id"), "id", number, number), faces))
    seen = [face.frame_index for track in tracks for face in track.faces]
    if len(seen) != crops or len(used) != crops:
        raise ProtocolError("faces and crops do not fit together")
    if any(seen.count(index) > max_faces for index in set(seen)):
        raise ProtocolError("too many faces in one frame")
    return tuple(tracks)


def _face(fields: dict[str, Any], sampling: Sampling, crops: int) -> Face:
    box = _object(fields.get("box"), "box")
    frame_index = _integer(fields.get("frame_index"), "frame_index", 0, len(sampling.frames) - 1)
    time_s = _number(fields.get("time_s"), "time_s", 0.0, MAX_SECONDS)
    if time_s != sampling.frames[frame_index].time_s:
        raise ProtocolError("a face at another time than its frame")
    return Face(
        frame_index=frame_index,
        time_s=time_s,
        box=Box(
            x=_number(box.get("x"), "x", -MAX_COORDINATE, MAX_COORDINATE),
            y=_number(box.get("y"), "y", -MAX_COORDINATE, MAX_COORDINATE),
            width=_number(box.get("width"), "width", 0.0, MAX_COORDINATE),
            height=_number(box.get("height"), "height", 0.0, MAX_COORDINATE),
        ),
        detection_score=_number(fields.get("detection_score"), "detection_score", 0.0, 1.0),
        crop_index=_integer(fields.get("crop_index"), "crop_index", 0, crops - 1),
    )


def decode_hello(message: dict[str, Any]) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """``(decoder, confinement in force, confinement skipped and why)``.

    Raises:
        ProtocolError: It has another shape.
    """
    body = _object(message.get("hello"), "hello")
    held = tuple(_text(text, "confinement") for text in _list(body.get("confinement"), "confinement", 64))
    skipped = tuple(_text(text, "skipped") for text in _list(body.get("skipped"), "skipped", 64))
    return _text(body.get("decoder"), "decoder"), held, skipped


# Strict readers of JSON values


def _check(value: object, name: str, test: Callable[[Any], bool]) -> Any:  # noqa: ANN401 - the caller knows the type
    if not test(value):
        raise ProtocolError(f"{name} is {str(value)[:80]!r}")
    return value


def _object(value: object, name: str) -> dict[str, Any]:
    checked: dict[str, Any] = _check(value, name, lambda v: isinstance(v, dict))
    return checked


def _list(value: object, name: str, longest: int) -> list[Any]:
    checked: list[Any] = _check(value, name, lambda v: isinstance(v, list) and len(v) <= longest)
    return checked


def _objects(value: object, name: str, longest: int) -> list[dict[str, Any]]:
    return [_object(item, name) for item in _list(value, name, longest)]


def _text(value: object, name: str) -> str:
    return str(_check(value, name, lambda v: isinstance(v, str) and len(v) <= MAX_TEXT and _is_unicode(v)))


def _is_unicode(text: str) -> bool:
    """Whether it can be written as UTF-8; JSON's escapes may spell half of a surrogate pair."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _boolean(value: object, name: str) -> bool:
    return bool(_check(value, name, lambda v: isinstance(v, bool)))


def _integer(value: object, name: str, least: int, most: int) -> int:
    return int(_check(value, name, lambda v: isinstance(v, int) and not isinstance(v, bool) and least <= v <= most))


def _one_of(value: object, name: str, allowed: tuple[int, ...]) -> int:
    return int(_check(value, name, lambda v: isinstance(v, int) and not isinstance(v, bool) and v in allowed))


def _number(value: object, name: str, least: float, most: float) -> float:
    def test(number: object) -> bool:
        if isinstance(number, bool) or not isinstance(number, int | float):
            return False
        # Comparing takes whole numbers of any size, of which isfinite cannot make a float.
        return least <= number <= most and math.isfinite(number)

    return float(_check(value, name, test))


def _optional_number(value: object, name: str, least: float, most: float) -> float | None:
    return None if value is None else _number(value, name, least, most)
