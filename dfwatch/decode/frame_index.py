"""In the reader child: learn where a video's frames are, without decoding any."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, overload

import av
import numpy as np

from dfwatch.decode.avi import chunks_beside_holes
from dfwatch.decode.demuxing import SEEKS_BY_GUESS, all_packets_of, packets_of, stamp_of
from dfwatch.decode.durations import HIGHEST_USUAL_RATE, is_of_whole_file, lone_frame_s, playing_time, stated_duration
from dfwatch.decode.holes import LOST_SHARE, REORDERED_PACKETS, Hole, PacketLog, usual_step
from dfwatch.decode.joins import find_joins
from dfwatch.decode.recordings import OtherStreams, may_hold_several
from dfwatch.inbox.containers import declared_length
from dfwatch.sampling import FrameIndex, ListedFrames

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dfwatch.decode.demuxing import DescriptorFile, Source

# Demuxing a file of this size takes less time than decoding a few frames of it.
DEMUX_LIMIT_BYTES = 64 * 1024 * 1024
# More packets than this are counted, but only their key frames are remembered.
LISTED_PACKETS = 1_000_000
# Formats whose header lists every frame; of the others only key frames may be listed, or nothing.
# Longer lists of key frames are not read through.
READ_ENTRIES = 4096
_LISTS_ALL = ("mov", "avi", "mxf")
_LISTS_KEYS = ("matroska", "flv")
# Players stop where these end, or are no longer written, without a word.
_MAY_END_ANYWHERE = ("matroska", "ogg")
_BLOCK_BYTES = 1024 * 1024


class EntryIndex:
    """The demuxer's own list of frames (in order of decoding times), looked into without copying it.

    It reads the demuxer's memory, so it must not be used once the container is closed.

    Args:
        stream: A stream whose index is complete.
        duration_s: Playing time that the container states; used to tell the last frame's duration.

    Attributes:
        duration_s: Playing time: what is stated, or what the list gives where the two do not fit.
        fits: Whether they do.
    """

    def __init__(self, stream: av.VideoStream, duration_s: float) -> None:
        self._entries = stream.index_entries
        # Frames outside the edit list are decoded but never shown.
        shown = range(len(self._entries))
        while len(shown) > 1 and self._entries[shown[-1]].is_discard:
            shown = shown[:-1]
        while len(shown) > 1 and self._entries[shown[0]].is_discard:
            shown = shown[1:]
        self._offset, self._length = shown.start, len(shown)
        self._unit_s = float(stream.time_base or 1)
        self._first = self._entry(0).timestamp
        last_s = self.time_s(self._length - 1)
        step = last_s / (self._length - 1) if self._length > 1 else duration_s
        # A statement that fits tells more than the list: it knows the last frame's duration and the edit list.
        self.fits = duration_s > 0 and last_s - 2 * step <= duration_s <= last_s + 20 * step + 1
        self.duration_s = duration_s if self.fits else last_s + step

    def _entry(self, position: int) -> av.index.IndexEntry:
        return self._entries[self._offset + position]

    def time_s(self, position: int) -> float:
        """Decoding time of a frame, from the first one."""
        return float((self._entry(position).timestamp - self._first) * self._unit_s)

    def position(self, time_s: float) -> int:
        """How many frames are earlier."""
        if time_s == float("inf"):
            return self._length
        return bisect_left(range(self._length), time_s - 1e-9, key=self.time_s)

    def count(self, start_s: float, end_s: float) -> int:
        """As ``FrameIndex.count``, by decoding times."""
        return self.position(end_s) - self.position(start_s)

    def surely_shows(self, start_s: float, end_s: float) -> bool:
        """As ``FrameIndex.surely_shows``: a frame may be shown earlier or later than it is decoded, many may not."""
        return self.count(start_s, end_s) > REORDERED_PACKETS

    def key_nearest(self, start_s: float, middle_s: float, end_s: float) -> float | None:
        """As ``FrameIndex.key_nearest``."""
        first, middle, last = self.position(start_s), self.position(middle_s), self.position(end_s)
        for distance in range(max(middle - first, last - middle) + 1):
            for position in (middle - distance, middle + distance):
                if first <= position < last and self._entry(position).is_keyframe:
                    return self.time_s(position)
        return None

    def key_before(self, time_s: float) -> float:
        """As ``FrameIndex.key_before``."""
        position = min(self.position(time_s + 2e-9), self._length) - 1
        while position > 0 and not self._entry(position).is_keyframe:
            position -= 1
        return self.time_s(max(position, 0))

    def end_inside(self, size_bytes: int) -> float:
        """Time up to which the frames' bytes lie within a file of this size."""

        def lies_outside(position: int) -> bool:
            entry = self._entry(position)
            return bool(entry.pos + entry.size > size_bytes)

        # Offsets grow with time but for interleaving that no half-copied file depends on.
        inside = bisect_left(range(self._length), True, key=lies_outside)  # noqa: FBT003 - the value sought
        return self.duration_s if inside == self._length else self.time_s(inside)


