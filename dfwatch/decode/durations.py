"""In the reader child: how long a video plays by what its header states, and which part of that to believe."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import av

from dfwatch.decode.demuxing import UNKNOWN_FRAME_S

if TYPE_CHECKING:
    from dfwatch.decode.demuxing import Source

MAX_STATED_S = 1e9
ASF_HEADER_BYTES = 64 * 1024
# Streams whose frame rate nobody wrote down seem to have the rate of their clock.
HIGHEST_USUAL_RATE = 240.0
# A lone frame that is shown for longer than this, or than its frame rate says, was not alone.
LONGEST_LONE_S = 1.0
LONGER_THAN_USUAL = 1.5
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
# Of these, some writers state when the last frame ends, others how long they play.
_MAY_STATE_END = ("matroska", "flv", "asf")


def stated_duration(source: Source) -> float | None:
    """Playing time that the header states, in seconds: the video's, or else the whole file's; None for nonsense."""
    stream, whole = source.stream, source.container.duration
    if source.container.format.name == "asf" and not whole:
        # FFmpeg states none when the file's size is not the one that its header declares.
        whole = _asf_duration(source.file.read_at(0, ASF_HEADER_BYTES))
    if stream.duration and stream.time_base:
        stated = float(stream.duration * stream.time_base)
    else:
        stated = _tagged_duration(stream.metadata.get("DURATION", "")) or (whole or 0) / av.time_base
    return stated if 0 < stated < MAX_STATED_S else None


def _asf_duration(head: bytes) -> int | None:
    """Microseconds from the File Properties Object (Advanced Systems Format specification, 3.2)."""
    at = head.find(_ASF_FILE_PROPERTIES)
    if at < 0 or at + 88 > len(head):
        return None
    play, _, preroll_ms = struct.unpack_from("<QQQ", head, at + 64)
    return int(max(0, play // 10 - preroll_ms * 1000)) or None


def _tagged_duration(text: str) -> float | None:
    """Matroska's statistics tag, ``00:01:02.345000000``."""
    try:
        hours, minutes, seconds = text.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return None


def playing_time(source: Source, stated_s: float, found_s: float) -> float:
    """The stated duration, without the time of the first frame where that was counted too.

    Args:
        source: The open file.
        stated_s: What is stated, in seconds.
        found_s: Up to where frames are known, in seconds from the first one.
    """
    stream = source.stream
    without_start_s = stated_s - (stream.start_time or 0) * float(stream.time_base or 1)
    if not any(part in source.container.format.name for part in _MAY_STATE_END) or without_start_s <= 0:
        return stated_s
    return min(stated_s, without_start_s, key=lambda time_s: abs(time_s - found_s))


def is_of_whole_file(source: Source) -> bool:
    """Whether what ``stated_duration`` gives is that of the whole file, its sound included."""
    # FFmpeg hands what Windows Media states of the file on as that of each stream.
    if source.container.format.name == "asf":
        return True
    return not source.stream.duration and not _tagged_duration(source.stream.metadata.get("DURATION", ""))


def lone_frame_s(source: Source, stated_s: float | None) -> float:
    """How long the only frame that is there is shown, in seconds, where its packet does not say.

    What is stated, if one frame alone may last so long; more tells of frames that are not there.
    """
    rate = source.frames_per_s
    is_sane = rate is not None and rate <= HIGHEST_USUAL_RATE
    longest_s = LONGER_THAN_USUAL * source.frame_s if is_sane else LONGEST_LONE_S
    if source.container.format.name == "asf" and not source.container.duration:
        # Its size is not the one that its header declares.
        longest_s = 0.0
    if stated_s and 1 / HIGHEST_USUAL_RATE <= stated_s <= longest_s:
        return stated_s
    return source.frame_s if is_sane else UNKNOWN_FRAME_S
