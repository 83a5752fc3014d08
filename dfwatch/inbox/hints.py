"""File events as a hint: something happened in the inbox, so the next scan should come sooner.

What is known to go wrong with inotify and watchdog, and why nothing here is ever the truth: the kernel's queue
overflows and events are lost; events cost Python time when threads are busy and arrive late; a watched folder that is
replaced, unmounted or deleted leaves an observer that looks alive and hears nothing; watches of subfolders that the
limits forbid are left out in silence; one exception in an emitter's thread ends it for good. So the kernel itself is
asked which watches live (``/proc/self/fdinfo``), and the threads are counted.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from watchdog.events import FileSystemEvent, FileSystemEventHandler

_STOP_TIMEOUT_S = 2.0


class ObserverLike(Protocol):
    """The part of ``watchdog.observers.api.BaseObserver`` that is used."""

    def schedule(
        self,
        event_handler: FileSystemEventHandler,
        path: str,
        *,
        recursive: bool = ...,
        event_filter: list[type[FileSystemEvent]] | None = ...,
    ) -> object:
        """Watch ``path``."""

    def start(self) -> None:
        """Start the threads; OSError where inotify's limits forbid it."""

    def stop(self) -> None:
        """Ask the threads to end."""

    def is_alive(self) -> bool:
        """Whether the dispatching thread runs."""


def native_observer() -> ObserverLike:
    """The best observer of this operating system."""
    from watchdog.observers import Observer  # noqa: PLC0415 - loaded only where events are on

    logging.getLogger("watchdog.observers.inotify").addFilter(_is_news)
    return Observer()


def _is_news(record: logging.LogRecord) -> bool:
    # watchdog logs an error whenever an emitter is stopped while it waits, which is the usual way to stop one.
    return "called when the thread is inactive" not in record.getMessage()


class EventHints:
    """One watched folder, from ``start`` to ``stop``; not used again after that.

    Args:
        notify: Called from watchdog's threads for every event; must return at once and not raise.
        observer_factory: Makes the observer.
    """

    def __init__(self, notify: Callable[[], None], observer_factory: Callable[[], ObserverLike]) -> None:
        self._notify = notify
        self._factory = observer_factory
        self._observer: ObserverLike | None = None
        self._threads: list[threading.Thread] = []
        self._inotify_fd: str | None = None
        self._root_watch: int | None = None

    def start(self, folder: str, *, recursive: bool) -> None:
        """Begin to listen; OSError where the folder is gone or inotify's limits are reached."""
        from watchdog.events import (  # noqa: PLC0415 - loaded only where events are on
            DirCreatedEvent,
            DirMovedEvent,
            FileClosedEvent,
            FileCreatedEvent,
            FileMovedEvent,
            FileSystemEventHandler,
        )

        notify = self._notify

        class Handler(FileSystemEventHandler):
            def dispatch(self, event: FileSystemEvent) -> None:
                notify()

        threads_before = set(threading.enumerate())
        descriptors_before = _inotify_descriptors()
        observer = self._observer = self._factory()
        # No "modified" events: an upload makes thousands, and the next scan sees what they would say.
        wanted: list[type[FileSystemEvent]] = [
            FileCreatedEvent, FileMovedEvent, FileClosedEvent, DirCreatedEvent, DirMovedEvent
        ]  # fmt: skip
        observer.schedule(Handler(), folder, recursive=recursive, event_filter=wanted)
        observer.start()
        self._threads = [
            thread
            for thread in threading.enumerate()
            if thread not in threads_before and type(thread).__module__.startswith("watchdog.")
        ]
        for descriptor in _inotify_descriptors() - descriptors_before:
            watches = _watches(descriptor)
            if not watches:
                # watchdog takes a refusal for want of rights as success.
                raise PermissionError(errno.EACCES, "the kernel does not let this process watch the folder", folder)
            self._inotify_fd, self._root_watch = descriptor, min(watches)

    def trouble(self) -> str:
        """Why no event can come any more; empty while everything is well or nothing is known."""
        if self._observer is None or not self._observer.is_alive():
            return "the observer's thread has ended"
        dead = [thread.name for thread in self._threads if not thread.is_alive()]
        if dead:
            return f"watchdog's thread {dead[0]} has ended"
        if self._inotify_fd is not None and self._root_watch not in _watches(self._inotify_fd):
            return "the kernel dropped the watch (folder deleted, file system unmounted, or event queue overflowed)"
        return ""

    def watch_count(self) -> int | None:
        """Number of folders that the kernel watches for this observer; None where it does not say."""
        return None if self._inotify_fd is None else len(_watches(self._inotify_fd))

    def stop(self) -> bool:
        """Stop listening; False when watchdog did not end in time and was left behind."""
        observer, self._observer = self._observer, None
        if observer is None:
            return True
        # watchdog joins its threads without a time limit.
        stopper = threading.Thread(target=_stop, args=(observer,), name="dfwatch-stop-events", daemon=True)
        try:
            stopper.start()
        except RuntimeError:
            # The machine has no more threads to give.
            return False
        stopper.join(_STOP_TIMEOUT_S)
        return not stopper.is_alive()


def _stop(observer: ObserverLike) -> None:
    observer.stop()
    if isinstance(observer, threading.Thread) and observer.is_alive():
        observer.join()


def _inotify_descriptors() -> set[str]:
    found: set[str] = set()
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return found
    for name in names:
        try:
            if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:inotify":
                found.add(name)
        except OSError:
            continue
    return found


def _watches(descriptor: str) -> set[int]:
    """Watch descriptors of an inotify descriptor, from the kernel's own list (proc_pid_fdinfo(5))."""
    watches: set[int] = set()
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("inotify wd:"):
                    watches.add(int(line[11:].split(" ", 1)[0], 16))
    except (OSError, ValueError):
        pass
    return watches