class EntryTimes(Sequence[float]):
    """Times of a long list of key frames, ascending, each looked up when it is asked for.

    Hours of a video of nothing but key frames list hundreds of thousands; a plan looks at a few hundred of them.

    Args:
        entries: The demuxer's list, which must not be used once the container is closed.
        start: Time stamp of time 0.
        unit_s: Seconds of one unit of time stamps.
        duration_s: Entries after this time, and before time 0, are left out.
    """

    def __init__(self, entries: av.index.IndexEntries, start: int, unit_s: float, duration_s: float) -> None:
        self._entries, self._start, self._unit_s = entries, start, unit_s
        self._first, self._end = 0, len(entries)
        self._first, self._end = bisect_left(self, 0.0), bisect_right(self, duration_s)

    def __len__(self) -> int:
        return self._end - self._first

    @overload
    def __getitem__(self, position: int) -> float: ...
    @overload
    def __getitem__(self, position: slice) -> list[float]: ...
    def __getitem__(self, position: int | slice) -> float | list[float]:
        if isinstance(position, slice):
            return [self[number] for number in range(*position.indices(len(self)))]
        number = position + (self._first if position >= 0 else self._end)
        if not self._first <= number < self._end:
            raise IndexError(position)
        return (self._entries[number].timestamp - self._start) * self._unit_s


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known of the frames before decoding any.

    Attributes:
        index: Where the frames are; None when only a seek will tell.
        first_pts: Time stamp of the first frame, in the stream's unit; None when unknown.
        duration_s: Playing time by the best evidence; None when nothing tells.
        present_s: Playing time whose bytes are in the file; None when unknown.
        stated_s: Playing time that the header states; None where it states none.
        lists_all: Whether the container's own list of frames is there, and whole.
        read_all: Whether every packet was read instead.
        moved: Whether packets were read, so that the container is no longer at its start.
        holes: Playing time without a frame, where every packet was read, or listed.
        misplaced_share: Share of the frames that come after frames shown later, 0 to 1, as far as was looked.
        recordings: How many, each with time stamps of its own, were put one after another.
        sound_s: Playing time of the file's other streams, where the header states more than the frames cover, and of
            the whole file; 0 where it was not looked at.
        frames_per_s: Frame rate by the packets' times, pauses aside; None where these were not read.
    """

    index: FrameIndex | None
    first_pts: int | None
    duration_s: float | None
    present_s: float | None
    stated_s: float | None
    moved: bool = False
    lists_all: bool = False
    read_all: bool = False
    holes: tuple[Hole, ...] = ()
    misplaced_share: float = 0.0
    recordings: int = 1
    sound_s: float = 0.0
    frames_per_s: float | None = None

    @property
    def is_listed(self) -> bool:
        """Whether every frame is known before any is decoded."""
        return self.lists_all or self.read_all


def survey(source: Source, slices: int) -> Survey:
    """Find out where the frames are, as cheaply as the container allows.

    Args:
        source: The open file.
        slices: Into how many slices the playing time will be cut.
    """
    stream, name, size = source.stream, source.container.format.name, source.file.size_bytes
    stated = stated_duration(source)
    entries = len(stream.index_entries)
    if name.startswith("avi") and entries > 1:
        beside = _beside_holes(source, stated, slices)
        if beside is not None:
            return beside
    if name.startswith(_LISTS_ALL) and entries > 1 and stream.frames and _listed(source) >= 0.5 * stream.frames:
        if name.startswith("avi"):
            # AVI lists decoding times; of a stream with B frames the first frame is shown later than time 0.
            first = _first_stamp(source)
            source.reopen()
            stream = source.stream
        else:
            first = stream.start_time
        index = EntryIndex(stream, stated or 0.0)
        present_s = index.end_inside(size)
        if name.startswith("mov") and stated and not index.fits and size <= DEMUX_LIMIT_BYTES:
            # Where one frame is shown for long, B frames may be decoded as long before they are shown.
            is_whole = present_s == index.duration_s
            return replace(_demux_all(source, stated, slices), lists_all=is_whole)
        return Survey(index, first, index.duration_s, present_s, stated, lists_all=True)
    if name.startswith("avi"):
        # Without its list, which is written last, nothing but its packets tells where its frames are. A header that was
        # not finished either counts what its writer expected, if anything.
        is_finished = declared_length(source.file.read_at, size).length_bytes is not None
        return _demux_all(source, stated if is_finished else None, slices)
    if size > DEMUX_LIMIT_BYTES and stated and not _breaks_off(source):
        if source.reads_through:
            return Survey(None, _first_stamp(source), stated, None, stated, moved=True)
        lists_keys = any(part in name for part in _LISTS_KEYS) and _read_entries(source, stated)
        stated = playing_time(source, stated, _last_entry_s(stream) if lists_keys else 0.0)
        keys = _listed_keys(source, stated) if lists_keys else None
        if name not in SEEKS_BY_GUESS or not may_hold_several(source, slices):
            return Survey(keys, stream.start_time, stated, None, stated, moved=True)
        source.reopen()
    return _demux_all(source, stated, slices)


def _listed(source: Source) -> int:
    """Number of frames that the container's list covers; AVI numbers those that are empty, and lists the others."""
    entries = source.stream.index_entries
    is_avi = source.container.format.name.startswith("avi")
    return max(len(entries), entries[-1].timestamp + 1) if is_avi else len(entries)


