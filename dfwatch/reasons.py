"""How a job may end: the closed lists of statuses, verdict labels and reason codes."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """How a job ended; the ``status`` of its sidecar."""

    DONE = "done"
    FAILED = "failed"
    REJECTED = "rejected"
    QUARANTINED = "quarantined"


class Label(StrEnum):
    """What is published of a video. A score is not proof, whatever the label."""

    FAKE = "FAKE"
    REAL = "REAL"
    INCONCLUSIVE = "INCONCLUSIVE"
    NO_FACE = "NO_FACE"


class Reason(StrEnum):
    """Why a file was not judged. The value is stable across versions; downstream tools may match on it."""

    # Refused before decoding: kind of file
    NOT_A_REGULAR_FILE = "not_a_regular_file"
    SYMLINK = "symlink"
    UNREADABLE = "unreadable"
    EMPTY = "empty"
    TOO_LARGE = "too_large"
    UNSUPPORTED_TYPE = "unsupported_type"
    # Refused by the reader: what is in the file
    UNKNOWN_FORMAT = "unknown_format"
    FORMAT_NOT_ALLOWED = "format_not_allowed"
    NO_VIDEO_STREAM = "no_video_stream"
    ENCRYPTED = "encrypted"
    UNSUPPORTED_CODEC = "unsupported_codec"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_SMALL = "too_small"
    TOO_LONG = "too_long"
    # Decoding gave nothing that can be judged
    CORRUPT = "corrupt"
    NO_FRAMES = "no_frames"
    TRUNCATED = "truncated"
    # The decoder's process
    READER_CRASHED = "reader_crashed"
    READER_TIMEOUT = "reader_timeout"
    READER_OUT_OF_MEMORY = "reader_out_of_memory"
    READER_PROTOCOL = "reader_protocol"
    # The file's world
    CHANGED_WHILE_READING = "changed_while_reading"
    VANISHED = "vanished"
    TOO_MANY_ATTEMPTS = "too_many_attempts"
    INTERNAL_ERROR = "internal_error"
