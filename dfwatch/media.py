"""In the reader child: one open file in, one ``Reading`` out."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np

from dfwatch.containers import declared_length
from dfwatch.errors import UndecodableError
from dfwatch.faces import crop_region
from dfwatch.quality import Measured, quality_flags
from dfwatch.reading import Box, Face, Reading, SampledFrame, Sampling, VideoInfo
from dfwatch.reasons import Reason
from dfwatch.scenes import SceneCounter
from dfwatch.stills import decode_still
from dfwatch.tracks import Sighting, describe_look, link
from dfwatch.video import Video, why_nothing_decoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from dfwatch.config import FaceSettings, ReaderSettings
    from dfwatch.demuxing import Survey
    from dfwatch.faces import FaceFinder
    from dfwatch.pictures import Picture
    from dfwatch.reading import CropSpec, QualityFlag
    from dfwatch.sampling import Plan

DECODER = f"PyAV {av.__version__}, FFmpeg libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"


@dataclass(slots=True)
class _Stages:
    """Milliseconds by stage."""

    timings_ms: dict[str, float] = field(default_factory=lambda: {"probe": 0.0, "decode": 0.0, "faces": 0.0})

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings_ms[name] += (time.perf_counter() - start) * 1000.0


@dataclass(slots=True)
class _Harvest:
    """What the sampled frames gave, growing frame by frame."""

    frames: list[SampledFrame] = field(default_factory=list)
    sightings: list[list[Sighting]] = field(default_factory=list)
    crops: list[NDArray[np.uint8]] = field(default_factory=list)
    measured: Measured = field(default_factory=Measured)


class MediaReader:
    """Reads files one after another.

    Args:
        reader: Limits and sampling.
        faces: Face search.
        finder: The face detector.
    """

    def __init__(self, reader: ReaderSettings, faces: FaceSettings, finder: FaceFinder) -> None:
        self._reader = reader
        self._faces = faces
        self._finder = finder

    def read(self, fd: int, crop: CropSpec) -> Reading:
        """Read one regular file.

        Raises:
            RefusedError: Kind of file, format, codec or a limit.
            UndecodableError: Nothing, or too little, could be decoded.
            MemoryError: The process's limit was reached.
        """
        stages = _Stages()
        with stages.stage("probe"):
            video = Video(fd, self._reader)
        with video:
            if video.is_still:
                return self._read_still(video, crop, stages)
            with stages.stage("probe"):
                found = video.survey()
                plan = video.plan(found)
            harvest = self._harvest(video, plan, crop, stages)
            if not harvest.frames:
                raise why_nothing_decoded(fd, self._reader)
            warnings = self._check_coverage(video, found, plan, harvest)
            info = video.info(found)
            flags = quality_flags(info, harvest.measured, self._reader, self._faces, video.tally)
            return self._reading(
                info, video.strategy, len(plan.picks) - video.tally.not_due, harvest, stages, flags, warnings
            )

    def _harvest(self, video: Video, plan: Plan, crop: CropSpec, stages: _Stages) -> _Harvest:
        harvest = _Harvest()
        scenes = SceneCounter()
        sample = video.sample(plan)
        while True:
            with stages.stage("decode"):
                taken = next(sample, None)
            if taken is None:
                return harvest
            with stages.stage("faces"):
                self._look(taken.picture, taken.time_s, crop, scenes, harvest)

    def _look(self, picture: Picture, time_s: float, crop: CropSpec, scenes: SceneCounter, harvest: _Harvest) -> None:
        index = len(harvest.frames)
        harvest.frames.append(SampledFrame(index, time_s))
        small = picture.search_bgr(self._faces.detect_side_px)
        harvest.measured.add_frame(small)
        scene = scenes.add(small)
        scale_x, scale_y = picture.width / small.shape[1], picture.height / small.shape[0]
        sightings: list[Sighting] = []
        for box, score in self._finder.find(small, self._faces.min_score):
            if len(sightings) == self._faces.max_per_frame:
                break
            full = Box(box.x * scale_x, box.y * scale_y, box.width * scale_x, box.height * scale_y)
            if max(full.width, full.height) < self._faces.min_side_px:
                continue
            cut = picture.crop(crop_region(full, crop), crop.size_px)
            face = Face(index, time_s, full, score, len(harvest.crops))
            harvest.crops.append(cut)
            harvest.measured.add_face(full)
            sightings.append(Sighting(face, describe_look(cut), scene))
        harvest.sightings.append(sightings)

    def _read_still(self, video: Video, crop: CropSpec, stages: _Stages) -> Reading:
        with stages.stage("decode"):
            picture = decode_still(video.file.read_at, video.file.size_bytes)
        harvest = _Harvest()
        with stages.stage("faces"):
            self._look(picture, 0.0, crop, SceneCounter(), harvest)
        stored = video.info(None)
        info = VideoInfo(
            stored.container,
            stored.codec,
            picture.width,
            picture.height,
            stored.pixel_format,
            None,
            None,
            0,
            still=True,
        )
        flags = quality_flags(info, harvest.measured, self._reader, self._faces, video.tally)
        return self._reading(info, "still", 1, harvest, stages, flags, [], decoder=f"OpenCV {cv2.__version__}")

    def _check_coverage(self, video: Video, found: Survey, plan: Plan, harvest: _Harvest) -> list[str]:
        """Refuse what is only a part of a video; returns warnings about the rest."""
        size = video.file.size_bytes
        declared = declared_length(video.file.read_at, size)
        is_cut = bool(declared.missing) or (declared.length_bytes or 0) > size
        least = self._reader.min_coverage
        warnings = []
        expected = max(1, len(plan.picks) - video.tally.not_due)
        share = len(harvest.frames) / expected
        duration, present = found.duration_s, found.present_s
        if duration and present is not None and present < least * duration:
            raise _truncated(f"{present:.1f} s of {duration:.1f} s are in the file")
        stated = found.stated_s
        if duration and stated and present is not None and present < least * stated and not _is_whole(declared, size):
            raise _truncated(f"{present:.1f} s of the {stated:.1f} s that its header states are in the file")
        if share < least:
            cause = f"{len(harvest.frames)} of {expected} frames could be decoded"
            reached = harvest.frames[-1].time_s + 2 * (duration or 0.0) / expected
            if is_cut or (duration and reached < least * duration):
                raise _truncated(cause)
            raise UndecodableError("decoding", "", cause, reason=Reason.CORRUPT, hint="send the file again")
        if is_cut:
            warnings.append("the file is shorter than its header declares")
        if stated and duration and abs(stated - duration) > 0.1 * max(stated, duration) + 0.5:
            warnings.append(f"the header states {stated:.1f} s, the frames cover {duration:.1f} s")
        if video.mirrored:
            warnings.append("the picture was mirrored, as the container asks for")
        if video.tally.errors or video.tally.corrupt:
            warnings.append(
                f"the decoder refused {video.tally.errors} packets and called {video.tally.corrupt} frames damaged"
            )
        return warnings

    def _reading(
        self,
        info: VideoInfo,
        strategy: str,
        expected: int,
        harvest: _Harvest,
        stages: _Stages,
        flags: tuple[QualityFlag, ...],
        warnings: list[str],
        decoder: str = DECODER,
    ) -> Reading:
        side = harvest.crops[0].shape[0] if harvest.crops else 0
        crops = np.stack(harvest.crops) if harvest.crops else np.empty((0, side, side, 3), np.uint8)
        expected = max(expected, len(harvest.frames))
        return Reading(
            video=info,
            sampling=Sampling(
                requested=self._reader.frames,
                expected_frames=expected,
                decoded=len(harvest.frames),
                failed=expected - len(harvest.frames),
                strategy=strategy,
                frames=tuple(harvest.frames),
            ),
            tracks=link(harvest.sightings),
            crops=crops,
            decoder=decoder,
            quality=flags,
            warnings=tuple(warnings),
            timings_ms={name: round(value, 3) for name, value in stages.timings_ms.items()},
        )


def _is_whole(declared: object, size_bytes: int) -> bool:
    length = getattr(declared, "length_bytes", None)
    return length is not None and length <= size_bytes and not getattr(declared, "missing", "")


def _truncated(cause: str) -> UndecodableError:
    return UndecodableError("decoding", "", cause, reason=Reason.TRUNCATED, hint="send the file again")
