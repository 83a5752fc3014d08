"""In the reader child: one video, opened, checked and decoded by plan, one frame in hand at a time."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Self

import av
import av.logging
from av.stream import Discard

from dfwatch.demuxing import (
    STILL_FORMATS,
    DescriptorFile,
    choose_stream,
    first_stamp,
    open_container,
    packets_of,
    survey,
)
from dfwatch.encryption import is_encrypted_isobmff
from dfwatch.errors import RefusedError, UndecodableError
from dfwatch.pictures import Converter, Orientation, VideoPicture, orientation_of, pixel_aspect_of
from dfwatch.reading import VideoInfo
from dfwatch.reasons import Reason
from dfwatch.sampling import Pick, Plan, plan_blind, plan_sample, slice_bounds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dfwatch.config import ReaderSettings
    from dfwatch.demuxing import Survey

# Share of the frames of H.264 and HEVC streams with B frames to which no other frame refers (x264's defaults: half).
_SKIPPABLE = {"h264": 0.45, "hevc": 0.35, "mpeg2video": 0.6, "mpeg4": 0.5}
_UNKNOWN_FRAME_S = 0.04
_HEADROOM_FRAMES = 8
_PROGRESSIVE = 1  # AV_FIELD_PROGRESSIVE; 0 is unknown, the others are interlaced
# Time stamps are exact; this only covers the rounding of their division into seconds.
_SLACK_S = 1e-5


class Taken(NamedTuple):
    """One sampled frame."""

    pick: Pick
    time_s: float
    picture: VideoPicture


@dataclass(slots=True)
class Tally:
    """What went wrong on the way.

    Attributes:
        errors: Packets that the decoder refused.
        corrupt: Frames that the decoder itself called damaged; they are not used.
        not_due: Slices that proved to hold no frame at all, so that none was due.
        interlaced: Whether a sampled frame was interlaced.
        transfer: The transfer characteristic of the last sampled frame, as FFmpeg numbers it.
    """

    errors: int = 0
    corrupt: int = 0
    not_due: int = 0
    interlaced: bool = False
    transfer: int = 0


class Video:
    """An open video file.

    Args:
        fd: Descriptor of a regular file; stays the caller's, its position is not moved.
        settings: Limits and allowed formats.

    Raises:
        RefusedError: Kind of file, format or a limit.
        UndecodableError: The header is damaged.
    """

    def __init__(self, fd: int, settings: ReaderSettings) -> None:
        self._settings = settings
        self._fd = fd
        self._open()
        self.tally = Tally()
        self.strategy = ""
        self._first_pts: int | None = self._stream.start_time
        self._orientation: Orientation | None = None
        self._aspect = 1.0
        self._converter = Converter()
        self._pending: deque[av.VideoFrame] = deque()
        self._packets: Iterator[av.Packet[av.VideoStream]] | None = None
        self._last_time_s: float | None = None

    def _open(self) -> None:
        self.file = DescriptorFile(self._fd)
        self._container = open_container(self.file, self._settings)
        try:
            self._stream = choose_stream(self._container)
            self._check_codec()
            for other in self._container.streams:
                if other.index != self._stream.index:
                    other.discard = Discard.all
        except BaseException:
            self.close()
            raise

    def _reopen(self) -> None:
        """Back to the first packet: many demuxers cannot seek there once they have read on, opening anew works."""
        self.close()
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the decoder's memory back."""
        self._container.close()

    @property
    def is_still(self) -> bool:
        """Whether the file is a picture."""
        return self._container.format.name in STILL_FORMATS

    @property
    def codec(self) -> str:
        """The codec's usual name (``h264``, ``av1``)."""
        name = self._stream.codec_context.codec.canonical_name
        return str(name)

    def info(self, found: Survey | None) -> VideoInfo:
        """What the container and the decoder say; complete once a frame was sampled."""
        context = self._stream.codec_context
        turned = self._orientation is not None and self._orientation.transposes
        width, height = round(context.width * self._aspect), context.height
        rate = self._stream.average_rate or self._stream.guessed_rate
        return VideoInfo(
            container=self._container.format.name,
            codec=self.codec,
            width=height if turned else width,
            height=width if turned else height,
            pixel_format=context.pix_fmt or "",
            fps=None if self.is_still or not rate else float(rate),
            duration_s=None if found is None else found.duration_s,
            rotation=0 if self._orientation is None else self._orientation.degrees,
            still=self.is_still,
        )

    @property
    def mirrored(self) -> bool:
        """Whether the stored picture was mirrored to make it upright."""
        return self._orientation is not None and self._orientation.mirrored

    def _check_codec(self) -> None:
        context = self._stream.codec_context
        tag = context.codec_tag.lower()
        if tag == "encv" or "enc_key_id" in self._stream.metadata:
            raise RefusedError("opening", "", "its pictures are encrypted", reason=Reason.ENCRYPTED)
        if self._container.format.name.startswith("mov") and is_encrypted_isobmff(
            self.file.read_at, self.file.size_bytes
        ):
            raise RefusedError("opening", "", "its pictures are encrypted", reason=Reason.ENCRYPTED)
        self._check_size(context.width, context.height)

    def _check_size(self, width: int, height: int) -> None:
        limits = self._settings
        if width * height > limits.max_pixels:
            raise RefusedError(
                "reading",
                "",
                f"{width}x{height} pixels are more than the {limits.max_pixels} allowed",
                reason=Reason.TOO_MANY_PIXELS,
                hint="see reader.max_pixels in the configuration",
            )
        if 0 < min(width, height) < limits.min_side_px:
            raise RefusedError(
                "reading",
                "",
                f"{width}x{height} pixels: a side is shorter than {limits.min_side_px}",
                reason=Reason.TOO_SMALL,
                hint="see reader.min_side_px in the configuration",
            )

    def survey(self) -> Survey:
        """Find out where the frames are.

        Raises:
            RefusedError: The video plays longer than the limit.
        """
        found = survey(self._container, self._stream, self.file)
        longest = max(found.duration_s or 0.0, found.stated_s or 0.0)
        if longest > self._settings.max_duration_s:
            raise RefusedError(
                "reading",
                "",
                f"it plays {longest:.0f} s, {self._settings.max_duration_s:.0f} are allowed",
                reason=Reason.TOO_LONG,
                hint="see reader.max_duration_s in the configuration",
            )
        if found.first_pts is not None:
            self._first_pts = found.first_pts
        if found.moved:
            self._reopen()
        elif self._container.format.name == "avi":
            # AVI lists decoding times; of a stream with B frames the first frame is shown later than time 0.
            with open_container(DescriptorFile(self._fd), self._settings) as other:
                self._first_pts = first_stamp(other, choose_stream(other))
        return found

    def plan(self, found: Survey) -> Plan:
        """How to take the sample."""
        frames, mode, threads = self._settings.frames, self._settings.sampling, self._threads
        if found.duration_s is None or found.duration_s <= 0:
            # Nothing tells where frames are: read through, all in one slice.
            return Plan("sequential", (Pick(0, 0.0, math.inf, 0.0),), hops=False, reference_only=False, cost=0.0)
        context = self._stream.codec_context
        skippable = _SKIPPABLE.get(self.codec, 0.0) if context.has_b_frames else 0.0
        if found.index is not None:
            return plan_sample(found.index, frames, mode, skippable_share=skippable, threads=threads)
        if mode == "exact":
            step = found.duration_s / frames
            picks = tuple(
                Pick(number, start, end, start + step / 2, start + step / 2)
                for number, (start, end) in enumerate(slice_bounds(found.duration_s, frames))
            )
            return Plan("exact", picks, hops=True, reference_only=False, cost=math.inf)
        return plan_blind(found.duration_s, frames)

    @property
    def _threads(self) -> int:
        return self._settings.decoder_threads or 1

    def sample(self, plan: Plan) -> Iterator[Taken]:
        """The planned frames that could be decoded, in order of time.

        A damaged frame is passed over for the next good one of its slice. Where seeking proves to be a lie (the
        container calls every frame a key frame, or a seek ends elsewhere), the rest is read straight through.

        Raises:
            RefusedError: A frame has more pixels than its header said and than are allowed.
        """
        self.strategy = plan.strategy
        self._configure(plan)
        if not plan.hops:
            yield from self._through(deque(plan.picks))
            return
        for number, pick in enumerate(plan.picks):
            last = number + 1 == len(plan.picks)
            alone = last or plan.picks[number + 1].key_s is not None
            taken = self._hop(pick, alone=alone)
            if taken is None and self._keys_lie:
                self.strategy = "exact" if plan.strategy == "exact" else "sequential"
                self._restart(plan)
                yield from self._through(deque(plan.picks[number:]))
                return
            if taken is None:
                # The decoder's place is unknown now; a pick that wanted to go on from here seeks itself.
                self._position_lost = True
                continue
            if not pick.is_key and self.strategy == "keyframes":
                self.strategy = "seek"
            yield taken

    def _configure(self, plan: Plan) -> None:
        context = self._stream.codec_context
        context.options = {"max_pixels": str(self._settings.max_pixels)}
        context.thread_count = self._threads
        # Frame threads delay every frame, which costs most when frames are fetched one by one.
        rolls = not plan.hops or any(not pick.is_key for pick in plan.picks)
        context.thread_type = "FRAME" if rolls and self._threads > 1 else "SLICE"
        if plan.reference_only:
            context.skip_frame = "NONREF"
        self._keys_lie = False
        self._position_lost = False
        self._packets = None
        self._pending.clear()

    def _restart(self, plan: Plan) -> None:
        self._reopen()
        self._configure(plan)

    # Time

    def _time_of(self, stamp: int | None) -> float | None:
        if stamp is None or self._stream.time_base is None:
            return None
        if self._first_pts is None:
            self._first_pts = stamp
        return float((stamp - self._first_pts) * self._stream.time_base)

    def _frame_time(self, frame: av.VideoFrame) -> float:
        time_s = self._time_of(frame.pts if frame.pts is not None else frame.dts)
        if time_s is None:
            time_s = 0.0 if self._last_time_s is None else self._last_time_s + self._frame_s
        self._last_time_s = time_s
        return time_s

    @property
    def _frame_s(self) -> float:
        rate = self._stream.average_rate or self._stream.guessed_rate
        return 1 / float(rate) if rate else _UNKNOWN_FRAME_S

    # Decoding

    def _decode(self, packet: av.Packet[av.VideoStream] | None) -> list[av.VideoFrame]:
        try:
            return self._stream.codec_context.decode(packet)
        except MemoryError:
            raise
        except EOFError:
            return []
        except av.FFmpegError:
            self.tally.errors += 1
            return []

    def _frames(self) -> Iterator[av.VideoFrame]:
        """Good and damaged frames from the decoder's place on, to the end of the stream."""
        if self._packets is None:
            self._packets = packets_of(self._container, self._stream)
        while True:
            while self._pending:
                yield self._pending.popleft()
            packet = next(self._packets, None)
            if packet is None:
                self._pending.extend(self._decode(None))
                yield from self._drain_pending()
                return
            self._pending.extend(self._decode(packet))

    def _drain_pending(self) -> Iterator[av.VideoFrame]:
        while self._pending:
            yield self._pending.popleft()

    @property
    def faults(self) -> int:
        """Packets refused and frames damaged so far."""
        return self.tally.errors + self.tally.corrupt

    def _usable(self, frame: av.VideoFrame) -> bool:
        if frame.is_corrupt:
            self.tally.corrupt += 1
            return False
        self._check_size(frame.width, frame.height)
        return True

    def _take(self, pick: Pick, time_s: float, frame: av.VideoFrame) -> Taken:
        if self._orientation is None:
            self._orientation = orientation_of(frame)
            aspect = self._stream.sample_aspect_ratio or self._stream.codec_context.sample_aspect_ratio
            self._aspect = pixel_aspect_of(float(aspect) if aspect else None)
        self.tally.interlaced |= bool(frame.interlaced_frame)
        self.tally.transfer = int(frame.color_trc)
        return Taken(pick, max(0.0, time_s), VideoPicture(frame, self._orientation, self._aspect, self._converter))

    def _through(self, picks: deque[Pick]) -> Iterator[Taken]:
        best: tuple[float, av.VideoFrame] | None = None
        faults = self.faults
        for frame in self._frames():
            if not self._usable(frame):
                continue
            time_s = self._frame_time(frame)
            while picks and time_s >= picks[0].end_s - _SLACK_S:
                pick = picks.popleft()
                if best is not None:
                    yield self._take(pick, *best)
                    best = None
                elif self.faults == faults:
                    self.tally.not_due += 1
                faults = self.faults
            if not picks:
                return
            if time_s < picks[0].start_s - _SLACK_S:
                continue
            best = (time_s, frame)
            if time_s >= picks[0].target_s - _SLACK_S:
                yield self._take(picks.popleft(), *best)
                best = None
                if not picks:
                    return
        if picks and best is not None:
            yield self._take(picks.popleft(), *best)

    def _hop(self, pick: Pick, *, alone: bool) -> Taken | None:
        """The frame of one pick; ``alone``: the next pick seeks too, so nothing need be kept in the decoder."""
        key_s = pick.key_s
        if key_s is None and self._position_lost:
            key_s = pick.target_s
        if key_s is None:
            return self._roll(pick)
        self._position_lost = False
        if pick.is_key:
            packet = self._seek_key(key_s, pick.end_s)
            if packet is not None:
                if not alone:
                    self._pending.extend(self._decode(packet))
                    return self._roll(pick)
                taken = self._lone_key(pick, packet)
                if taken is not None or self._keys_lie:
                    return taken
            # No key frame where one should be, or a damaged one: the slice's first frame will do.
            pick = replace(pick, target_s=pick.start_s)
        packet = self._seek_key(-math.inf, pick.end_s, near_s=min(key_s, pick.target_s))
        if packet is None:
            return None
        self._pending.extend(self._decode(packet))
        return self._roll(pick)

    def _seek_key(self, key_s: float, end_s: float, near_s: float | None = None) -> av.Packet[av.VideoStream] | None:
        """Seek, then skip packets undecoded up to the first key frame in [key_s, end_s)."""
        unit_s = float(self._stream.time_base or 1)
        target_s = (key_s if near_s is None else near_s) + 0.45 * self._frame_s
        self._pending.clear()
        self._packets = None
        self._last_time_s = None
        try:
            self._container.seek((self._first_pts or 0) + math.floor(target_s / unit_s), stream=self._stream)
        except MemoryError:
            raise
        except av.FFmpegError:
            return None
        self._packets = packets_of(self._container, self._stream)
        for packet in self._packets:
            time_s = self._time_of(packet.pts if packet.pts is not None else packet.dts)
            if time_s is not None and time_s >= end_s:
                return None
            if packet.is_keyframe and (time_s is None or time_s >= key_s - 0.45 * self._frame_s):
                return packet
        return None

    def _lone_key(self, pick: Pick, packet: av.Packet[av.VideoStream]) -> Taken | None:
        frames = self._decode(packet)
        if not frames and self._packets is not None and int(self._stream.codec_context.field_order) > _PROGRESSIVE:
            # The second field of an interlaced frame may travel in a packet of its own.
            second = next(self._packets, None)
            if second is not None and not second.is_keyframe:
                frames += self._decode(second)
        frames += self._decode(None)
        self._stream.codec_context.flush_buffers()
        for frame in frames:
            if not self._usable(frame):
                continue
            if not frame.key_frame:
                self._keys_lie = True
                return None
            time_s = self._frame_time(frame)
            if pick.start_s - _SLACK_S <= time_s < pick.end_s:
                return self._take(pick, time_s, frame)
        return None

    def _roll(self, pick: Pick) -> Taken | None:
        """Decode on to the pick's frame."""
        best: tuple[float, av.VideoFrame] | None = None
        faults = self.faults
        for frame in self._frames():
            if not self._usable(frame):
                continue
            time_s = self._frame_time(frame)
            if time_s >= pick.end_s - _SLACK_S:
                # It belongs to a later slice.
                self._pending.appendleft(frame)
                self.tally.not_due += int(best is None and self.faults == faults)
                break
            if time_s < pick.start_s - _SLACK_S:
                continue
            best = (time_s, frame)
            if time_s >= pick.target_s - _SLACK_S:
                break
        return None if best is None else self._take(pick, *best)


