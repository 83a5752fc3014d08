"""In the reader child: open a container by its descriptor and find the video stream."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, Self, TypeVar

import av
from av.stream import Discard

from dfwatch.decode.beginnings import known_beginning, without_beginning
from dfwatch.decode.encryption import is_encrypted_isobmff, is_protected_asf, is_scrambled_transport_stream
from dfwatch.decode.mxf import is_indexed
from dfwatch.decode.streams import find_film, has_frames, is_item, moving_streams, streams_by_rank, until_the_end
from dfwatch.decode.turns import turns_in
from dfwatch.errors import RefusedError, UndecodableError, UnreadableBytesError
from dfwatch.inbox.containers import declared_length
from dfwatch.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dfwatch.config import ReaderSettings
    from dfwatch.decode.avi import ListedChunks
    from dfwatch.decode.joins import Joins
    from dfwatch.decode.turns import Turns

_Packet = TypeVar("_Packet", bound="av.Packet[Any]")

IO_BUFFER_BYTES = 64 * 1024
UNKNOWN_FRAME_S = 0.04
# These have no index, and a seek ends at any packet near the time, often behind the key frame that is wanted.
SEEKS_BY_GUESS = frozenset({"mpegts", "mpeg"})
STILL_FORMATS = frozenset({"jpeg_pipe", "png_pipe", "webp_pipe", "image2"})


class DescriptorFile:
    """A read-only file object over a descriptor that leaves the descriptor's own position alone.

    FFmpeg may take bytes that cannot be read for the file's end, so what the disk said is kept for ``check_disk``.

    Attributes:
        size_bytes: Size of the file.
        turns: Streams that FFmpeg is to take for one; None: it reads what is there.
    """

    name = ""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._position = 0
        self._failure: UnreadableBytesError | None = None
        self.size_bytes = os.fstat(fd).st_size
        self.turns: Turns | None = None

    def read(self, count: int) -> bytes:
        """Up to ``count`` bytes from the current position, as ``turns`` changes them.

        Raises:
            UnreadableBytesError: The disk failed.
        """
        if self.turns is None:
            data = self._pread(count, self._position)
        else:
            data = self.turns.read(self.read_at, self._position, count)
        self._position += len(data)
        return data

    def read_at(self, offset: int, count: int) -> bytes:
        """Up to ``count`` bytes from ``offset``.

        Raises:
            UnreadableBytesError: The disk failed.
        """
        parts = []
        while count > 0 and (data := self._pread(min(count, 1 << 30), offset)):
            parts.append(data)
            offset += len(data)
            count -= len(data)
        return b"".join(parts)

    def _pread(self, count: int, offset: int) -> bytes:
        try:
            return os.pread(self._fd, count, offset)
        except OSError as error:
            # It is open, regular and readable: whatever is the matter now lies below the file.
            cause = error.strerror or error
            self._failure = UnreadableBytesError("reading", "", cause, offset=offset, count=count)
            raise self._failure from error

    def check_disk(self) -> None:
        """Nothing, if every byte that was asked for could be read.

        Raises:
            UnreadableBytesError: The disk failed, whatever FFmpeg made of it.
        """
        if self._failure is not None:
            raise self._failure

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
        UnreadableBytesError: The disk failed.
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
        file.check_disk()
        raise _why_not_opened(file, error, settings) from error


def _why_not_opened(
    file: DescriptorFile, error: av.FFmpegError, settings: ReaderSettings
) -> RefusedError | UndecodableError:
    if (kind := without_beginning(file.read_at, file.size_bytes)) is not None:
        return UndecodableError(
            "opening",
            "",
            f"it ends like {kind}, but its beginning is missing or overwritten",
            reason=Reason.CORRUPT,
            hint=_SEND_AGAIN,
        )
    if isinstance(error, av.ArgumentError | av.PermissionError):
        return RefusedError(
            "opening",
            "",
            "its container format is not one that may be opened",
            reason=Reason.FORMAT_NOT_ALLOWED,
            hint=f"reader.formats allows {', '.join(settings.formats)}",
        )
    if is_encrypted_isobmff(file.read_at, file.size_bytes) or is_scrambled_transport_stream(file.read_at):
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
    if (kind := known_beginning(file.read_at(0, 512))) is not None:
        return UndecodableError(
            "opening",
            "",
            f"it begins like {kind}, but its structure is damaged",
            reason=Reason.CORRUPT,
            hint=_SEND_AGAIN,
        )
    return RefusedError("opening", "", "no known picture or video format", reason=Reason.UNKNOWN_FORMAT)


_SEND_AGAIN = "send the file again"


class Source:
    """An open media file: its container and the video stream that is sampled.

    Args:
        fd: Descriptor of a regular file; stays the caller's, its position is not moved.
        settings: Limits and allowed formats.

    Raises:
        RefusedError: Kind of file, format, codec or a limit.
        UndecodableError: The header is damaged.

    Attributes:
        file: The file's bytes.
        container: What FFmpeg opened; another one after ``reopen``.
        stream: The video stream that is sampled.
        joins: The recordings that it consists of, once they are known; None where it is one.
        chunks: The frames of an AVI's list that are there, where others are not.
        passed_over: Whether players might have shown another stream first, but that holds a single frame.
        reads_through: Whether no seek by time can be trusted, so that frames are reached from the first one on.
    """

    def __init__(self, fd: int, settings: ReaderSettings) -> None:
        self._settings = settings
        self.file = DescriptorFile(fd)
        self.joins: Joins | None = None
        self.chunks: ListedChunks | None = None
        self.passed_over = False
        self._film: int | None = None
        self._open()
        if self.container.format.name == "mpegts":
            self.file.turns = turns_in(self.file.read_at, self.file.size_bytes)
            if self.file.turns is not None:
                self._film, self.passed_over = None, False
                self.reopen()
        self.reads_through = self.container.format.name == "mxf" and not is_indexed(
            self.file.read_at, self.file.size_bytes, self.stream.duration or 0
        )

    def _open(self) -> None:
        self.file.seek(0)
        self.container = open_container(self.file, self._settings)
        try:
            self._check_encryption()
            self.stream = self._choose_stream()
            self.check_size(self.stream.codec_context.width, self.stream.codec_context.height)
            for other in self.container.streams:
                if other.index != self.stream.index:
                    other.discard = Discard.all
        except BaseException:
            self.close()
            raise

    def _choose_stream(self) -> av.VideoStream:
        ranked = streams_by_rank(self.container)
        if len(ranked) == 1:
            return ranked[0]
        if self._film is None:
            film = find_film(self.container, ranked)
            self._film, self.passed_over = film.index, film is not ranked[0]
            self.container.close()
            self.file.seek(0)
            self.container = open_container(self.file, self._settings)
            ranked = streams_by_rank(self.container)
        return next((stream for stream in ranked if stream.index == self._film), ranked[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory back."""
        self.container.close()

    def reopen(self) -> None:
        """Back to the first packet: many demuxers cannot seek there once they have read on, opening anew works."""
        self.close()
        self._open()

    def seek(self, stamp: int) -> None:
        """Go to the last key frame at or before a time stamp, or near it; ``packets_of`` then begins there.

        Raises:
            av.FFmpegError: The demuxer cannot.
        """
        if self.joins is None:
            self.container.seek(stamp, stream=self.stream)
        else:
            self.container.seek(self.joins.place_before(stamp), unsupported_byte_offset=True)

    @property
    def is_still(self) -> bool:
        """Whether the file is a picture."""
        return self.is_still_format or is_item(self.stream)

    @property
    def is_still_format(self) -> bool:
        """Whether the file is a picture of a format that holds nothing else."""
        return self.container.format.name in STILL_FORMATS

    @property
    def streams(self) -> int:
        """Number of video streams with frames, cover art and pictures aside, whether or not they can be decoded."""
        return sum(has_frames(stream) and not is_item(stream) for stream in moving_streams(self.container))

    @property
    def codec(self) -> str:
        """The codec's usual name (``h264``, ``av1``)."""
        return str(self.stream.codec_context.codec.canonical_name)

    @property
    def frames_per_s(self) -> float | None:
        """The frame rate that is stated or that FFmpeg found; None where there is none."""
        rate = self.stream.average_rate or self.stream.guessed_rate
        # Some headers hold a negative one.
        return float(rate) if rate and rate > 0 else None

    @property
    def frame_s(self) -> float:
        """Usual duration of a frame, in seconds."""
        rate = self.frames_per_s
        return 1 / rate if rate else UNKNOWN_FRAME_S

    def _check_encryption(self) -> None:
        # Without its keys FFmpeg knows an encrypted stream's codec sometimes, and its pictures never.
        is_isobmff = self.container.format.name.startswith("mov")
        if (
            (is_isobmff and is_encrypted_isobmff(self.file.read_at, self.file.size_bytes))
            or is_protected_asf(self.file.read_at)
            or any("enc_key_id" in stream.metadata for stream in self.container.streams.video)
        ):
            raise RefusedError("opening", "", "its pictures are encrypted", reason=Reason.ENCRYPTED)

    def check_size(self, width: int, height: int) -> None:
        """Refuse a picture that is too large or too small; 0 is a size not known yet.

        Raises:
            RefusedError: It is.
        """
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


