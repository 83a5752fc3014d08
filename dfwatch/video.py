"""In the reader child: one video, opened, surveyed, and sampled."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import av
import av.logging

from dfwatch.decode.decoding import Sampler
from dfwatch.decode.demuxing import Source, packets_of
from dfwatch.decode.durations import HIGHEST_USUAL_RATE
from dfwatch.decode.encryption import is_scrambled_transport_stream
from dfwatch.decode.frame_index import survey
from dfwatch.decode.good_frames import Tally
from dfwatch.errors import RefusedError, UndecodableError
from dfwatch.reading import MAX_FRAMES_PER_S, VideoInfo
from dfwatch.reasons import Reason
from dfwatch.sampling import Pick, Plan, plan_blind, plan_sample, slice_bounds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dfwatch.config import ReaderSettings
    from dfwatch.decode.decoding import Taken
    from dfwatch.decode.demuxing import DescriptorFile
    from dfwatch.decode.frame_index import Survey
    from dfwatch.decode.holes import Hole

# Share of the frames to which no other frame refers, in streams with B frames (usual encoder settings).
_SKIPPABLE = {"h264": 0.45, "hevc": 0.35, "mpeg2video": 0.6, "mpeg4": 0.5}
_PACKETS_FOR_REASON = 8
# A packet may hold half of an interlaced frame.
_FAR_OFF = 2.5


class Video:
    """An open video file, or a still picture.

    Args:
        fd: Descriptor of a regular file; stays the caller's, its position is not moved.
        settings: Limits and allowed formats.

    Raises:
        RefusedError: Kind of file, format, codec or a limit.
        UndecodableError: The header is damaged.
    """

    def __init__(self, fd: int, settings: ReaderSettings) -> None:
        self._settings = settings
        self._source = Source(fd, settings)
        self._first_pts: int | None = None
        self._holes: tuple[Hole, ...] = ()
        self._moved = False
        self._sampler: Sampler | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()

    @property
    def file(self) -> DescriptorFile:
        """The file's bytes."""
        return self._source.file

    @property
    def is_still(self) -> bool:
        """As ``Source.is_still``."""
        return self._source.is_still

    @property
    def is_still_format(self) -> bool:
        """As ``Source.is_still_format``."""
        return self._source.is_still_format

    @property
    def streams(self) -> int:
        """As ``Source.streams``."""
        return self._source.streams

    @property
    def passed_over(self) -> bool:
        """As ``Source.passed_over``."""
        return self._source.passed_over

    @property
    def tally(self) -> Tally:
        """What was met while sampling."""
        return Tally() if self._sampler is None else self._sampler.tally

    @property
    def strategy(self) -> str:
        """How the frames were reached in fact."""
        if self._sampler is None:
            return ""
        return "still" if self.is_still else self._sampler.strategy

    @property
    def mirrored(self) -> bool:
        """Whether the stored picture was mirrored to make it upright."""
        orientation = None if self._sampler is None else self._sampler.orientation
        return orientation is not None and orientation.mirrored

    def info(self, found: Survey | None, size: tuple[int, int] | None = None) -> VideoInfo:
        """What the container and the decoder say; complete once a frame was sampled.

        Args:
            found: What is known of the frames; None for a picture.
            size: Width and height of the upright picture; None: as it is stored.
        """
        stream = self._source.stream
        context = stream.codec_context
        orientation = None if self._sampler is None else self._sampler.orientation
        width, height = size or (context.width, context.height)
        return VideoInfo(
            container=self._source.container.format.name,
            codec=self._source.codec,
            width=width,
            height=height,
            pixel_format=context.pix_fmt or "",
            fps=None if self.is_still else _frame_rate(self._source.frames_per_s, found),
            duration_s=None if found is None or self.is_still else found.duration_s,
            rotation=0 if orientation is None else orientation.degrees,
            still=self.is_still,
        )

    def check_size(self, width: int, height: int) -> None:
        """As ``Source.check_size``."""
        self._source.check_size(width, height)

    def survey(self) -> Survey:
        """Find out where the frames are.

        Raises:
            RefusedError: The video plays longer than the limit.
        """
        found = survey(self._source, self._settings.frames)
        # What a header states does not count where every frame is known.
        longest = max(found.duration_s or 0.0, 0.0 if found.is_listed else found.stated_s or 0.0)
        if longest > self._settings.max_duration_s:
            raise RefusedError(
                "reading",
                "",
                f"it plays {longest:.0f} s, {self._settings.max_duration_s:.0f} are allowed",
                reason=Reason.TOO_LONG,
                hint="see reader.max_duration_s in the configuration",
            )
        self._first_pts, self._holes = found.first_pts, found.holes
        self._moved = found.moved
        return found

    def plan(self, found: Survey) -> Plan:
        """How to take the sample."""
        frames, mode = self._settings.frames, self._settings.sampling
        duration = found.duration_s
        if duration is None or duration <= 0:
            # Nothing tells where frames are: what is there is one slice.
            return Plan("sequential", (Pick(0, 0.0, math.inf, 0.0),), hops=False, reference_only=False, cost=0.0)
        if found.index is not None:
            has_b_frames = bool(self._source.stream.codec_context.has_b_frames)
            return plan_sample(
                found.index,
                frames,
                mode,
                skippable_share=_SKIPPABLE.get(self._source.codec, 0.0) if has_b_frames else 0.0,
            )
        through = self._source.reads_through
        if mode == "exact" or through:
            half = duration / frames / 2
            picks = tuple(
                Pick(number, start, end, start + half, None if through else start + half - self._source.frame_s)
                for number, (start, end) in enumerate(slice_bounds(duration, frames))
            )
            strategy = "exact" if mode == "exact" else "sequential"
            return Plan(strategy, picks, hops=not through, reference_only=False, cost=math.inf)
        return plan_blind(duration, frames)

    def sample(self, plan: Plan) -> Iterator[Taken]:
        """The planned frames that could be decoded, in order of time; see ``Sampler.sample``."""
        if self._moved:
            # Not before the plan is made, which may look into the demuxer's own list.
            self._source.reopen()
            self._moved = False
        self._sampler = Sampler(self._source, self._settings, plan, self._first_pts, self._holes)
        return self._sampler.sample()


