"""Pure: snapshots of the inbox → which files are complete. No input or output; the caller brings the monotonic time.

A file is *settled* when nothing about it has changed for its quiet window. What is settled is looked into by the caller
(is a writer still there, does the file's own header promise more bytes?), and ``Tracker.decide`` turns the answer into
evidence, or holds the file back. A file that was there before the service goes through the same checks, because the
first snapshot starts its window.

Windows count from the snapshot that first showed the present state, on the monotonic clock. Time stamps of files are
only compared for equality, so a sender that sets them back or into the future, and a wall clock that jumps, change
nothing.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Mapping

    from dfwatch.config import WatchSettings


class Kind(StrEnum):
    """What a directory entry is; everything but a file is there to be refused."""

    FILE = "file"
    SYMLINK = "symlink"
    FIFO = "fifo"
    SOCKET = "socket"
    CHARACTER_DEVICE = "character_device"
    BLOCK_DEVICE = "block_device"
    DIRECTORY = "directory"
    OTHER = "other"


_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
    stat.S_IFCHR: Kind.CHARACTER_DEVICE,
    stat.S_IFBLK: Kind.BLOCK_DEVICE,
    stat.S_IFDIR: Kind.DIRECTORY,
}


class Fingerprint(NamedTuple):
    """What ``lstat`` says of an entry and what changes when somebody works on it.

    A preallocated file keeps its size while data arrives, so the allocated blocks count too; a sender may set the
    modification time, but not the change time.
    """

    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    blocks: int
    inode: int
    device: int
    mode: int

    @classmethod
    def from_stat(cls, status: os.stat_result) -> Self:
        """The fingerprint in the result of ``lstat`` or ``fstat``."""
        return cls(
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_blocks,
            status.st_ino,
            status.st_dev,
            status.st_mode,
        )

    @property
    def kind(self) -> Kind:
        """Kind of entry."""
        return _KINDS.get(stat.S_IFMT(self.mode), Kind.OTHER)

    def same_bytes(self, other: Fingerprint, *, renamed: bool) -> bool:
        """Whether ``other``, taken earlier or later, is of the same file with the same content.

        Blocks are left out: XFS trims its preallocation and ZFS and Btrfs allocate long after the last write. A
        rename changes the change time, so it only counts where none came between (``renamed`` false).
        """
        return (
            self.inode == other.inode
            and self.device == other.device
            and self.size_bytes == other.size_bytes
            and self.mtime_ns == other.mtime_ns
            and (renamed or self.ctime_ns == other.ctime_ns)
        )


class Writer(StrEnum):
    """What the kernel says about processes of this machine that have the file open for writing."""

    NONE = "none"
    PRESENT = "present"
    UNKNOWN = "unknown"


class Length(StrEnum):
    """How a file's length compares with what its own header declares."""

    WHOLE = "whole"
    SHORT = "short"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a look at a settled file brought.

    Attributes:
        writer: Whether a local process can still write to it.
        length: Whether it is as long as its header declares.
        changed: Whether it was already another file, or another state of it, than in the snapshot.
    """

    writer: Writer = Writer.UNKNOWN
    length: Length = Length.UNKNOWN
    changed: bool = False


@dataclass(slots=True, eq=False)
class Tracked:
    """What is remembered of one entry; only the tracker changes it.

    Attributes:
        name: Path below the inbox, as ``os.fsdecode`` gives it.
        since_s: Monotonic time of the snapshot that first showed the present fingerprint.
        first_seen_s: Monotonic time of the snapshot that first showed this inode under this name.
        window_s: Quiet window that holds for the entry in its present state.
        marked: Whether its marker file was there in the last snapshot.
    """

    name: str
    fingerprint: Fingerprint
    since_s: float
    first_seen_s: float
    window_s: float = 0.0
    marked: bool = False
    length: Length = Length.UNKNOWN
    inspected: bool = False
    writer_present: bool = False

    @property
    def ready_since_s(self) -> float:
        """Monotonic time at which the quiet window ended or will end."""
        return self.since_s + self.window_s


@dataclass(frozen=True, slots=True)
class Observation:
    """What one snapshot brought.

    Attributes:
        settled: Entries whose window is over, the one that has waited longest first.
        resting: Entries whose window runs.
        unmarked: Others, which wait for their marker file.
        next_due_s: Monotonic time at which the next window ends if nothing changes; None when none is running.
        changed: Whether any entry appeared, changed or went since the snapshot before.
    """

    settled: list[Tracked]
    resting: list[Tracked]
    unmarked: list[Tracked]
    next_due_s: float | None
    changed: bool

    @property
    def settling(self) -> int:
        """Number of entries that are not settled."""
        return len(self.resting) + len(self.unmarked)


class Tracker:
    """Remembers the entries of the inbox; memory is bounded by the number of entries in the last snapshot."""

    def __init__(self, settings: WatchSettings) -> None:
        self._settings = settings
        self._tracked: dict[str, Tracked] = {}

    def __len__(self) -> int:
        return len(self._tracked)

    def update(self, settings: WatchSettings) -> None:
        """Take new settings; they hold for the windows that are running, too."""
        self._settings = settings

    def get(self, name: str) -> Tracked | None:
        """What is known of an entry; None where the last snapshot did not show it."""
        return self._tracked.get(name)

    def forget(self, name: str) -> None:
        """Start over with an entry, as if the next snapshot were the first to show it."""
        self._tracked.pop(name, None)

    def observe(
        self, snapshot: Mapping[str, Fingerprint], now_s: float, *, markers: Collection[str] = ()
    ) -> Observation:
        """Take in a snapshot of everything that is in the inbox now.

        Args:
            snapshot: Path below the inbox → fingerprint; entries that it lacks are forgotten.
            now_s: Monotonic time at which taking the snapshot began.
            markers: Paths of the entries beside which a marker file lies.
        """
        before = self._tracked
        after: dict[str, Tracked] = {}
        settled: list[Tracked] = []
        resting: list[Tracked] = []
        unmarked: list[Tracked] = []
        next_due_s = float("inf")
        changed = False
        needs_marker = bool(self._settings.marker)
        for name, fingerprint in snapshot.items():
            tracked = before.get(name)
            if tracked is None:
                changed = True
                tracked = Tracked(name, fingerprint, now_s, now_s)
            elif tracked.fingerprint != fingerprint:
                changed = True
                same_inode = tracked.fingerprint[4:6] == fingerprint[4:6]
                tracked = Tracked(name, fingerprint, now_s, tracked.first_seen_s if same_inode else now_s)
            after[name] = tracked
            tracked.marked = needs_marker and name in markers
            tracked.window_s = self._window_s(tracked)
            waits_for_marker = needs_marker and not tracked.marked
            if tracked.ready_since_s <= now_s and not waits_for_marker:
                settled.append(tracked)
                continue
            if waits_for_marker:
                unmarked.append(tracked)
            else:
                resting.append(tracked)
                next_due_s = min(next_due_s, tracked.ready_since_s)
        changed = changed or len(after) < len(before) or any(name not in after for name in before)
        self._tracked = after
        settled.sort(key=lambda tracked: (tracked.ready_since_s, tracked.first_seen_s, tracked.name))
        return Observation(
            settled,
            resting,
            unmarked,
            None if next_due_s == float("inf") else next_due_s,
            changed,
        )

    def decide(self, tracked: Tracked, inspection: Inspection, now_s: float) -> tuple[str, ...] | None:
        """Say why a settled entry counts as complete, or None while it does not.

        A writer that is present holds the file back for as long as it stays. A header that promises more bytes only
        makes the window longer: an upload that stalled looks like this, and so does a file that was cut off for good.
        """
        if inspection.changed:
            self.forget(tracked.name)
            return None
        tracked.inspected = True
        tracked.length = inspection.length
        tracked.writer_present = inspection.writer is Writer.PRESENT
        tracked.window_s = self._window_s(tracked)
        if tracked.writer_present or tracked.ready_since_s > now_s:
            return None
        evidence = [f"quiet {tracked.window_s:.1f} s"]
        if inspection.writer is Writer.NONE:
            evidence.append("lease")
        if tracked.marked:
            evidence.append("marker")
        if inspection.length is Length.WHOLE:
            evidence.append("declared size")
        elif inspection.length is Length.SHORT:
            evidence.append("shorter than declared")
        return tuple(evidence)

    def _window_s(self, tracked: Tracked) -> float:
        settings = self._settings
        if tracked.marked or not stat.S_ISREG(tracked.fingerprint.mode):
            return settings.quiet_s
        if tracked.fingerprint.size_bytes == 0:
            return max(settings.quiet_s, settings.empty_quiet_s)
        if tracked.length is Length.SHORT:
            return max(settings.quiet_s, settings.short_quiet_s)
        return settings.quiet_s
