"""Keeps event hints alive: starts them, sees that they have gone deaf, starts them again, and says how it stands."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from dfwatch.inbox.hints import EventHints, ObserverLike

if TYPE_CHECKING:
    from collections.abc import Callable

    from dfwatch.inbox.filesystems import Mount

_log = structlog.get_logger(__name__)

_RETRY_FIRST_S = 1.0
_RETRY_LAST_S = 300.0
_STEADY_S = 60.0

Identity = tuple[int, int]
"""Device and inode of a folder."""


@dataclass(frozen=True, slots=True)
class Listening:
    """How listening stands.

    Attributes:
        events: ``on``, ``off`` (not wanted here) or ``failed`` (wanted; only scans for now).
        reason: Why they are off or failed, or which part is missing; empty otherwise.
        deaf: Whether events are wanted and the watched folder is not the configured one, or is not watched.
        restarts: How often listening was started again because it had gone deaf.
    """

    events: str = "off"
    reason: str = ""
    deaf: bool = False
    restarts: int = 0


class Listener:
    """Owns the event hints of one inbox; used by the scanning thread only."""

    def __init__(self, notify: Callable[[], None], observer_factory: Callable[[], ObserverLike]) -> None:
        self._notify = notify
        self._factory = observer_factory
        self._hints: EventHints | None = None
        self._identity: Identity | None = None
        self._started_at_s = 0.0
        self._retry_at_s = float("-inf")
        self._retry_s = 0.0
        self.state = Listening()

    def tend(
        self, inbox: str, identity: Identity | None, mount: Mount, *, events: str, recursive: bool, now_s: float
    ) -> None:
        """Compare what is watched with what should be, and put it right.

        Args:
            inbox: The configured folder.
            identity: What lies at that path now; None when it cannot be opened.
            mount: Where it lies.
            events: The setting ``watch.events``.
            recursive: The setting ``watch.recursive``.
            now_s: Monotonic time.
        """
        if events == "off" or (events == "auto" and identity is not None and mount.is_shared):
            self.stop()
            reason = "switched off" if events == "off" else f"{mount.type} reports no changes made by other machines"
            self._become(replace(self.state, events="off", reason=reason, deaf=False))
            return
        trouble = self._trouble(identity)
        if self._hints is not None and not trouble:
            if now_s - self._started_at_s > _STEADY_S:
                self._retry_s = 0.0
            return
        was_running = self._hints is not None
        self.stop()
        if trouble and (was_running or identity is None):
            self._become(replace(self.state, events="failed", reason=trouble, deaf=True))
        if identity is None:
            return
        if now_s < self._retry_at_s:
            self._become(
                replace(self.state, events="failed", reason="waiting before the next try to listen", deaf=True)
            )
            return
        self._retry_at_s = now_s + self._retry_s
        self._retry_s = min(max(_RETRY_FIRST_S, 2 * self._retry_s), _RETRY_LAST_S)
        restarts = self.state.restarts + (was_running or self.state.deaf)
        hints = EventHints(self._notify, self._factory)
        try:
            hints.start(inbox, recursive=recursive)
        except (OSError, RuntimeError, ImportError) as error:
            hints.stop()
            reason = getattr(error, "strerror", None) or str(error)
            self._become(replace(self.state, events="failed", reason=reason, deaf=True))
            return
        self._hints, self._identity, self._started_at_s = hints, identity, now_s
        self._become(Listening("on", restarts=restarts))

    def count(self, folders: int) -> None:
        """Compare the folders that a scan read with those that the kernel watches."""
        watched = self._hints.watch_count() if self._hints is not None else None
        if self.state.events == "on" and watched is not None:
            missing = f"only {watched} of {folders} folders are watched (fs.inotify.max_user_watches)"
            self._become(replace(self.state, reason=missing if watched < folders else ""))

    def stop(self) -> None:
        """Stop listening."""
        if self._hints is not None and not self._hints.stop():
            _log.warning("events_not_stopped", hint="watchdog's threads did not end in time and were left behind")
        self._hints = None
        self._identity = None

    def _trouble(self, identity: Identity | None) -> str:
        if identity is None:
            return "the inbox cannot be opened"
        if self._hints is None:
            return ""
        if identity != self._identity:
            return "another folder lies at the inbox's path than the one that is watched"
        return self._hints.trouble()

    def _become(self, state: Listening) -> None:
        if (state.events, state.reason) != (self.state.events, self.state.reason):
            log = _log.warning if state.events == "failed" else _log.info
            log("events", events=state.events, reason=state.reason, fallback="scanning" if state.events != "on" else "")
        self.state = state