def _frame_rate(stated: float | None, found: Survey | None) -> float | None:
    """What is stated, unless it is the rate of a clock, or a mistake."""
    measured = None if found is None else found.frames_per_s
    if measured is not None:
        fits = stated is not None and 1 / _FAR_OFF <= stated / measured <= _FAR_OFF
        rate = stated if fits else measured
    else:
        is_certain = found is not None and found.lists_all
        rate = stated if is_certain or (stated or 0.0) <= HIGHEST_USUAL_RATE else None
    return rate if rate is not None and rate <= MAX_FRAMES_PER_S else None


def why_nothing_decoded(fd: int, settings: ReaderSettings) -> RefusedError | UndecodableError:
    """Decode the first packets once more, listening to the decoder's own words, to name the reason."""
    level, skips_repeated = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    # Or else what was said of the last file would be missing here.
    av.logging.set_skip_repeated(False)
    try:
        # One thread: a decoder's thread that has words while it is waited for would wait for ever.
        with av.logging.Capture(local=False) as logs, Source(fd, replace(settings, decoder_threads=1)) as source:
            context = source.stream.codec_context
            context.options = {"max_pixels": str(settings.max_pixels)}
            context.thread_count = 1
            for packet, _ in zip(packets_of(source), range(_PACKETS_FOR_REASON), strict=False):
                try:
                    context.decode(packet)
                except MemoryError:
                    raise
                except av.FFmpegError:
                    continue
            scrambled = is_scrambled_transport_stream(source.file.read_at)
            said = " ".join(" ".join(text.split()) for _, _, text in logs).strip()
    except (RefusedError, UndecodableError) as error:
        return error
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skips_repeated)
    if scrambled:
        return RefusedError("decoding", "", "its pictures are encrypted", reason=Reason.ENCRYPTED)
    if "exceeds specified max pixel count" in said:
        return RefusedError("decoding", "", "its frames have more pixels than allowed", reason=Reason.TOO_MANY_PIXELS)
    if any(words in said.lower() for words in ("not implemented", "not supported", "unsupported")):
        return RefusedError("decoding", "", "the decoder does not support it", reason=Reason.UNSUPPORTED_CODEC)
    if said:
        cause = f"the decoder could use none of its frames ({said[:200]})"
        return UndecodableError("decoding", "", cause, reason=Reason.CORRUPT)
    return UndecodableError("decoding", "", "it holds no frames", reason=Reason.NO_FRAMES)
