"""What the watcher tells the service: data types only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dfwatch.inbox.completeness import Fingerprint, Kind
    from dfwatch.storage.digest import Digest


@dataclass(frozen=True, slots=True)
class Candidate:
    """An entry of the inbox that is ready to be claimed (a file) or refused (anything else).

    Attributes:
        name: Path below the inbox, as ``os.fsdecode`` gives it (``os.fsencode`` gives the bytes back).
        kind: What it is; everything but ``Kind.FILE`` is there to be refused.
        fingerprint: State in which it stood still; whoever claims it compares (``Fingerprint.same_bytes``).
        evidence: Why it counts as complete, for the sidecar.
        ready_since_s: Monotonic time at which its quiet window ended.
        first_seen_wall_time: When it was first seen, in seconds since 1970.
        digest: Of the bytes that the fingerprint speaks of, where it was begun before the file was ready.
    """

    name: str
    kind: Kind
    fingerprint: Fingerprint
    evidence: tuple[str, ...]
    ready_since_s: float
    first_seen_wall_time: float
    digest: Digest | None = None


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What one scan found.

    Attributes:
        ready: Ready entries, the one that has waited longest first; at most ``limit``.
        beyond_limit: Settled entries that ``limit`` left out; they were not looked into.
        waiting: Entries that are not complete yet: still changing, in their quiet window, held open by a writer, or
            without their marker file.
        busy: How many of those are settled but held open by a writer.
        unmarked: How many lack only their marker file.
        held_back: Entries that the caller's ``known`` named.
        ignored: Names that are left alone.
        folders: Folders that were read.
        scan_ms: Time the scan took.
        oldest_wait_s: Age of the oldest entry that is not complete; 0 when there is none.
        next_due_s: Seconds until the next quiet window ends if nothing changes; None when none runs.
        unread: Folders and entries that could not be looked at.
        problem: Why the inbox could not be scanned; empty when it was.
    """

    ready: tuple[Candidate, ...] = ()
    beyond_limit: int = 0
    waiting: int = 0
    busy: int = 0
    unmarked: int = 0
    held_back: int = 0
    ignored: int = 0
    folders: int = 0
    scan_ms: float = 0.0
    oldest_wait_s: float = 0.0
    next_due_s: float | None = None
    unread: frozenset[str] = frozenset()
    problem: str = ""

    def may_hide(self, name: str) -> bool:
        """Whether a file may be there though the scan did not show it."""
        if self.problem or not self.unread.isdisjoint((".", name)):
            return True
        return any(name[:end] in self.unread for end, letter in enumerate(name) if letter == "/")


@dataclass(frozen=True, slots=True)
class WatchHealth:
    """How well the watching works.

    Attributes:
        events: ``on``, ``off`` (not wanted here) or ``failed`` (wanted, scanning only for now).
        events_reason: Why they are off or failed, or which part of them is missing; empty otherwise.
        deaf: Whether events are wanted and the watched folder is not the configured one, or is not watched.
        deaf_reason: Why; empty when not deaf.
        restarts: How often listening was started again because it had gone deaf.
        file_system: Kind of file system that the inbox is on; empty where unknown.
        shared: Whether other machines may change files there unseen, so that only scans count.
        lease: ``works``, ``off``, ``impossible`` or ``unknown`` (not tried yet).
        lease_reason: Why it is impossible for some or all files; empty otherwise.
        scans: Scans since the start.
        last_scan_ms: Time the last scan took.
        last_scan_at_s: Monotonic time at which the last scan ended; None before the first.
        scanning_since_s: Monotonic time at which the scan that is running began; None when none is.
        problems: Folders and entries that could not be read, and why (at most 20).
    """

    events: str = "off"
    events_reason: str = ""
    deaf: bool = False
    deaf_reason: str = ""
    restarts: int = 0
    file_system: str = ""
    shared: bool = False
    lease: str = "unknown"
    lease_reason: str = ""
    scans: int = 0
    last_scan_ms: float = 0.0
    last_scan_at_s: float | None = None
    scanning_since_s: float | None = None
    problems: tuple[str, ...] = ()
