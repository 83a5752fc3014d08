"""Every error dfwatch raises, in one tree.

* DfwatchError
    * ConfigError               a setting is unknown, of the wrong type or impossible
    * MissingExtraError         an optional dependency is not installed
    * ModelError
        * BundleError           a bundle folder or its ``bundle.yaml`` is incomplete or contradicts itself
        * CheckpointError       weights are truncated, pickled, of the wrong shape or not finite
        * DeviceError           the configured device is not there or was lost
    * MediaError                this file cannot be judged; the reason code says why
        * RefusedError          the file was refused before or instead of decoding it
        * UndecodableError      the decoder delivered nothing that can be judged
        * ReaderCrashError      the decoder's process died, hung or broke its limits
            * ReaderStartError  it could not be started: the machine's trouble and not the file's
        * FileChangedError      the bytes changed while they were read
    * StorageError              the disk, a folder or the journal failed
        * UnclaimableError      this one file cannot be moved out of the inbox
        * UnreadableBytesError  the disk does not give some of an open file's bytes
        * JournalDamagedError   the journal is no database, or a broken one
        * RootLockedError       another daemon owns this root
    * SinkError                 a destination did not take a message
        * SinkGoneError         the destination asks not to be called again
    * TrainingError             a data set, recipe or checkpoint of the training tools is unusable

Every error says what was attempted (``action``), on what (``subject``), why it failed (``cause``), and what to do about
it (``hint``); ``retryable`` says whether the same attempt may succeed later without anybody's help.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from dfwatch.reasons import Reason


class DfwatchError(Exception):
    """Base of every error that dfwatch raises on purpose.

    Args:
        action: What was attempted, as a gerund phrase ("reading the configuration").
        subject: The thing it was attempted on: a path, a name, a device.
        cause: Why it failed.
        hint: What a person can do about it; empty where there is nothing to do.
        retryable: Whether the same attempt may succeed later; defaults to the class's usual answer.
    """

    default_retryable: ClassVar[bool] = False

    def __init__(
        self, action: str, subject: object, cause: object, *, hint: str = "", retryable: bool | None = None
    ) -> None:
        self.action = action
        self.subject = str(subject)
        self.cause = str(cause)
        self.hint = hint
        self.retryable = self.default_retryable if retryable is None else retryable
        super().__init__(action, subject, cause)

    def __str__(self) -> str:
        text = f"{self.action} {self.subject}: {self.cause}" if self.subject else f"{self.action}: {self.cause}"
        return f"{text} ({self.hint})" if self.hint else text


class ConfigError(DfwatchError):
    """A setting is unknown, of the wrong type or impossible; ``subject`` holds file, line and column."""


class MissingExtraError(DfwatchError):
    """An optional dependency is not installed; ``hint`` holds the pip command."""


class ModelError(DfwatchError):
    """A model cannot be loaded or run."""


class BundleError(ModelError):
    """A bundle folder or its ``bundle.yaml`` is incomplete or contradicts itself."""


class CheckpointError(ModelError):
    """Weights are truncated, pickled, of the wrong shape or not finite."""


class DeviceError(ModelError):
    """The configured device is not there, or was lost while in use."""


class MediaError(DfwatchError):
    """This file cannot be judged; ``reason`` is the code that its sidecar carries."""

    def __init__(
        self,
        action: str,
        subject: object,
        cause: object,
        *,
        reason: Reason,
        hint: str = "",
        retryable: bool | None = None,
    ) -> None:
        super().__init__(action, subject, cause, hint=hint, retryable=retryable)
        self.reason = reason


class RefusedError(MediaError):
    """The file was refused before or instead of decoding it (kind of file, format, limit)."""


class UndecodableError(MediaError):
    """The decoder ran to its end and delivered nothing that can be judged."""


class ReaderCrashError(MediaError):
    """The decoder's process died, hung or broke one of its limits."""

    default_retryable = True


class ReaderStartError(ReaderCrashError):
    """The decoder's process could not be started: the machine's trouble (memory, processes), whatever the file."""


class FileChangedError(MediaError):
    """The bytes changed while they were read; nothing about them is published."""

    default_retryable = True


class StorageError(DfwatchError):
    """The disk, a folder or the journal failed; usually the machine's trouble and not the file's."""

    default_retryable = True


class UnclaimableError(StorageError):
    """This one file cannot be moved out of the inbox, most often for want of permission; others may."""


class UnreadableBytesError(StorageError):
    """The disk does not give some bytes of an open file: up to ``count`` of them from ``offset``."""

    def __init__(self, action: str, subject: object, cause: object, *, offset: int, count: int) -> None:
        super().__init__(action, subject, cause)
        self.offset = offset
        self.count = count


class JournalDamagedError(StorageError):
    """The journal is no database, or a broken one; a new one is built from the folders at the next start."""

    default_retryable = False


class RootLockedError(StorageError):
    """Another daemon owns this root."""

    default_retryable = False


class SinkError(DfwatchError):
    """A destination did not take a message.

    Not retryable: this one message will never be taken; the next one may be. ``retry_after_s`` is how long the
    destination asks to be left alone, in seconds; None where it does not say.
    """

    default_retryable = True

    def __init__(
        self,
        action: str,
        subject: object,
        cause: object,
        *,
        hint: str = "",
        retryable: bool | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(action, subject, cause, hint=hint, retryable=retryable)
        self.retry_after_s = retry_after_s


class SinkGoneError(SinkError):
    """The destination asks not to be called again; it is left alone until a person says otherwise."""


class TrainingError(DfwatchError):
    """A data set, recipe or checkpoint of the training tools is unusable."""
