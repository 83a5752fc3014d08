"""In the reader child: carry out a plan, decoding no more than it asks for, one frame in hand at a time."""

from __future__ import annotations

import itertools
import math
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

import av

from dfwatch.decode.demuxing import SEEKS_BY_GUESS, packets_of, stamp_of
from dfwatch.decode.good_frames import TELLS_WHEN_HEALED, GoodFrames
from dfwatch.decode.pictures import Converter, Orientation, VideoPicture, orientation_of, pixel_aspect_of
from dfwatch.sampling import SLACK_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dfwatch.config import ReaderSettings
    from dfwatch.decode.demuxing import Source
    from dfwatch.decode.holes import Hole
    from dfwatch.sampling import Pick, Plan

    VideoPacket = av.Packet[av.VideoStream]

_PROGRESSIVE = 1  # AV_FIELD_PROGRESSIVE; 0 is unknown, the others are interlaced
# How much earlier to seek, in seconds, when a seek ended too late: some containers seek by guessing.
_BACK_OFF_S = (0.0, 1.0, 4.0, 16.0, 64.0)
_GROUP_PACKETS = 3000
_AHEAD_S = 1.0
# Encoders seldom spread a refresh over more frames than this takes. In longer slices the decoder recovers by itself.
_RECOVERY_S = 12.0


class Taken(NamedTuple):
    """One sampled frame."""

    pick: Pick
    time_s: float
    picture: VideoPicture


