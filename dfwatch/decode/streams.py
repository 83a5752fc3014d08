"""In the reader child: which of a file's video streams is the film."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

import av
from av.stream import Disposition

from dfwatch.errors import RefusedError
from dfwatch.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

_Packet = TypeVar("_Packet", bound="av.Packet[Any]")

# So much of the file may be read to find a stream's second frame.
SEARCHED_BYTES = 64 * 1024 * 1024
_NOT_MOVING = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


def streams_by_rank(container: av.container.InputContainer) -> list[av.VideoStream]:
    """The streams that can be decoded, the one that a player would show first.

    Default ones come first, then those with frames and the largest picture. Cover art and thumbnails are not video.

    Raises:
        RefusedError: There is no video stream, or none that can be decoded, or a picture that is made of tiles.
    """
    moving = moving_streams(container)
    if not moving:
        raise RefusedError("reading", "", "there is no video in it", reason=Reason.NO_VIDEO_STREAM)
    if _is_tiled(moving):
        raise RefusedError(
            "decoding",
            "",
            "it is a picture in tiles (HEIF), which are not put together",
            reason=Reason.UNSUPPORTED_CODEC,
            hint="give the picture as a JPEG",
        )
    # av's stub does not say so, but without a decoder there is no context.
    decodable = [stream for stream in moving if getattr(stream, "codec_context", None) is not None]
    if not decodable:
        raise RefusedError("decoding", "", "no decoder for its video codec", reason=Reason.UNSUPPORTED_CODEC)

    def rank(stream: av.VideoStream) -> tuple[bool, bool, int, int]:
        context = stream.codec_context
        is_default = bool(stream.disposition & Disposition.default)
        return has_frames(stream), is_default, context.width * context.height, -stream.index

    return sorted(decodable, key=rank, reverse=True)


def find_film(container: av.container.InputContainer, ranked: list[av.VideoStream]) -> av.VideoStream:
    """The first of these streams that holds more than one frame; the first of all where none does.

    Covers do not always say that they are none of the film. Headers seldom count frames, so packets are read, until it
    is clear; the container is then no longer at its start.
    """
    if len(ranked[0].index_entries) > 1:
        return ranked[0]
    found: Counter[int] = Counter()
    read_bytes = 0
    for packet in until_the_end(container.demux(*ranked)):
        found[packet.stream_index] += 1
        read_bytes += packet.size
        if found[ranked[0].index] > 1 or read_bytes > SEARCHED_BYTES:
            break
    return next((stream for stream in ranked if found[stream.index] > 1), ranked[0])


def moving_streams(container: av.container.InputContainer) -> list[av.VideoStream]:
    """Video streams that are not said to be cover art or thumbnails."""
    return [stream for stream in container.streams.video if not stream.disposition & _NOT_MOVING]


def is_item(stream: av.VideoStream) -> bool:
    """Whether a stream is a picture of a HEIF or AVIF file; FFmpeg gives it a clock of seconds, and no duration."""
    is_iso = stream.container.format.name.startswith("mov")
    return is_iso and stream.frames == 1 and stream.time_base == 1 and not stream.duration


def _is_tiled(streams: list[av.VideoStream]) -> bool:
    """Whether the picture that is to be shown consists of others: then none of those is marked as the one."""
    items = [stream for stream in streams if is_item(stream)]
    return (
        len(items) == len(streams)
        and not any(item.disposition & Disposition.default for item in items)
        and sum(bool(item.disposition & Disposition.dependent) for item in items) > 1
    )


def has_frames(stream: av.VideoStream) -> bool:
    """Whether there seem to be any; av's stub does not say so, but without a decoder there is no context."""
    context = getattr(stream, "codec_context", None)
    return stream.frames > 0 or len(stream.index_entries) > 0 or bool(context is not None and context.pix_fmt)


def until_the_end(packets: Iterator[_Packet]) -> Iterator[_Packet]:
    """Packets that hold something, until the file ends or the demuxer gives up."""
    while True:
        try:
            packet = next(packets, None)
        except MemoryError:
            raise
        except (av.FFmpegError, IndexError):
            # IndexError: PyAV at the end of a file in which a damaged packet seemed to open another stream.
            return
        if packet is None:
            return
        if packet.size > 0:
            yield packet