def _beside_holes(source: Source, stated: float | None, slices: int) -> Survey | None:
    """What is known of an AVI of whose listed frames some are not there; None for any other."""
    stream, size = source.stream, source.file.size_bytes
    entries = stream.index_entries
    chunks = chunks_beside_holes(source.file.read_at, size, entries, slices)
    if chunks is None:
        return None
    listed = EntryIndex(stream, stated or 0.0)
    start, unit_s = entries[0].timestamp, float(stream.time_base or 1)
    times = array("d", ((stamp - start) * unit_s for stamp in chunks.stamps))
    index = ListedFrames(times, array("d", (times[position] for position in chunks.keys)), listed.duration_s)
    holes = chunks.holes(start, unit_s, listed.duration_s, slices)
    present_s = listed.end_inside(size)
    first = _first_stamp(source)
    source.chunks = chunks
    return Survey(index, first, listed.duration_s, present_s, stated, moved=True, lists_all=True, holes=holes)


def _breaks_off(source: Source) -> bool:
    """Whether a part of an ISO file is missing; what FFmpeg states then is how long the fragments play that it met."""
    if not source.container.format.name.startswith("mov"):
        return False
    return bool(declared_length(source.file.read_at, source.file.size_bytes).missing)


def _unread_share(source: Source, log: PacketLog) -> float:
    """Share of a file that was never written, or lies behind a place where an ISO file breaks off; 0 to below 1.

    FFmpeg reads the boxes one by one, and takes anything else, such as zeros where fragments were, for the file's end.
    """
    size, name = source.file.size_bytes, source.container.format.name
    share = log.unread_bytes(size) / size
    if share <= LOST_SHARE:
        return 0.0
    if name in SEEKS_BY_GUESS or name.startswith(_MAY_END_ANYWHERE):
        empty = _empty_share(source.file)
        return empty if empty > LOST_SHARE else 0.0
    if not name.startswith("mov"):
        return 0.0
    declared = declared_length(source.file.read_at, size)
    return 0.0 if declared.length_bytes is not None else share


def _empty_share(file: DescriptorFile) -> float:
    """Share of a file at its end that is zero."""
    end = file.size_bytes
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        filled = len(file.read_at(start, end - start).rstrip(b"\0"))
        end = start + filled
        if filled:
            break
    return 1 - end / file.size_bytes


def _first_stamp(source: Source) -> int | None:
    packets = zip(packets_of(source), range(REORDERED_PACKETS), strict=False)
    stamps = [packet.pts for packet, _ in packets if packet.pts is not None]
    return min(stamps, default=source.stream.start_time)


def _read_entries(source: Source, duration_s: float) -> bool:
    """Have Matroska's cues or FLV's key frame table read, which some demuxers do only when asked to seek."""
    try:
        source.container.seek(int(duration_s / 2 / float(source.stream.time_base or 1)), stream=source.stream)
    except MemoryError:
        raise
    except av.FFmpegError:
        return False
    return True


def _last_entry_s(stream: av.VideoStream) -> float:
    entries = stream.index_entries
    last = entries[-1].timestamp if len(entries) else 0
    return float((last - (stream.start_time or 0)) * (stream.time_base or 1))


def _listed_keys(source: Source, duration_s: float) -> ListedFrames | None:
    stream = source.stream
    unit_s = float(stream.time_base or 1)
    start = stream.start_time or 0
    times: Sequence[float]
    if len(stream.index_entries) > READ_ENTRIES:
        times = EntryTimes(stream.index_entries, start, unit_s, duration_s)
    else:
        found = {(entry.timestamp - start) * unit_s for entry in stream.index_entries if entry.is_keyframe}
        times = sorted(time for time in found if 0 <= time <= duration_s)
    # A list that ends early says nothing of the rest.
    if len(times) < 2 or times[-1] < 0.8 * duration_s:
        return None
    return ListedFrames((), times, duration_s, min(1 / source.frame_s, HIGHEST_USUAL_RATE))


