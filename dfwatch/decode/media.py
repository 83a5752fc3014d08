"""In the reader child: one open file in, one ``Reading`` out."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np

from dfwatch.decode.beside import Beside
from dfwatch.decode.quality import Measured, Timeline, quality_flags
from dfwatch.decode.scenes import SceneCounter
from dfwatch.decode.stills import canvas_of_webp, decode_still, is_animation
from dfwatch.errors import UndecodableError
from dfwatch.faces import FaceSearch, crop_region
from dfwatch.inbox.containers import declared_length
from dfwatch.reading import Box, Face, Reading, SampledFrame, Sampling, VideoInfo, thumbnail_size
from dfwatch.reasons import Reason
from dfwatch.tracks import Sighting, describe_look, link
from dfwatch.video import Video, why_nothing_decoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from dfwatch.config import FaceSettings, ReaderSettings
    from dfwatch.decode.decoding import Taken
    from dfwatch.decode.demuxing import DescriptorFile
    from dfwatch.decode.frame_index import Survey
    from dfwatch.decode.good_frames import Tally
    from dfwatch.decode.pictures import Picture
    from dfwatch.faces import FaceFinder
    from dfwatch.reading import CropSpec
    from dfwatch.sampling import Plan

_END_MISSING = "the picture's end is missing"
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
    """What the sampled frames gave, growing frame by frame.

    Boxes and thumbnails are brought to the size of the first frame, should that of others differ.
    """

    frames: list[SampledFrame] = field(default_factory=list)
    sightings: list[list[Sighting]] = field(default_factory=list)
    crops: list[NDArray[np.uint8]] = field(default_factory=list)
    thumbnails: list[NDArray[np.uint8]] = field(default_factory=list)
    measured: Measured = field(default_factory=Measured)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the first frame, upright, in pixels."""
        return self.measured.sizes[0]


@dataclass(frozen=True, slots=True)
class _Eyes:
    """What remembers one video's earlier frames."""

    scenes: SceneCounter
    search: FaceSearch


@dataclass(frozen=True, slots=True)
class Extent:
    """What a file's own structure says of its length.

    Attributes:
        is_cut: It declares more bytes than there are, or a part that is not there.
        is_whole: It declares a length, and all of it is there.
        share: Share of the declared bytes that are there; 1 where nothing is declared.
    """

    is_cut: bool
    is_whole: bool
    share: float

    @classmethod
    def of(cls, file: DescriptorFile) -> Extent:
        """Look at the outermost structure of a file."""
        declared = declared_length(file.read_at, file.size_bytes)
        length = declared.length_bytes or file.size_bytes
        is_cut = bool(declared.missing) or length > file.size_bytes
        return cls(is_cut, declared.length_bytes is not None and not is_cut, min(1.0, file.size_bytes / length))


