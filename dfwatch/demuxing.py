"""In the reader child: open a container by its descriptor, find the video stream, and learn where its frames are."""

from __future__ import annotations

import errno
import os
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

import av
from av.stream import Disposition

from dfwatch.containers import declared_length
from dfwatch.encryption import is_encrypted_isobmff
from dfwatch.errors import RefusedError, UndecodableError
from dfwatch.reasons import Reason
from dfwatch.sampling import FrameIndex, ListedFrames

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dfwatch.config import ReaderSettings

IO_BUFFER_BYTES = 64 * 1024
# Demuxing a file of this size takes less time than decoding a few frames of it.
DEMUX_LIMIT_BYTES = 64 * 1024 * 1024
# More packets than this are counted, but only their key frames are remembered.
LISTED_PACKETS = 1_000_000
# No codec shows its first frame later than this many packets.
REORDERED_PACKETS = 17
STILL_FORMATS = frozenset({"jpeg_pipe", "png_pipe", "webp_pipe", "image2"})
_NOT_MOVING = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
# Formats whose header lists every frame; of the others only key frames may be listed, or nothing.
_LISTS_ALL = ("mov", "avi", "mxf")
_LISTS_KEYS = ("matroska", "flv")


class DescriptorFile:
    """A read-only file object over a descriptor that leaves the descriptor's own position alone."""

    name = ""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._position = 0
        self.size_bytes = os.fstat(fd).st_size

    def read(self, count: int) -> bytes:
        """Up to ``count`` bytes from the current position."""
        data = os.pread(self._fd, count, self._position)
        self._position += len(data)
        return data

    def read_at(self, offset: int, count: int) -> bytes:
        """Up to ``count`` bytes from ``offset``."""
        parts = []
        while count > 0 and (data := os.pread(self._fd, min(count, 1 << 30), offset)):
            parts.append(data)
            offset += len(data)
            count -= len(data)
        return b"".join(parts)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position; returns it."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size_bytes}.get(whence)
        if base is None or base + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True


def _refuse_to_open(url: str, flags: int, options: dict[str, str]) -> None:
    del flags, options
    raise PermissionError(errno.EACCES, "a media file may not open another one", url)


def open_container(file: DescriptorFile, settings: ReaderSettings) -> av.container.InputContainer:
    """Open the container; only formats of ``settings.formats``, and nothing but this descriptor is ever read.

    Raises:
        RefusedError: The format is unknown, not allowed, or encrypted.
        UndecodableError: The header is damaged or a part of the file is missing.
    """
    if file.size_bytes == 0:
        raise RefusedError("reading", "", "the file is empty", reason=Reason.EMPTY)
    options = {"max_pixels": str(settings.max_pixels)}
    demuxer_options = {
        "format_whitelist": ",".join(settings.formats),
        # Nothing is whitelisted: nested URLs of playlists and references are refused, and so is every file name.
        "protocol_whitelist": "none",
    }
    try:
        return av.open(
            file,
            "r",
            buffer_size=IO_BUFFER_BYTES,
            options=options,
            container_options=demuxer_options,
            io_open=_refuse_to_open,
            metadata_errors="replace",
        )
    except MemoryError:
        raise
    except av.FFmpegError as error:
        raise _why_not_opened(file, error, settings) from error


def _why_not_opened(
    file: DescriptorFile, error: av.FFmpegError, settings: ReaderSettings
) -> RefusedError | UndecodableError:
    if isinstance(error, av.ArgumentError | av.PermissionError):
        return RefusedError(
            "opening",
            "",
            "its container format is not one that may be opened",
            reason=Reason.FORMAT_NOT_ALLOWED,
            hint=f"reader.formats allows {', '.join(settings.formats)}",
        )
    if is_encrypted_isobmff(file.read_at, file.size_bytes):
        return RefusedError("opening", "", "its pictures are encrypted", reason=Reason.ENCRYPTED)
    declared = declared_length(file.read_at, file.size_bytes)
    if declared.missing:
        return UndecodableError(
            "opening", "", f"{declared.missing} is missing", reason=Reason.TRUNCATED, hint=_SEND_AGAIN
        )
    if declared.length_bytes is not None and declared.length_bytes > file.size_bytes:
        return UndecodableError(
            "opening",
            "",
            f"its header declares {declared.length_bytes} bytes, {file.size_bytes} are there",
            reason=Reason.TRUNCATED,
            hint=_SEND_AGAIN,
        )
    if (kind := _known_beginning(file.read_at(0, 512))) is not None:
        return UndecodableError(
            "opening",
            "",
            f"it begins like {kind}, but its structure is damaged",
            reason=Reason.CORRUPT,
            hint=_SEND_AGAIN,
        )
    return RefusedError("opening", "", "no known picture or video format", reason=Reason.UNKNOWN_FORMAT)


