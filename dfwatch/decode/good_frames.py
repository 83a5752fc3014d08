"""In the reader child: packets into frames, without any that is made of damaged or missing ones."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import av

from dfwatch.decode.demuxing import packets_of, stamp_of
from dfwatch.sampling import SLACK_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dfwatch.decode.demuxing import Source
    from dfwatch.decode.holes import Hole

    VideoPacket = av.Packet[av.VideoStream]

# The demuxer's parser holds some packets when the demuxer calls one damaged.
_SEGMENT_END_PACKETS = 3
# Once emptied, these decoders show nothing, or call it damaged, until a picture is whole. That need not take a key
# frame: some streams renew the picture part by part.
TELLS_WHEN_HEALED = frozenset({"h264"})


@dataclass(slots=True)
class Tally:
    """What was met on the way.

    Attributes:
        errors: Packets that the decoder refused.
        corrupt: Frames that the decoder or the demuxer called damaged; they are not used.
        unused_s: Time of the latest packet that holds something and gave no frame, for damage in it or before it.
        not_due: Slices that proved to hold no frame at all, so that none was due.
        interlaced: Whether a sampled frame was interlaced.
        transfer: The transfer characteristic of the last sampled frame, as FFmpeg numbers it.
    """

    errors: int = 0
    corrupt: int = 0
    unused_s: float = 0.0
    not_due: int = 0
    interlaced: bool = False
    transfer: int = 0

    @property
    def faults(self) -> int:
        """Packets refused and frames damaged."""
        return self.errors + self.corrupt


class GoodFrames:
    """The frames of a source from its place on.

    Args:
        source: The open file.
        time_of: From a time stamp to seconds of the playing time; None where it cannot be told.
        holes: Where frames are missing.

    Attributes:
        packets: What the demuxer gives next; None: from where it stands.
        tally: What was met on the way.
    """

    def __init__(
        self, source: Source, time_of: Callable[[int | None], float | None], holes: Sequence[Hole] = ()
    ) -> None:
        self._source = source
        self._time_of = time_of
        # None: frames were lost here.
        self._pending: deque[av.VideoFrame | None] = deque()
        self._hole_ends_s = [hole.end_s for hole in holes if hole.lost]
        self._latest_s: float | None = None
        # After damage, packets are passed over up to a key frame's, and frames until one is good again.
        self._passes_over = False
        self._heals = False
        self._resumed_at: int | None = None
        self._recording: int | None = None
        self.packets: Iterator[VideoPacket] | None = None
        self.tally = Tally()

    @property
    def misses_some(self) -> bool:
        """Whether frames are known to be missing from the file."""
        return bool(self._hole_ends_s)

    def move(self, packets: Iterator[VideoPacket] | None) -> None:
        """Go on with other packets; what was decoded of those before is forgotten."""
        self._pending.clear()
        self._recording = None
        self._latest_s = None
        self._passes_over = self._heals = False
        self.packets = packets

    def put_back(self, *frames: av.VideoFrame | None) -> None:
        """Have ``following`` begin with these frames."""
        self._pending.extendleft(reversed(frames))

    def take_up(self, packet: VideoPacket) -> None:
        """Have ``following`` go on with a packet that was taken from ``packets``."""
        self._pending.extend(self.decode(packet))

    def following(self) -> Iterator[av.VideoFrame | None]:
        """Good frames from the decoder's place on, to the end of the stream; None: some were lost."""
        if self.packets is None:
            self.packets = packets_of(self._source)
        at_end = False
        while True:
            while self._pending:
                yield self._pending.popleft()
            if at_end:
                return
            packet = next(self.packets, None)
            at_end = packet is None
            if packet is not None and self._begins_recording(packet):
                # What refers to frames before this one must not be made of another recording's.
                self._pending.extend(self.decode(None))
                self._source.stream.codec_context.flush_buffers()
            if packet is not None and self._follows_hole(packet):
                self._pending.extend((*self.decode(None), None))
                self._break_off()
            if packet is not None and self._passes_over:
                if not packet.is_keyframe:
                    self._leave_out(packet)
                    continue
                self._passes_over, self._resumed_at = False, stamp_of(packet)
            self._pending.extend(self.decode(packet))

    def _follows_hole(self, packet: VideoPacket) -> bool:
        time_s = self._time_of(stamp_of(packet)) if self._hole_ends_s else None
        if time_s is None:
            return False
        before, self._latest_s = self._latest_s, max(time_s, self._latest_s or 0.0)
        return before is not None and any(before < end_s - SLACK_S <= time_s for end_s in self._hole_ends_s)

    def _begins_recording(self, packet: VideoPacket) -> bool:
        joins, before = self._source.joins, self._recording
        if joins is None or packet.pos is None:
            return False
        self._recording = joins.recording_at(packet.pos)
        return before is not None and before != self._recording

    def _leave_out(self, packet: VideoPacket | None) -> None:
        """Note a packet that is not used; where nothing was ever written, there are zeros."""
        time_s = None if packet is None else self._time_of(stamp_of(packet))
        if packet is not None and time_s is not None and time_s > self.tally.unused_s and any(bytes(packet)):
            self.tally.unused_s = time_s

    def _is_incomplete(self, packet: VideoPacket) -> bool:
        """Whether the demuxer misses a part of a packet.

        It also says so where one segment of a stream ends and the next one begins, which is nearly always at a key
        frame; and where it is right there, nothing behind the key frame is made of it.
        """
        if not packet.is_corrupt:
            return False
        ahead = list(itertools.islice(self.packets or (), _SEGMENT_END_PACKETS))
        self.packets = itertools.chain(ahead, self.packets or ())
        return not any(following.is_keyframe for following in ahead)

    def decode(self, packet: VideoPacket | None) -> list[av.VideoFrame | None]:
        """Good frames; None: some were lost."""
        if packet is not None and self._is_incomplete(packet):
            self.tally.corrupt += 1
            self._break_off()
            return [None]
        try:
            decoded = self._source.stream.codec_context.decode(packet)
        except (MemoryError, EOFError) as error:
            if isinstance(error, MemoryError):
                raise
            return []
        except av.FFmpegError:
            self.tally.errors += 1
            self._leave_out(packet)
            self._break_off()
            return [None]
        frames: list[av.VideoFrame | None] = []
        for frame in decoded:
            if frame.is_corrupt:
                self.tally.corrupt += 1
                frames.append(None)
                # While a picture heals, the frames before it is whole are called damaged too, but no key frame is.
                if (frame.key_frame or not self._heals) and self._break_off():
                    break
            elif self._heals and not self._is_healed(frame):
                frames.append(None)
            else:
                self._heals = False
                frames.append(frame)
        return frames

    def _is_healed(self, frame: av.VideoFrame) -> bool:
        stamp = stamp_of(frame)
        if stamp is not None and self._resumed_at is not None and stamp < self._resumed_at:
            # It was in the decoder still, or is shown before the key frame and refers to what was lost.
            return False
        return bool(frame.key_frame) or self._source.codec in TELLS_WHEN_HEALED

    def _break_off(self) -> bool:
        """Use nothing that is predicted from damaged or missing frames; returns whether anything might be."""
        context = self._source.stream.codec_context
        if context.codec.intra_only:
            return False
        context.flush_buffers()
        self._passes_over = self._heals = True
        self._resumed_at = None
        return True