def stamp_of(coded: av.Packet[Any] | av.VideoFrame) -> int | None:
    """Time stamp of a packet or frame, in its stream's unit: when it is shown, else when it is decoded."""
    return coded.pts if coded.pts is not None else coded.dts


def packets_of(source: Source) -> Iterator[av.Packet[av.VideoStream]]:
    """The stream's packets from here on, until the file ends or the demuxer gives up; no flush packet.

    Where the file consists of several recordings, their time stamps are shifted; where frames of an AVI are missing,
    those that are listed and there get the time stamps of the list.
    """
    packets = until_the_end(source.container.demux(source.stream))
    if source.chunks is not None:
        return _as_listed(packets, source.chunks)
    return packets if source.joins is None else _shifted(packets, source.joins)


def _as_listed(packets: Iterator[_Packet], chunks: ListedChunks) -> Iterator[_Packet]:
    for packet in packets:
        listed = None if packet.pos is None else chunks.stamp_at(packet.pos)
        if listed is not None and packet.dts is not None:
            _shift(packet, listed - packet.dts)
            yield packet


def _shifted(packets: Iterator[_Packet], joins: Joins) -> Iterator[_Packet]:
    recording = 0
    for packet in packets:
        if packet.pos is not None:
            recording = joins.recording_at(packet.pos)
        _shift(packet, joins.shifts[recording])
        if packet.pts is not None:
            packet.pts = min(packet.pts, joins.lasts[recording])
        yield packet


def _shift(packet: av.Packet[Any], shift: int) -> None:
    if packet.pts is not None:
        packet.pts += shift
    if packet.dts is not None:
        packet.dts += shift


def all_packets_of(source: Source) -> Iterator[av.Packet[Any]]:
    """As ``packets_of``, of all streams; the other streams are no longer passed over until the source is reopened."""
    for stream in source.container.streams:
        stream.discard = Discard.default
    return until_the_end(source.container.demux())