class MediaReader:
    """Reads files one after another.

    Args:
        reader: Limits and sampling.
        faces: Face search.
        finder: The face detector.
        thumbnail_side_px: Longer side of the thumbnails to keep of each frame; 0 keeps none.
    """

    def __init__(
        self, reader: ReaderSettings, faces: FaceSettings, finder: FaceFinder, *, thumbnail_side_px: int = 0
    ) -> None:
        self._thumbnail_side_px = thumbnail_side_px
        self._reader = reader
        self._faces = faces
        self._finder = finder

    def read(self, fd: int, crop: CropSpec) -> Reading:
        """Read one regular file.

        Raises:
            RefusedError: Kind of file, format, codec or a limit.
            UndecodableError: Nothing, or too little, could be decoded.
            UnreadableBytesError: The disk failed; nothing is known of the file.
            MemoryError: The process's limit was reached.
        """
        stages = _Stages()
        with stages.stage("probe"):
            video = Video(fd, self._reader)
        with video:
            try:
                if video.is_still_format:
                    self._check_still(fd, video)
                    return self._read_still(video, crop, stages)
                return self._read_video(fd, video, crop, stages)
            finally:
                # What was made of a part of the bytes is no answer, be it a reading or a refusal.
                video.file.check_disk()

    def _read_video(self, fd: int, video: Video, crop: CropSpec, stages: _Stages) -> Reading:
        with stages.stage("probe"):
            found = video.survey()
            extent = Extent.of(video.file)
            if video.is_still and extent.is_cut:
                raise _truncated(_END_MISSING)
            self._check_presence(found, extent)
            plan = video.plan(found)
        harvest = self._harvest(video, plan, crop, stages)
        if not harvest.frames:
            raise why_nothing_decoded(fd, self._reader)
        # Slices without a frame are not due, unless the file shows that their frames were lost.
        lost = sum(hole.slices(found.duration_s or 0.0, self._reader.frames) for hole in found.holes if hole.lost)
        expected = max(1, len(plan.picks) - video.tally.not_due + lost)
        empty_slices = 0 if found.is_listed else video.tally.not_due
        timeline = Timeline(found.misplaced_share, found.holes, empty_slices, found.recordings)
        self._check_coverage(found, expected, harvest, timeline, video.tally.unused_s)
        return self._reading(
            video.info(found, harvest.size),
            harvest,
            stages,
            side_px=crop.size_px,
            expected=expected,
            strategy=video.strategy,
            tally=video.tally,
            timeline=timeline,
            warnings=_warnings(video, found, extent, timeline),
        )

    def _eyes(self) -> _Eyes:
        return _Eyes(SceneCounter(), FaceSearch(self._finder, self._faces))

    def _harvest(self, video: Video, plan: Plan, crop: CropSpec, stages: _Stages) -> _Harvest:
        harvest = _Harvest()
        eyes = self._eyes()

        def look(taken: Taken) -> None:
            with stages.stage("faces"):
                self._look(taken.picture, taken.time_s, crop, eyes, harvest)

        sample = video.sample(plan)
        with Beside(look) as beside:
            while True:
                with stages.stage("decode"):
                    taken = next(sample, None)
                if taken is None:
                    break
                beside.put(taken)
        return harvest

    def _look(self, picture: Picture, time_s: float, crop: CropSpec, eyes: _Eyes, harvest: _Harvest) -> None:
        index = len(harvest.frames)
        harvest.frames.append(SampledFrame(index, time_s))
        size = (picture.width, picture.height)
        small = picture.search_bgr(self._faces.detect_side_px)
        harvest.measured.add_frame(small, size)
        if self._thumbnail_side_px:
            self._keep_thumbnail(small, harvest)
        scene = eyes.scenes.add(small)
        scale_x, scale_y = picture.width / small.shape[1], picture.height / small.shape[0]
        sightings: list[Sighting] = []
        for box, score in eyes.search.find(small, scene):
            full = Box(box.x * scale_x, box.y * scale_y, box.width * scale_x, box.height * scale_y)
            if max(full.width, full.height) < self._faces.min_side_px:
                harvest.measured.faces_too_small += 1
                continue
            if len(sightings) == self._faces.max_per_frame:
                harvest.measured.faces_left_out += 1
                continue
            cut = picture.crop(crop_region(full, crop), crop.size_px)
            shown = full if size == harvest.size else _scaled(full, size, harvest.size)
            face = Face(index, time_s, shown, score, len(harvest.crops))
            harvest.crops.append(cut)
            harvest.measured.add_face(full)
            sightings.append(Sighting(face, describe_look(cut), scene))
        harvest.sightings.append(sightings)

    def _keep_thumbnail(self, small_bgr: NDArray[np.uint8], harvest: _Harvest) -> None:
        size = thumbnail_size(*harvest.size, self._thumbnail_side_px)
        made = cv2.resize(small_bgr, size, interpolation=cv2.INTER_AREA)
        harvest.thumbnails.append(np.asarray(made[:, :, ::-1], np.uint8))

    def _check_still(self, fd: int, video: Video) -> None:
        extent = Extent.of(video.file)
        if extent.is_cut:
            raise _truncated(_END_MISSING)
        if video.info(None).width > 0:
            return
        # FFmpeg knows no size: an animation, or a picture that is damaged or too large.
        canvas = canvas_of_webp(video.file.read_at(0, 64))
        if canvas is None:
            raise why_nothing_decoded(fd, self._reader)
        video.check_size(*canvas)

    def _read_still(self, video: Video, crop: CropSpec, stages: _Stages) -> Reading:
        with stages.stage("decode"):
            picture = decode_still(video.file.read_at, video.file.size_bytes)
            video.check_size(picture.width, picture.height)
        harvest = _Harvest()
        harvest.measured.animation = is_animation(video.file.read_at(0, 64))
        with stages.stage("faces"):
            self._look(picture, 0.0, crop, self._eyes(), harvest)
        stored = video.info(None)
        return self._reading(
            VideoInfo(
                container=stored.container,
                codec=stored.codec,
                width=picture.width,
                height=picture.height,
                pixel_format=stored.pixel_format,
                fps=None,
                duration_s=None,
                rotation=0,
                still=True,
            ),
            harvest,
            stages,
            side_px=crop.size_px,
            expected=1,
            strategy="still",
            tally=video.tally,
            warnings=("an animation: only its first picture was judged",) if harvest.measured.animation else (),
            decoder=f"OpenCV {cv2.__version__}",
        )

    def _check_presence(self, found: Survey, extent: Extent) -> None:
        """Refuse a file of which too large a part is missing, before decoding any of it."""
        least = self._reader.min_coverage
        present, duration, stated = found.present_s, found.duration_s, found.stated_s
        if present is not None and duration and present < least * duration:
            raise _truncated(f"{present:.1f} s of {duration:.1f} s are in the file")
        if found.lists_all or extent.is_whole:
            # A header may state a wrong length; a whole structure, or a whole list of frames, tells more.
            return
        # Sound may go on without pictures to the end of the file, or begin as long before them.
        if present is not None and stated and max(present, found.sound_s) < least * stated:
            raise _truncated(f"{present:.1f} s of the {stated:.1f} s that its header states are in the file")
        if extent.share < least:
            raise _truncated(f"{extent.share:.0%} of the bytes that its header declares are in the file")

    def _check_coverage(
        self, found: Survey, expected: int, harvest: _Harvest, timeline: Timeline, unused_s: float
    ) -> None:
        """Refuse a file of which too small a part could be decoded, or told from the rest."""
        least = self._reader.min_coverage
        if timeline.misplaced_share and len(harvest.frames) * (1 - timeline.misplaced_share) < least * expected:
            cause = f"its time stamps step back: {timeline.misplaced_share:.0%} of its frames cannot be placed"
            hint = "give each part of it one by one, or join them anew with times that go on"
            raise UndecodableError("decoding", "", cause, reason=Reason.CORRUPT, hint=hint)
        if len(harvest.frames) >= least * expected:
            return
        decoded = len(harvest.frames)
        cause = f"{decoded} of {expected} frames could be decoded"
        # Nearly all up to a point and nothing after it: the rest is not there, unless there are packets that could not
        # be used, up to nearer to the end. Holes all over: damage.
        duration_s, last_s = found.duration_s or 0.0, harvest.frames[-1].time_s
        reached = last_s / duration_s if duration_s else 1.0
        if decoded >= least * (reached * expected - 1) and unused_s <= (last_s + duration_s) / 2:
            raise _truncated(cause)
        raise UndecodableError("decoding", "", cause, reason=Reason.CORRUPT, hint="send the file again")

    def _reading(
        self,
        info: VideoInfo,
        harvest: _Harvest,
        stages: _Stages,
        *,
        side_px: int,
        expected: int,
        strategy: str,
        tally: Tally,
        timeline: Timeline = Timeline(),  # noqa: B008 - frozen
        warnings: tuple[str, ...] = (),
        decoder: str = DECODER,
    ) -> Reading:
        decoded = len(harvest.frames)
        expected = max(expected, decoded)
        return Reading(
            video=info,
            sampling=Sampling(
                requested=self._reader.frames,
                expected_frames=expected,
                decoded=decoded,
                failed=expected - decoded,
                strategy=strategy,
                frames=tuple(harvest.frames),
            ),
            tracks=link(harvest.sightings),
            crops=np.stack(harvest.crops) if harvest.crops else np.empty((0, side_px, side_px, 3), np.uint8),
            decoder=decoder,
            quality=quality_flags(info, harvest.measured, self._reader.frames, tally, timeline),
            warnings=warnings,
            timings_ms={name: round(value, 3) for name, value in stages.timings_ms.items()},
            thumbnails=np.stack(harvest.thumbnails) if harvest.thumbnails else None,
        )