_BEGINNINGS = (
    (4, b"ftyp", "an MP4 or QuickTime file"),
    (4, b"moov", "a QuickTime file"),
    (4, b"mdat", "a QuickTime file"),
    (0, b"\x1aE\xdf\xa3", "a Matroska or WebM file"),
    (8, b"AVI ", "an AVI file"),
    (8, b"WEBP", "a WebP picture"),
    (0, b"FLV", "a Flash video"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a Windows Media file"),
    (0, b"OggS", "an Ogg file"),
    (0, b"\x00\x00\x01\xba", "an MPEG program stream"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"\x89PNG", "a PNG picture"),
)


def _known_beginning(head: bytes) -> str | None:
    return next((kind for offset, magic, kind in _BEGINNINGS if head[offset : offset + len(magic)] == magic), None)


_SEND_AGAIN = "send the file again"


def choose_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The stream that a player would show: default ones first, then the one with frames and the largest picture.

    Cover art and thumbnails are not video.

    Raises:
        RefusedError: There is no video stream, or none that can be decoded.
    """
    moving = [stream for stream in container.streams.video if not stream.disposition & _NOT_MOVING]
    if not moving:
        raise RefusedError("reading", "", "there is no video in it", reason=Reason.NO_VIDEO_STREAM)
    # av's stub does not say so, but without a decoder there is no context.
    decodable = [stream for stream in moving if getattr(stream, "codec_context", None) is not None]
    if not decodable:
        raise RefusedError("decoding", "", "no decoder for its video codec", reason=Reason.UNSUPPORTED_CODEC)

    def rank(stream: av.VideoStream) -> tuple[bool, bool, int, int]:
        context = stream.codec_context
        has_frames = stream.frames > 0 or len(stream.index_entries) > 0 or bool(context.pix_fmt)
        is_default = bool(stream.disposition & Disposition.default)
        return has_frames, is_default, context.width * context.height, -stream.index

    return max(decodable, key=rank)


class EntryIndex:
    """The demuxer's own list of frames (in order of decoding times), looked into without copying it.

    It reads the demuxer's memory, so it must not be used once the container is closed.

    Args:
        stream: A stream whose index is complete.
        duration_s: Playing time that the container states; used to tell the last frame's duration.
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
        fits = last_s - 2 * step <= duration_s <= last_s + 20 * step + 1
        self.duration_s = duration_s if fits and duration_s > 0 else last_s + step

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


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known of the frames before decoding any.

    Attributes:
        index: Where the frames are; None when only a seek will tell.
        first_pts: Time stamp of the first frame, in the stream's unit; None when unknown.
        duration_s: Playing time by the best evidence; None when nothing tells.
        present_s: Playing time whose bytes are in the file; None when unknown.
        stated_s: Playing time that the header states; None where it states none.
        packets: Number of packets if they were counted.
        moved: Whether packets were read, so that the container is no longer at its start.
    """

    index: FrameIndex | None
    first_pts: int | None
    duration_s: float | None
    present_s: float | None
    stated_s: float | None
    packets: int | None = None
    moved: bool = False


def survey(container: av.container.InputContainer, stream: av.VideoStream, file: DescriptorFile) -> Survey:
    """Find out where the frames are, as cheaply as the container allows."""
    stated = _stated_duration(container, stream)
    name = container.format.name
    entries = len(stream.index_entries)
    if name.startswith(_LISTS_ALL) and entries > 1 and stream.frames and entries >= 0.5 * stream.frames:
        index = EntryIndex(stream, stated or 0.0)
        return Survey(index, _start(stream), index.duration_s, index.end_inside(file.size_bytes), stated)
    if file.size_bytes > DEMUX_LIMIT_BYTES and stated:
        keys = _listed_keys(container, stream, stated) if any(part in name for part in _LISTS_KEYS) else None
        return Survey(keys, _start(stream), stated, None, stated, moved=True)
    return _demux_all(container, stream, stated)


def _start(stream: av.VideoStream) -> int | None:
    return stream.start_time


def first_stamp(container: av.container.InputContainer, stream: av.VideoStream) -> int | None:
    """Time stamp of the frame that is shown first; reads the first packets to learn it."""
    packets = zip(packets_of(container, stream), range(REORDERED_PACKETS), strict=False)
    stamps = [packet.pts for packet, _ in packets if packet.pts is not None]
    return min(stamps, default=_start(stream))


def _stated_duration(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    candidates = []
    if stream.duration and stream.time_base:
        candidates.append(float(stream.duration * stream.time_base))
    elif (tag := _tagged_duration(stream.metadata.get("DURATION", ""))) is not None:
        candidates.append(tag)
    elif container.duration:
        candidates.append(container.duration / av.time_base)
    return next((value for value in candidates if 0 < value < 1e9), None)


def _tagged_duration(text: str) -> float | None:
    """Matroska's statistics tag, ``00:01:02.345000000``."""
    try:
        hours, minutes, seconds = text.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return None


def _listed_keys(
    container: av.container.InputContainer, stream: av.VideoStream, duration_s: float
) -> ListedFrames | None:
    """Key frames of Matroska's cues or FLV's key frame table, which some demuxers read only when asked to seek."""
    unit_s = float(stream.time_base or 1)
    try:
        container.seek(int(duration_s / 2 / unit_s), stream=stream)
    except av.FFmpegError:
        return None
    start = stream.start_time or 0
    times = sorted({(entry.timestamp - start) * unit_s for entry in stream.index_entries if entry.is_keyframe})
    times = [time for time in times if 0 <= time <= duration_s]
    # A list that ends early says nothing of the rest.
    if len(times) < 2 or times[-1] < 0.8 * duration_s:
        return None
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    return ListedFrames((), times, duration_s, min(rate, 240.0))


def _demux_all(container: av.container.InputContainer, stream: av.VideoStream, stated: float | None) -> Survey:
    unit_s = float(stream.time_base or 1)
    stamps: list[int] = []
    keys: list[int] = []
    packets = 0
    last_duration = 0
    for packet in packets_of(container, stream):
        stamp = packet.pts if packet.pts is not None else packet.dts
        packets += 1
        if stamp is None or packet.is_discard:
            continue
        if packets <= LISTED_PACKETS:
            stamps.append(stamp)
        if packet.is_keyframe:
            keys.append(stamp)
        if packet.duration:
            last_duration = packet.duration
    if not stamps:
        return Survey(None, _start(stream), stated, 0.0 if packets == 0 else None, stated, packets, moved=True)
    stamps.sort()
    first = stamps[0]
    times = [(stamp - first) * unit_s for stamp in stamps]
    step = last_duration * unit_s or (times[-1] / (len(times) - 1) if len(times) > 1 else 0.0)
    end = max(times[-1] + max(step, unit_s), unit_s)
    key_times = sorted((stamp - first) * unit_s for stamp in keys)
    if packets > LISTED_PACKETS:
        end = max(end, key_times[-1] if key_times else 0.0)
        return Survey(ListedFrames((), key_times, end, len(times) / end), first, end, end, stated, packets, moved=True)
    return Survey(ListedFrames(times, key_times, end), first, end, end, stated, packets, moved=True)


def packets_of(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet[av.VideoStream]]:
    """The stream's packets from here on, until the file ends or the demuxer gives up; no flush packet."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except MemoryError:
            raise
        except av.FFmpegError:
            return
        if packet is None:
            return
        if packet.size > 0:
            yield packet
