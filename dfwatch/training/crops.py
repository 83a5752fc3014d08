"""Cut faces out of pictures and pack them, in a few processes, with progress and resume."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from dfwatch.training.codecs import SUFFIXES, Codec, encode
from dfwatch.training.landmarks import FoundFace, LandmarkFinder
from dfwatch.training.packs import member_name
from dfwatch.training.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One picture or video to cut faces from, and what is known of it."""

    path: str
    label: str
    group: str
    source: str
    video: str
    manipulation: str = ""
    split: str = ""
    face_px: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CutSpec:
    """How training crops are cut: wider than any model needs, so that the margin can be drawn anew in each epoch.

    Attributes:
        size_px: Longest side of a stored crop; larger ones are scaled down, smaller ones are kept as they are.
        margin: Added on each side of the face box, as a fraction of its longer side.
        whole: Keep the whole picture; for data sets that are face crops already.
        codec: ``jpeg``, or ``webp`` for a third of the bytes: packs that must travel.
        quality: Of the stored crop; a JPEG that is kept whole as JPEG and is small enough keeps its own bytes.
    """

    size_px: int = 224
    margin: float = 0.35
    whole: bool = False
    codec: Codec = "jpeg"
    quality: int = 95


_finder: LandmarkFinder | None = None
_spec = CutSpec()


def _start(spec: CutSpec) -> None:
    global _finder, _spec  # noqa: PLW0603 - one face finder for each worker process
    cv2.setNumThreads(1)
    _spec = spec
    _finder = LandmarkFinder(224, pad=0.25) if spec.whole else LandmarkFinder(320)


def _cut(source: Source) -> tuple[bytes, Record] | str | None:
    if _finder is None:
        _start(_spec)
    assert _finder is not None
    try:
        data = np.fromfile(source.path, np.uint8)
    except OSError as error:
        return error.strerror or str(error)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if data.size else None
    if image is None:
        return "it is no picture" if data.size else "it is empty"
    return cut_picture(np.asarray(image, np.uint8), source, _spec, _finder, data.tobytes())


def cut_picture(
    image: NDArray[np.uint8], source: Source, spec: CutSpec, finder: LandmarkFinder, encoded: bytes = b""
) -> tuple[bytes, Record] | None:
    """Cut the largest face of a uint8 RGB picture and encode it; None when there is no face and the cut needs one."""
    face = finder.largest(image)
    if face is None and not spec.whole:
        return None
    if spec.whole or face is None:
        left, top, crop = 0, 0, image
    else:
        x, y, width, height = face.box
        half = max(width, height) * (0.5 + spec.margin)
        centre_x, centre_y = x + width / 2, y + height / 2
        left, top = max(0, round(centre_x - half)), max(0, round(centre_y - half))
        crop = image[top : max(top + 1, round(centre_y + half)), left : max(left + 1, round(centre_x + half))]
        if min(crop.shape[:2]) < 16:
            return None
    scale = spec.size_px / max(crop.shape[:2])
    stored = crop
    if scale < 1:
        side = (max(1, round(crop.shape[1] * scale)), max(1, round(crop.shape[0] * scale)))
        stored = np.asarray(cv2.resize(crop, side, interpolation=cv2.INTER_AREA), np.uint8)
    is_jpeg = encoded[:2] == b"\xff\xd8"
    keeps_bytes = spec.whole and scale >= 1 and is_jpeg and spec.codec == "jpeg"
    data = encoded if keeps_bytes else encode(stored, spec.codec, spec.quality)
    box, landmarks = _relative(face, left, top, crop)
    record = Record(
        shard="",
        offset=0,
        length=0,
        name=member_name(os.path.splitext(os.path.basename(source.path))[0], "", SUFFIXES[spec.codec]),
        source=source.source,
        label=source.label,
        group=source.group,
        video=source.video,
        manipulation=source.manipulation,
        split=source.split,
        box=box,
        landmarks=landmarks,
        face_px=source.face_px or (round(max(face.box[2:])) if face else 0),
    )
    return data, record


def _relative(
    face: FoundFace | None, left: int, top: int, crop: NDArray[np.uint8]
) -> tuple[tuple[float, float, float, float], tuple[float, ...]]:
    if face is None:
        return (0.0, 0.0, 1.0, 1.0), ()
    height, width = crop.shape[:2]
    x, y, box_width, box_height = face.box
    box = ((x - left) / width, (y - top) / height, box_width / width, box_height / height)
    places = (face.landmarks - np.array([left, top], np.float32)) / np.array([width, height], np.float32)
    return box, tuple(float(value) for value in places.reshape(-1))


def cut_all(
    sources: Iterable[Source], spec: CutSpec, processes: int = 1
) -> Iterator[tuple[bytes, Record] | str | None]:
    """Cut one crop from each picture, in order.

    None stands for a picture without a usable face, text for one that cannot be read: it says why.
    """
    if processes <= 1:
        _start(spec)
        yield from map(_cut, sources)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, initializer=_start, initargs=(spec,)) as pool:
        yield from pool.imap(_cut, sources, chunksize=64)
