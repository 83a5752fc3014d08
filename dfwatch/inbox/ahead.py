"""Begin the SHA-256 of large files while they lie in their quiet window, so that it is there when they are claimed.

A digest that was begun before the claim counts only if nobody can have written meanwhile: the kernel says that no
process had the file open for writing (a mapping for writing counts as one), before the first byte was read and again
when the window was over, and inode, size, modification and change time are the same from before the first byte to the
claim. Where the kernel cannot be asked, as for shared file systems, files are hashed after the claim.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Final

from dfwatch.inbox.beneath import open_file
from dfwatch.inbox.completeness import Fingerprint, Kind, Tracked, Writer
from dfwatch.storage.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LEAST_BYTES: Final = 256 * 1024 * 1024
"""Smaller files are hashed in less time than it takes to look for their faces."""
LEAST_REST_S: Final = 0.4
"""A file that stood still for so long is probably complete; one that is still being sent would be hashed in vain."""
_AT_ONCE: Final = 2
_REMEMBERED: Final = 64


class DigestsAhead:
    """The digests that were begun for files in the inbox; owned by the watcher's thread.

    Args:
        writer: Asks the kernel whether a process can write to an open file.
        current: What is known of an entry of the inbox; None where it is gone.
    """

    def __init__(self, writer: Callable[[int], Writer], current: Callable[[str], Tracked | None]) -> None:
        self._writer = writer
        self._current = current
        self._begun: dict[str, Digest] = {}
        # Files that changed after all, by device and inode. They get no second chance, or a slow sender would have
        # the same bytes hashed at each of its pauses.
        self._restless: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED)

    def tend(self, inbox_fd: int, resting: Iterable[Tracked], now_s: float) -> None:
        """Give up what is in vain, and begin with the file that has rested longest.

        Args:
            inbox_fd: Descriptor of the inbox.
            resting: Entries whose quiet window runs.
            now_s: Monotonic time of the snapshot that they were found in.
        """
        for name, digest in list(self._begun.items()):
            tracked = self._current(name)
            if tracked is None or tracked.fingerprint != digest.fingerprint:
                digest.give_up()
                del self._begun[name]
                self._restless.append(_file(digest.fingerprint))
        if len(self._begun) < _AT_ONCE:
            waiting = [tracked for tracked in resting if self._is_worth_it(tracked, now_s)]
            if waiting:
                self._begin(inbox_fd, min(waiting, key=lambda tracked: tracked.since_s))

    def of(self, name: str, fingerprint: Fingerprint) -> Digest | None:
        """The digest of a file in this state, whether it is done or not; None where none was begun."""
        digest = self._begun.get(name)
        return digest if digest is not None and digest.fingerprint == fingerprint else None

    def forget(self, name: str) -> None:
        """A file was claimed: its digest, done or not, is somebody else's now."""
        self._begun.pop(name, None)

    def stop(self) -> None:
        """Give up all of them."""
        for digest in self._begun.values():
            digest.give_up()
        self._begun.clear()

    def _is_worth_it(self, tracked: Tracked, now_s: float) -> bool:
        fingerprint = tracked.fingerprint
        return (
            fingerprint.size_bytes >= LEAST_BYTES
            and fingerprint.kind is Kind.FILE
            and now_s - tracked.since_s >= LEAST_REST_S
            and tracked.name not in self._begun
            and _file(fingerprint) not in self._restless
        )

    def _begin(self, inbox_fd: int, tracked: Tracked) -> None:
        try:
            descriptor = open_file(inbox_fd, tracked.name)
        except OSError:
            # It is looked into, and told about, when its window is over.
            return
        try:
            same = Fingerprint.from_stat(os.fstat(descriptor)) == tracked.fingerprint
            if same and self._writer(descriptor) is Writer.NONE:
                self._begun[tracked.name] = Digest(descriptor, tracked.fingerprint)
        except OSError:
            return
        finally:
            os.close(descriptor)


def _file(fingerprint: Fingerprint) -> tuple[int, int]:
    return fingerprint.device, fingerprint.inode