class Sampler:
    """Takes the frames of one plan.

    Args:
        source: The open file, at its start.
        settings: Limits and threads.
        plan: What to take.
        first_pts: Time stamp of the frame that is shown first; None: that of the first frame decoded.
        holes: Where frames are missing.

    Attributes:
        strategy: How the frames were reached in fact.
        tally: What was met on the way.
        orientation: How frames become upright; None before the first one.
    """

    def __init__(
        self,
        source: Source,
        settings: ReaderSettings,
        plan: Plan,
        first_pts: int | None,
        holes: Sequence[Hole] = (),
    ) -> None:
        self._source = source
        self._settings = settings
        self._plan = plan
        self._first_pts = first_pts
        self._converter = Converter()
        self._good = GoodFrames(source, self._time_of, holes)
        self._last_time_s: float | None = None
        self._position_lost = False
        self._keys_lie = False
        self._leaves_out = plan.reference_only
        self.strategy = plan.strategy
        self.tally = self._good.tally
        self.orientation: Orientation | None = None
        self._aspects: dict[tuple[int, int], float] = {}

    def sample(self) -> Iterator[Taken]:
        """The planned frames that could be decoded, in order of time.

        A damaged frame is passed over for the next good one of its slice. Where the container calls every frame a key
        frame, the rest is read straight through. Where a slice holds only frames to which no other frame refers, none
        is left out from there on.

        Raises:
            RefusedError: A frame has more pixels than its header said and than are allowed.
        """
        self._configure()
        if self._plan.hops:
            yield from self._hop_all(self._plan.picks)
        else:
            yield from self._through(deque(self._plan.picks))

    def _configure(self) -> None:
        context = self._source.stream.codec_context
        threads = self._settings.decoder_threads or 1
        context.options = {"max_pixels": str(self._settings.max_pixels)}
        if self._source.codec == "hevc":
            # It would say nothing of a damaged frame otherwise.
            context.options |= {"err_detect": "explode"}
        context.thread_count = threads
        # Frame threads delay every frame, which costs most when frames are fetched one by one.
        rolls = not self._plan.hops or any(not pick.is_key for pick in self._plan.picks)
        context.thread_type = "FRAME" if rolls and threads > 1 else "SLICE"
        context.skip_frame = "NONREF" if self._leaves_out else "DEFAULT"

    # Reading straight through

    def _through(self, picks: deque[Pick]) -> Iterator[Taken]:
        errors, corrupt = self.tally.errors, self.tally.corrupt
        yield from self._read_on(picks)
        if picks and self._leaves_out:
            # Nothing tells before how many frames in a row no other refers to: encoders may make it any number.
            self._leaves_out = False
            # What was met on the way is met again.
            self.tally.errors, self.tally.corrupt = errors, corrupt
            self._seek_start()
            yield from self._read_on(picks)

    def _read_on(self, picks: deque[Pick]) -> Iterator[Taken]:
        """The picks' frames, as far as the frames that are not left out give them; the others stay in ``picks``."""
        best: tuple[float, av.VideoFrame] | None = None
        lost = False
        for frame in self._good.following():
            if not self._usable(frame):
                lost = True
                continue
            time_s = self._frame_time(frame)
            while picks and time_s >= picks[0].end_s - SLACK_S:
                if best is None and not lost and self._leaves_out:
                    return
                pick = picks.popleft()
                if best is not None:
                    yield self._take(pick, *best)
                    best = None
                elif not lost:
                    self.tally.not_due += int(not pick.due)
            lost = False
            if not picks:
                return
            if time_s < picks[0].start_s - SLACK_S:
                continue
            best = (time_s, frame)
            if time_s >= picks[0].target_s - SLACK_S:
                yield self._take(picks.popleft(), *best)
                best = None
                if not picks:
                    return
        if picks and best is not None:
            yield self._take(picks.popleft(), *best)

    # Hopping from slice to slice

    def _hop_all(self, picks: Sequence[Pick]) -> Iterator[Taken]:
        landed = False
        barren: Pick | None = None
        for number, pick in enumerate(picks):
            last = number + 1 == len(picks)
            alone = last or picks[number + 1].key_s is not None
            faults, not_due = self.tally.faults, self.tally.not_due
            taken = self._hop(pick, alone=alone)
            if taken is None and self._leaves_out and self._is_unharmed(faults):
                self._leaves_out = False
                self._source.stream.codec_context.skip_frame = "DEFAULT"
                self.tally.not_due = not_due
                self._position_lost = True
                taken = self._hop(pick, alone=alone)
            if taken is not None:
                landed = landed or bool(pick.key_s)
                barren = None
                if not pick.is_key and self.strategy == "keyframes":
                    self.strategy = "seek"
                yield taken
                continue
            # Two seeks in a row that gave nothing, and none before that did: not damage but false key frames. Neither
            # is it damage where nothing is missing and the decoder objects to nothing: with intra refresh it shows no
            # picture before it has recovered, which may take longer than a short slice.
            unrecovered = (
                self._is_unharmed(faults)
                and self._source.codec in TELLS_WHEN_HEALED
                and pick.end_s - pick.start_s <= _RECOVERY_S
            )
            if self._keys_lie or (barren is not None and not landed) or unrecovered:
                rest = picks[picks.index(barren) if barren is not None else number :]
                self.strategy = "exact" if self.strategy == "exact" else "sequential"
                self._seek_start()
                yield from self._through(deque(rest))
                return
            barren = barren or pick
            # A pick that wanted to go on from here has to seek itself.
            self._position_lost = True

    def _is_unharmed(self, faults: int) -> bool:
        """Whether nothing is missing, and the decoder has objected to nothing since there were so many faults."""
        return self.tally.faults == faults and not self._good.misses_some

    def _hop(self, pick: Pick, *, alone: bool) -> Taken | None:
        """The frame of one pick; ``alone``: the next pick seeks too, so nothing need be kept in the decoder."""
        key_s = pick.target_s if pick.key_s is None and self._position_lost else pick.key_s
        if key_s is None:
            return self._roll(pick)
        self._position_lost = False
        if pick.is_key:
            packet = self._seek_key_in(pick)
            if packet is not None:
                if not alone:
                    self._good.take_up(packet)
                    return self._roll(pick)
                taken = self._lone_key(pick, packet)
                if taken is not None or self._keys_lie:
                    return taken
            # No key frame where one should be, or a damaged one: any frame of the slice will do.
            pick = replace(pick, target_s=pick.start_s)
        group = self._seek_key_before(min(key_s, pick.target_s), pick.end_s)
        if not group:
            return None
        self._good.packets = itertools.chain(group, self._good.packets or ())
        return self._roll(pick)

    def _seek_key_in(self, pick: Pick) -> VideoPacket | None:
        """The first key frame at or after the pick's and within its slice; the packets before it are not decoded."""
        tolerance = 0.45 * self._source.frame_s
        ahead_s = _AHEAD_S if self._source.container.format.name in SEEKS_BY_GUESS else -tolerance
        if not self._seek(pick.target_s - ahead_s):
            return None
        for packet, time_s in self._timed_packets():
            if time_s is not None and time_s >= pick.end_s:
                return None
            if packet.is_keyframe and (time_s is None or time_s >= pick.target_s - tolerance):
                return packet
        return None

    def _seek_key_before(self, time_s: float, end_s: float) -> list[VideoPacket]:
        """Packets from the last key frame at or before a time, or else from the first one before ``end_s``."""
        tolerance = 0.45 * self._source.frame_s
        for back_s in _BACK_OFF_S:
            start_s = time_s - back_s
            if not self._seek(start_s + tolerance):
                return []
            no_earlier = start_s <= self._source.frame_s or back_s == _BACK_OFF_S[-1]
            group = self._group_before(time_s + tolerance, end_s, no_earlier=no_earlier)
            if group or no_earlier:
                return group
        return []

    def _group_before(self, time_s: float, end_s: float, *, no_earlier: bool) -> list[VideoPacket]:
        # Some seeks end several key frames too early: demuxing on to the last one costs nothing beside decoding.
        group: list[VideoPacket] = []
        for packet, found_s in self._timed_packets():
            if packet.is_keyframe and (found_s is None or found_s <= time_s or not group):
                if found_s is not None and (found_s >= end_s or (found_s > time_s and not no_earlier)):
                    return []
                group = [packet]
            elif group:
                group.append(packet)
            if group and (found_s is None or found_s >= time_s - self._source.frame_s or len(group) >= _GROUP_PACKETS):
                return group
        return group

    def _seek(self, time_s: float) -> bool:
        if time_s <= self._source.frame_s or self._source.reads_through:
            # Some demuxers cannot find their own first packet again.
            return self._seek_start()
        stream = self._source.stream
        stamp = (self._first_pts or 0) + math.floor(time_s / float(stream.time_base or 1))
        self._move(None)
        try:
            self._source.seek(stamp)
        except MemoryError:
            raise
        except av.FFmpegError:
            return False
        self._good.packets = packets_of(self._source)
        return True

    def _seek_start(self) -> bool:
        if self._good.packets is not None:
            self._source.reopen()
            self._configure()
        self._move(packets_of(self._source))
        return True

    def _move(self, packets: Iterator[VideoPacket] | None) -> None:
        self._good.move(packets)
        self._last_time_s = None

    def _timed_packets(self) -> Iterator[tuple[VideoPacket, float | None]]:
        for packet in self._good.packets or ():
            yield packet, self._time_of(stamp_of(packet))

    def _lone_key(self, pick: Pick, packet: VideoPacket) -> Taken | None:
        context = self._source.stream.codec_context
        frames = self._good.decode(packet)
        if not frames and self._good.packets is not None and int(context.field_order) > _PROGRESSIVE:
            # The second field of an interlaced frame may travel in a packet of its own.
            second = next(self._good.packets, None)
            if second is not None and not second.is_keyframe:
                frames += self._good.decode(second)
        frames += self._good.decode(None)
        context.flush_buffers()
        for frame in frames:
            if not self._usable(frame):
                continue
            if not frame.key_frame:
                self._keys_lie = True
                return None
            time_s = self._frame_time(frame)
            if pick.start_s - SLACK_S <= time_s < pick.end_s:
                return self._take(pick, time_s, frame)
        return None

    def _roll(self, pick: Pick) -> Taken | None:
        """Decode on to the pick's frame."""
        best: tuple[float, av.VideoFrame] | None = None
        lost = False
        for frame in self._good.following():
            if not self._usable(frame):
                lost = True
                continue
            time_s = self._frame_time(frame)
            if time_s >= pick.end_s - SLACK_S:
                # It belongs to a later slice, and what was lost may have belonged to the slices before that.
                self._good.put_back(*((None, frame) if lost else (frame,)))
                self.tally.not_due += int(best is None and not lost and not pick.due)
                break
            lost = False
            if time_s < pick.start_s - SLACK_S:
                continue
            best = (time_s, frame)
            if time_s >= pick.target_s - SLACK_S:
                break
        return None if best is None else self._take(pick, *best)

    def _usable(self, frame: av.VideoFrame | None) -> TypeGuard[av.VideoFrame]:
        if frame is None:
            return False
        self._source.check_size(frame.width, frame.height)
        return True

    def _take(self, pick: Pick, time_s: float, frame: av.VideoFrame) -> Taken:
        if self.orientation is None:
            self.orientation = orientation_of(frame)
        self.tally.interlaced |= bool(frame.interlaced_frame)
        self.tally.transfer = int(frame.color_trc)
        picture = VideoPicture(frame, self.orientation, self._aspect_of(frame), self._converter)
        return Taken(pick, max(0.0, time_s), picture)

    def _aspect_of(self, frame: av.VideoFrame) -> float:
        """Width of the frame's pixels over their height; what the container states, it states of the first size."""
        size = (frame.width, frame.height)
        if size not in self._aspects:
            stream = self._source.stream
            stated = None if self._aspects else stream.sample_aspect_ratio
            aspect = stated or stream.codec_context.sample_aspect_ratio
            self._aspects[size] = pixel_aspect_of(float(aspect) if aspect else None)
        return self._aspects[size]

    def _time_of(self, stamp: int | None) -> float | None:
        unit = self._source.stream.time_base
        if stamp is None or unit is None:
            return None
        if self._first_pts is None:
            self._first_pts = stamp
        return float((stamp - self._first_pts) * unit)

    def _frame_time(self, frame: av.VideoFrame) -> float:
        time_s = self._time_of(stamp_of(frame))
        if time_s is None:
            time_s = 0.0 if self._last_time_s is None else self._last_time_s + self._source.frame_s
        self._last_time_s = time_s
        return time_s