def _scaled(box: Box, size: tuple[int, int], to_size: tuple[int, int]) -> Box:
    x, y = to_size[0] / size[0], to_size[1] / size[1]
    return Box(box.x * x, box.y * y, box.width * x, box.height * y)


def _warnings(video: Video, found: Survey, extent: Extent, timeline: Timeline) -> tuple[str, ...]:
    warnings = timeline.warnings()
    if extent.is_cut:
        warnings.append("its own structure declares more than is in the file")
    stated, duration = found.stated_s, found.duration_s
    if stated and duration and abs(stated - duration) > 0.1 * max(stated, duration) + 0.5:
        warnings.append(f"the header states {stated:.1f} s, the frames cover {duration:.1f} s")
    if video.streams > 1:
        chosen = "of those with more than one frame, the one" if video.passed_over else "of which the one"
        warnings.append(f"it holds {video.streams} video streams, {chosen} that players show first was judged")
    if video.mirrored:
        warnings.append("the picture was mirrored, as the container asks for")
    if video.tally.faults:
        tally = video.tally
        warnings.append(f"the decoder refused {tally.errors} packets and called {tally.corrupt} frames damaged")
    return tuple(warnings)


def _truncated(cause: str) -> UndecodableError:
    return UndecodableError("decoding", "", cause, reason=Reason.TRUNCATED, hint="send the file again")