def why_nothing_decoded(fd: int, settings: ReaderSettings) -> RefusedError | UndecodableError:
    """Decode the first packets once more, listening to the decoder's own words, to name the reason."""
    generous = replace(settings, decoder_threads=1)
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    words: list[str] = []
    try:
        with av.logging.Capture(local=False) as logs, Video(fd, generous) as video:
            packets = packets_of(video._container, video._stream)
            for packet, _ in zip(packets, range(_HEADROOM_FRAMES), strict=False):
                video._decode(packet)
            words = [text for _, _, text in logs]
    except RefusedError as refused:
        return refused
    except UndecodableError as undecodable:
        return undecodable
    finally:
        av.logging.set_level(level)
    said = " ".join(words).strip()
    if "exceeds specified max pixel count" in said:
        return RefusedError("decoding", "", "its frames have more pixels than allowed", reason=Reason.TOO_MANY_PIXELS)
    if "not implemented" in said or "not supported" in said or "unsupported" in said.lower():
        return RefusedError("decoding", "", "the decoder does not support it", reason=Reason.UNSUPPORTED_CODEC)
    cause = f"the decoder could use none of its frames ({said[:200]})" if said else "it holds no frames"
    return UndecodableError("decoding", "", cause, reason=Reason.CORRUPT if said else Reason.NO_FRAMES)
