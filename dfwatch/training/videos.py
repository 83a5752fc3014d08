"""Videos for the training tools, through the very reader, detector and verdict that the service runs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from dfwatch.config import ModelSettings, Settings
from dfwatch.reader import Reader
from dfwatch.reading import CropSpec
from dfwatch.storage.source import open_regular
from dfwatch.training.codecs import SUFFIXES, encode
from dfwatch.training.landmarks import LandmarkFinder
from dfwatch.training.packs import member_name
from dfwatch.training.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from numpy.typing import NDArray

    from dfwatch.models.bundle import Bundle
    from dfwatch.reading import Reading
    from dfwatch.training.crops import CutSpec, Source


class VideoCutter:
    """Cut faces out of videos with the service's reader; use as a context manager.

    Only the longest track of a video is kept: a label speaks of the video, and a bystander's face in a fake is real.

    Args:
        cut: How crops are cut. Every crop is scaled to ``size_px``.
        frames: Frames sampled from each video.
    """

    def __init__(self, cut: CutSpec, frames: int) -> None:
        settings = Settings()
        self._reader = Reader(dataclasses.replace(settings.reader, frames=frames), settings.faces)
        self._spec = CropSpec(size_px=cut.size_px, margin=cut.margin)
        self._cut = cut
        self._landmarks = LandmarkFinder(224)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()

    def cut(self, source: Source) -> Iterator[tuple[bytes, Record]]:
        """Yield the crops of one video.

        Raises:
            MediaError: When it cannot be read.
        """
        # A data set may be a folder of links.
        fd, _ = open_regular(os.path.realpath(source.path), source.video)
        try:
            reading = self._reader.read(fd, self._spec, subject=source.video)
        finally:
            os.close(fd)
        if not reading.tracks:
            return
        track = max(reading.tracks, key=lambda one: len(one.faces))
        room = 1 + 2 * self._spec.margin
        for face in track.faces:
            crop = reading.crops[face.crop_index]
            found = self._landmarks.largest(crop)
            longer = max(face.box.width, face.box.height)
            width, height = face.box.width / longer / room, face.box.height / longer / room
            places = np.empty(0) if found is None else found.landmarks.reshape(-1) / crop.shape[0]
            yield (
                encode(crop, self._cut.codec, self._cut.quality),
                Record(
                    shard="",
                    offset=0,
                    length=0,
                    name=member_name(source.video, f"-{face.frame_index:03d}", SUFFIXES[self._cut.codec]),
                    source=source.source,
                    label=source.label,
                    group=source.group,
                    video=source.video,
                    manipulation=source.manipulation,
                    split=source.split,
                    time_s=face.time_s,
                    box=(0.5 - width / 2, 0.5 - height / 2, width, height),
                    landmarks=tuple(float(value) for value in places),
                    face_px=round(longer),
                ),
            )


class VideoJudge:
    """Judges videos as `dfwatch scan` does, with default settings, and remembers a crop of the last one to look at."""

    def __init__(self, reader: Reader, bundle: Bundle, device: str) -> None:
        from dfwatch.detector import Detector  # noqa: PLC0415 - torch is needed for judging only
        from dfwatch.judge import Judge  # noqa: PLC0415

        self._reader = reader
        self._judge = Judge(Settings(), self, Detector.load(bundle, ModelSettings(device=device)))
        self._reading: Reading | None = None

    def read(self, fd: int, crop: CropSpec) -> Reading:
        """Read for the judge, and remember."""
        self._reading = self._reader.read(fd, crop)
        return self._reading

    def __call__(self, path: str) -> tuple[dict[str, Any], NDArray[np.uint8] | None]:
        """Return the sidecar document of a file, and the middle crop of its longest face track, if there is one."""
        self._reading = None
        document = self._judge.judge(os.path.realpath(path))
        reading = self._reading
        if reading is None or not reading.tracks:
            return document, None
        faces = max(reading.tracks, key=lambda one: len(one.faces)).faces
        # A view would keep every crop of the video.
        return document, reading.crops[faces[len(faces) // 2].crop_index].copy()


@contextlib.contextmanager
def open_judge(bundle: Bundle, device: str) -> Iterator[VideoJudge]:
    """Give a judge of videos; its reader process ends with the block."""
    settings = Settings()
    with Reader(settings.reader, settings.faces) as reader:
        yield VideoJudge(reader, bundle, device)
