"""Which files of the inbox are ready? A periodic scan is the truth; file events only make it come sooner.

One thread (the service's) owns a ``Watcher`` and does all the work by calling ``scan``; watchdog's threads do nothing
but set the wake event. The loop:

    watcher.start()
    while running:
        wake.wait(watcher.wait_s())
        wake.clear()
        if watcher.wait_s() <= 0:
            result = watcher.scan(known=..., limit=free_places)
            for candidate in result.ready:
                ...  # claim it
                watcher.forget(candidate.name)
    watcher.stop()

``health`` may be called from any thread and never waits.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from dfwatch.inbox.ahead import DigestsAhead
from dfwatch.inbox.beneath import parent_folder
from dfwatch.inbox.completeness import Tracker, Writer
from dfwatch.inbox.empty_folders import EmptyFolders
from dfwatch.inbox.filesystems import Mount, mount_of
from dfwatch.inbox.hints import ObserverLike, native_observer
from dfwatch.inbox.inspection import Inspector
from dfwatch.inbox.listener import Identity, Listener
from dfwatch.inbox.names import NameRules
from dfwatch.inbox.walk import take_snapshot
from dfwatch.inbox.watching import Candidate, ScanResult, WatchHealth
from dfwatch.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from dfwatch.config import WatchSettings
    from dfwatch.inbox.completeness import Observation, Tracked
    from dfwatch.inbox.walk import Snapshot

__all__ = ["Candidate", "Clock", "ScanResult", "WatchHealth", "Watcher"]

_log = structlog.get_logger(__name__)

HINT_DELAY_S = 0.025
"""Events come in bursts (created, written, closed, times set); one scan a moment later sees them all."""
BRISK_S = 0.1
"""Time between scans while something changes, if scanning is cheap."""
BRISK_FOR_S = 0.6
"""How long scans stay brisk after a change. watchdog keeps back whatever follows a file that was moved out, as every
claim moves one, for half a second to find out where it went; the scans see it meanwhile."""
_LEAST_PAUSE_S = 0.03
_MAX_PROBLEMS = 20
_MAX_PAUSE_S = 30.0


class Clock(Protocol):
    """What is used of the module ``time``."""

    def monotonic(self) -> float:
        """Seconds that only go forward; every window and age is measured with them."""

    def time(self) -> float:
        """Seconds since 1970; only to say when a file was first seen."""


class Flag(Protocol):
    """What is used of ``threading.Event``."""

    def set(self) -> None:
        """Wake whoever waits for the flag."""


class Watcher:
    """Watches one inbox.

    Args:
        inbox: The folder. It may be missing, be replaced or be mounted anew at any time.
        settings: The section ``watch`` of the configuration.
        wake: Set by file events; the service waits on it.
        clock: The module ``time``, or what a test puts in its place.
        observer_factory: Makes the watchdog observer.
    """

    def __init__(
        self,
        inbox: str,
        settings: WatchSettings,
        wake: Flag,
        *,
        clock: Clock = time,
        observer_factory: Callable[[], ObserverLike] = native_observer,
    ) -> None:
        self._inbox = inbox
        self._settings = settings
        self._wake = wake
        self._clock = clock
        self._rules = NameRules(settings)
        self._tracker = Tracker(settings)
        self._inspector = Inspector()
        self._digests = DigestsAhead(self._inspector.leases.writer, self._tracker.get)
        self._listener = Listener(self._on_event, observer_factory)
        self._health = WatchHealth()
        self._mount: tuple[Identity, Mount] | None = None
        self._hinted_at_s: float | None = None
        self._next_scan_s = self._not_before_s = clock.monotonic()
        self._brisk_until_s = 0.0
        self._empty_folders = EmptyFolders()
        self._problems: dict[str, str] = {}

    def start(self) -> None:
        """Begin to listen for events; the first scan is due at once. Never fails: without events there are scans."""
        self._next_scan_s = self._not_before_s = self._clock.monotonic()
        try:
            inbox_fd = self._open_inbox()
        except OSError as error:
            self._tend(None, Mount(), f"cannot open {self._inbox}: {error.strerror}")
            return
        try:
            self._tend(*self._locate(inbox_fd))
        finally:
            os.close(inbox_fd)

    def stop(self) -> None:
        """Stop listening, and reading ahead."""
        self._listener.stop()
        self._digests.stop()

    def update(self, settings: WatchSettings) -> None:
        """Take new settings; they hold from the next scan on (``events`` and ``recursive`` after a restart)."""
        settings = replace(settings, events=self._settings.events, recursive=self._settings.recursive)
        self._settings = settings
        self._rules = NameRules(settings)
        self._tracker.update(settings)
        self.hint()

    def hint(self) -> None:
        """Let the next scan come soon; from any thread."""
        self._on_event()

    def forget(self, name: str) -> None:
        """Drop what is known of an entry that was claimed or has changed; it starts anew if it is there."""
        self._tracker.forget(name)
        self._digests.forget(name)
        self._be_brisk(self._clock.monotonic(), 0.0)

    def health(self) -> WatchHealth:
        """How well the watching works, as of the last scan; from any thread."""
        return self._health

    def wait_s(self) -> float:
        """Seconds until the next scan is due; 0 when it is."""
        due_s = self._next_scan_s
        hinted_at_s = self._hinted_at_s
        if hinted_at_s is not None:
            due_s = min(due_s, hinted_at_s + HINT_DELAY_S)
        return max(0.0, max(due_s, self._not_before_s) - self._clock.monotonic())

    def scan(self, *, known: Callable[[Candidate], bool] | None = None, limit: int | None = None) -> ScanResult:
        """Look at the whole inbox and say what is ready.

        Args:
            known: Says of an entry that is settled, or lacks its marker, that it needs no attention (claimed already,
                or kept); asked before the file is looked into, with the evidence still empty.
            limit: At most so many ready entries; the others are found again by the next scan, and are not opened now.

        Raises nothing for the state of the inbox; a scan that could not be done says so in ``problem``.
        """
        began_s = self._clock.monotonic()
        self._hinted_at_s = None
        self._health = replace(self._health, scanning_since_s=began_s)
        try:
            inbox_fd = self._open_inbox()
        except OSError as error:
            # What cannot be seen may change unseen: every window starts anew when the inbox is back.
            observation = self._tracker.observe({}, began_s)
            self._digests.stop()
            self._tend(None, Mount())
            result = ScanResult(problem=f"cannot open {self._inbox}: {error.strerror}")
            return self._conclude(result, {".": result.problem}, began_s, changed=observation.changed)
        try:
            identity, mount = self._locate(inbox_fd)
            # Before the walk, so that what comes in after it is heard of.
            self._tend(identity, mount)
            snapshot = take_snapshot(inbox_fd, self._rules, recursive=self._settings.recursive)
            observation = self._tracker.observe(snapshot.entries, began_s, markers=snapshot.markers)
            ask_for_lease = self._asks_for_leases(mount)
            result = self._judge(
                inbox_fd, observation, snapshot, began_s, ask_for_lease=ask_for_lease, known=known, limit=limit
            )
            self._digests.tend(inbox_fd, observation.resting if ask_for_lease else (), began_s)
            self._empty_folders.sweep(
                inbox_fd, snapshot.empty_folders, began_s, age_s=self._settings.remove_empty_folders_s
            )
        finally:
            os.close(inbox_fd)
        self._listener.count(snapshot.folders)
        return self._conclude(result, snapshot.problems, began_s, changed=observation.changed)

    def remove_marker(self, name: str) -> None:
        """Remove the marker file of an entry that was claimed; it is no error when there is none.

        The claim comes first: should the service die between the two, the marker that stays behind makes a later file
        of this name wait for no less than its quiet window. OSError where the marker cannot be removed.
        """
        if not self._settings.marker:
            return
        inbox_fd = self._open_inbox()
        try:
            with parent_folder(inbox_fd, name + self._settings.marker) as (folder_fd, marker):
                os.unlink(marker, dir_fd=folder_fd)
        except FileNotFoundError:
            pass
        finally:
            os.close(inbox_fd)

    def _on_event(self) -> None:
        # One wake for each scan: a storm of events must not keep the service's thread from its work.
        if self._hinted_at_s is None:
            self._hinted_at_s = self._clock.monotonic()
            self._wake.set()

    def _judge(
        self,
        inbox_fd: int,
        observation: Observation,
        snapshot: Snapshot,
        now_s: float,
        *,
        ask_for_lease: bool,
        known: Callable[[Candidate], bool] | None,
        limit: int | None,
    ) -> ScanResult:
        wall_offset_s = self._clock.time() - now_s
        ready: list[Candidate] = []
        busy = beyond_limit = 0
        next_due_s = observation.next_due_s
        unmarked = [
            tracked
            for tracked in observation.unmarked
            if known is None or not known(_candidate(tracked, wall_offset_s))
        ]
        held_back = len(observation.unmarked) - len(unmarked)
        oldest_s = min((tracked.first_seen_s for tracked in (*observation.resting, *unmarked)), default=now_s)
        for tracked in observation.settled:
            candidate = _candidate(tracked, wall_offset_s)
            if known is not None and known(candidate):
                held_back += 1
                continue
            if limit is not None and len(ready) >= limit:
                beyond_limit += 1
                continue
            inspection = self._inspector.inspect(
                inbox_fd, tracked, ask_for_lease=ask_for_lease, problems=snapshot.problems
            )
            evidence = None if inspection is None else self._tracker.decide(tracked, inspection, now_s)
            if inspection is not None and evidence is not None:
                nobody_writes = inspection.writer is Writer.NONE
                digest = self._digests.of(tracked.name, tracked.fingerprint) if nobody_writes else None
                ready.append(replace(candidate, evidence=evidence, ready_since_s=tracked.ready_since_s, digest=digest))
                continue
            busy += tracked.writer_present
            oldest_s = min(oldest_s, tracked.first_seen_s)
            if tracked.ready_since_s > now_s:
                next_due_s = tracked.ready_since_s if next_due_s is None else min(next_due_s, tracked.ready_since_s)
        return ScanResult(
            ready=tuple(ready),
            beyond_limit=beyond_limit,
            waiting=len(self._tracker) - len(ready) - beyond_limit - held_back,
            busy=busy,
            unmarked=len(unmarked),
            held_back=held_back,
            ignored=snapshot.ignored,
            folders=snapshot.folders,
            oldest_wait_s=now_s - oldest_s,
            next_due_s=None if next_due_s is None else max(0.0, next_due_s - now_s),
            unread=frozenset(snapshot.problems),
        )

    def _be_brisk(self, now_s: float, took_s: float, *, prolong: bool = True) -> None:
        self._next_scan_s = min(self._next_scan_s, now_s + max(BRISK_S, 20 * took_s))
        if prolong:
            self._brisk_until_s = now_s + BRISK_FOR_S

    def _open_inbox(self) -> int:
        return os.open(self._inbox, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _locate(self, inbox_fd: int) -> tuple[Identity, Mount]:
        status = os.fstat(inbox_fd)
        identity = (status.st_dev, status.st_ino)
        if self._mount is None or self._mount[0] != identity:
            self._mount = (identity, mount_of(self._inbox))
        return self._mount

    def _asks_for_leases(self, mount: Mount) -> bool:
        # On a shared file system a lease is silent about writers elsewhere, so that it proves nothing.
        return self._settings.lease == "on" or (self._settings.lease == "auto" and not mount.is_shared)

    def _tend(self, identity: Identity | None, mount: Mount, problem: str = "") -> None:
        settings = self._settings
        self._listener.tend(
            self._inbox,
            identity,
            mount,
            events=settings.events,
            recursive=settings.recursive,
            now_s=self._clock.monotonic(),
        )
        self._health = replace(self._health, **self._standing(mount), problems=(problem,) if problem else ())

    def _standing(self, mount: Mount) -> dict[str, Any]:
        """The part of the health that does not come from a scan."""
        listening, leases = self._listener.state, self._inspector.leases
        if not self._asks_for_leases(mount):
            lease = "off"
        elif leases.worked:
            lease = "works"
        else:
            lease = "impossible" if leases.impossible else "unknown"
        return {
            "events": listening.events,
            "events_reason": listening.reason,
            "deaf": listening.deaf,
            "deaf_reason": listening.reason if listening.deaf else "",
            "restarts": listening.restarts,
            "file_system": mount.type,
            "shared": mount.is_shared,
            "lease": lease,
            "lease_reason": "; ".join(leases.impossible.values()),
        }

    def _conclude(self, result: ScanResult, problems: dict[str, str], began_s: float, *, changed: bool) -> ScanResult:
        """Plan the next scan, publish the health, log what is new."""
        ended_s = self._clock.monotonic()
        took_s = ended_s - began_s
        # Scanning never takes more than a fifth of the time, however large the inbox and however slow its disk.
        self._not_before_s = ended_s + min(max(_LEAST_PAUSE_S, 4 * took_s), _MAX_PAUSE_S)
        self._next_scan_s = began_s + self._settings.scan_interval_s
        if changed or ended_s < self._brisk_until_s:
            self._be_brisk(ended_s, took_s, prolong=changed)
        if result.next_due_s is not None:
            self._next_scan_s = min(self._next_scan_s, began_s + result.next_due_s)
        for path, cause in problems.items():
            if self._problems.get(path) != cause:
                _log.warning("inbox_unreadable", path=path, cause=cause)
        self._problems = problems
        mount = self._mount[1] if self._mount is not None else Mount()
        told = tuple(f"{printable(path)}: {cause}" for path, cause in islice(problems.items(), _MAX_PROBLEMS))
        self._health = replace(
            self._health,
            **self._standing(mount),
            scans=self._health.scans + 1,
            last_scan_ms=took_s * 1e3,
            last_scan_at_s=ended_s,
            scanning_since_s=None,
            problems=told,
        )
        return replace(result, scan_ms=took_s * 1e3)


def _candidate(tracked: Tracked, wall_offset_s: float) -> Candidate:
    """What is known of an entry before it is looked into."""
    return Candidate(
        tracked.name,
        tracked.fingerprint.kind,
        tracked.fingerprint,
        (),
        tracked.ready_since_s,
        tracked.first_seen_s + wall_offset_s,
    )