def _demux_all(source: Source, stated: float | None, slices: int) -> Survey:
    stream = source.stream
    unit_s = float(stream.time_base or 1)
    log, keys, unlisted_keys = PacketLog(), array("q"), array("q")
    packets = 0
    last_duration, latest = 0, -(1 << 63)
    for packet in packets_of(source):
        stamp = stamp_of(packet)
        packets += 1
        if stamp is None or packet.is_discard:
            continue
        is_listed = packets <= LISTED_PACKETS
        if packet.is_keyframe:
            (keys if is_listed else unlisted_keys).append(len(log.stamps) if is_listed else stamp)
        if is_listed:
            log.add(stamp, packet.duration or 0, packet.pos, packet.size, is_corrupt=packet.is_corrupt)
        last_duration = packet.duration or last_duration
        latest = max(latest, stamp)
    if not log.stamps:
        return Survey(None, stream.start_time, stated, 0.0 if packets == 0 else None, stated, moved=True)
    recordings = 1
    if packets <= LISTED_PACKETS and source.container.format.name in SEEKS_BY_GUESS:
        source.joins = find_joins(log, keys, unit_s, slices, OtherStreams(source, log).go_on_before)
        if source.joins is not None:
            # What is stated is the last recording's end, or nonsense.
            recordings, stated, latest = len(source.joins.places), None, max(log.stamps)
    times = np.sort(np.frombuffer(log.stamps, np.int64))
    first = int(times[0])
    last_s = float(latest - first) * unit_s
    step = last_duration * unit_s or (_short_step(times) * unit_s if packets > 1 else lone_frame_s(source, stated))
    end = last_s + max(step, unit_s)
    stated = stated and playing_time(source, stated, end)
    key_stamps = np.sort([*(log.stamps[position] for position in keys), *unlisted_keys])
    # Where no seek leads to a key frame, it is a frame like any other.
    key_times = array("d", () if source.reads_through else (key_stamps - first) * unit_s)
    if packets > LISTED_PACKETS:
        index = ListedFrames((), key_times, end, packets / end)
        return Survey(index, first, end, end, stated, moved=True)
    size = source.file.size_bytes
    holes, unread = log.holes(unit_s, end, slices, size), _unread_share(source, log)
    if unread or any(hole.lost for hole in holes):
        # Perhaps other streams' packets fill it; asking for them always would make each file's survey several times
        # as long.
        source.reopen()
        for packet in all_packets_of(source):
            if packet.stream_index != source.stream.index:
                log.add_other(packet.pos, packet.size)
        holes, unread = log.holes(unit_s, end, slices, size), _unread_share(source, log)
    present_s, duration_s = end, end / (1 - unread)
    if unread:
        holes = (*holes, Hole(present_s, duration_s, lost=True))
        # FFmpeg counted what it read.
        stated = None
    is_behind = stated and end < (1 - LOST_SHARE) * stated and is_of_whole_file(source)
    index = ListedFrames(array("d", (times - first) * unit_s), key_times, duration_s)
    return Survey(
        index,
        first,
        duration_s,
        present_s,
        stated,
        moved=True,
        read_all=True,
        holes=holes,
        misplaced_share=log.misplaced_share(unit_s),
        recordings=recordings,
        sound_s=_other_streams_s(source) if is_behind else 0.0,
        frames_per_s=_frames_per_s(times, unit_s) or (1 / end if packets == 1 else None),
    )


def _frames_per_s(times: NDArray[np.int64], unit_s: float) -> float | None:
    """Frame rate by ascending time stamps, pauses aside; None where they tell none."""
    steps = np.diff(times)
    # The mean, as each of them may be rounded to a thousandth of a second.
    usual = steps[steps <= 2 * usual_step(times)]
    return None if not usual.any() else 1 / (float(usual.mean()) * unit_s)


def _short_step(times: NDArray[np.int64]) -> int:
    """Usual distance of ascending time stamps; of two that are as usual, the shorter one, which is no pause."""
    return int(np.percentile(np.diff(times), 50, method="lower"))


def _other_streams_s(source: Source) -> float:
    """From the first packet of the other streams to the end of the last one, in seconds."""
    source.reopen()
    first_s, end_s = math.inf, -math.inf
    for packet in all_packets_of(source):
        stamp = stamp_of(packet)
        if packet.stream_index == source.stream.index or stamp is None:
            continue
        unit_s = float(packet.time_base)
        first_s, end_s = min(first_s, stamp * unit_s), max(end_s, (stamp + (packet.duration or 0)) * unit_s)
    return max(0.0, end_s - first_s)
