"""Brings the outbox to the sinks: one thread for each sink, so that none waits for another, nor a verdict for any.

Within a sink the order of publication is kept: a message that fails is tried again, after growing pauses, before the
next one has its turn. Failures in a row and the time of the next try are kept in the journal, so a restart does not
begin anew; ``jobs.pauses`` says how long they last.
"""

from __future__ import annotations

import hashlib
import threading
import time
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import structlog

from dfwatch.errors import ConfigError, DfwatchError, MissingExtraError, SinkError, SinkGoneError, StorageError
from dfwatch.jobs.outbox import Outbox
from dfwatch.jobs.pauses import Pauses, seconds_since, stored_text
from dfwatch.journal import Journal
from dfwatch.operation.vitals import SinkLag
from dfwatch.redaction import redact_text
from dfwatch.sinks import Message
from dfwatch.sinks.filters import wants
from dfwatch.sinks.registry import build

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dfwatch.config import SinkSettings
    from dfwatch.jobs.outbox import Entry, SinkState
    from dfwatch.sinks import Sink

_log = structlog.get_logger(__name__)

# Other processes (``dfwatch sinks replay``) queue messages too, and cannot wake a thread.
_LOOK_AGAIN_S: Final = 1.0
_BATCH: Final = 20
_STORAGE_RETRY_S: Final = 2.0
_FRAMES: Final = 20


class Dispatcher:
    """All sinks of one service.

    Args:
        journal_path: The journal; ``start`` opens a connection of its own to it.
        settings: The sinks of the configuration.

    Raises:
        ConfigError: A sink of unknown type.
        MissingExtraError: A sink's dependency is not installed.
    """

    def __init__(self, journal_path: str, settings: Sequence[SinkSettings]) -> None:
        self._path = journal_path
        self._settings = list(settings)
        self._sinks = {item.name: _made(item) for item in settings if item.enabled}
        self._journal: Journal | None = None
        self._workers: dict[str, _Worker] = {}
        self._leaving: dict[str, _Worker] = {}

    def start(self) -> None:
        """Begin to deliver.

        Raises:
            StorageError: The journal cannot be opened.
        """
        self._journal = Journal(self._path, synced=False)
        for item in self._settings:
            if item.enabled:
                self._begin(item, self._sinks[item.name], after=None)

    def recipients(self, document: Mapping[str, Any]) -> tuple[str, ...]:
        """The sinks whose filters let an outcome through."""
        return tuple(item.name for item in self._settings if item.enabled and wants(item, document))

    def wake(self) -> None:
        """There are new messages."""
        for worker in self._workers.copy().values():
            worker.wake()

    def update(self, settings: Sequence[SinkSettings]) -> None:
        """Take new settings: sinks may come, go and change. What is queued for one that goes stays in the outbox.

        Raises:
            ConfigError: As the constructor; nothing was changed then.
            MissingExtraError: As the constructor; nothing was changed then.
        """
        before = {item.name: item for item in self._settings if item.enabled}
        after = {item.name: item for item in settings if item.enabled}
        changed = [item for name, item in after.items() if before.get(name) != item]
        made = {item.name: _made(item) for item in changed}
        self._settings = list(settings)
        for name, item in before.items():
            worker = self._workers.pop(name, None) if item != after.get(name) else None
            if worker is not None:
                worker.stop()
                self._leaving[name] = worker
        for item in changed:
            # Two threads on one sink would break its order; the new one waits for the delivery in hand.
            self._begin(item, made[item.name], after=self._leaving.pop(item.name, None))

    def states(self) -> list[SinkState]:
        """How each sink gets on, also those that are no longer configured and still have messages."""
        return [] if self._journal is None else Outbox(self._journal).states([item.name for item in self._settings])

    def lag(self) -> tuple[SinkLag, ...]:
        """How far behind each sink is, for metrics and health; nothing where the journal cannot be read.

        A sink that is switched off or was removed is not behind, whatever still waits for it.
        """
        served = {item.name for item in self._settings if item.enabled}
        with suppress(StorageError):
            return tuple(
                SinkLag(
                    state.name,
                    state.queued,
                    state.dead,
                    0.0
                    if state.oldest_queued_at is None or state.name not in served
                    else max(0.0, seconds_since(state.oldest_queued_at)),
                )
                for state in self.states()
            )
        return ()

    def stop(self, timeout_s: float) -> int:
        """Finish the deliveries in hand, for ``timeout_s`` at most; returns how many were not finished."""
        deadline_s = time.monotonic() + timeout_s
        workers = [*self._workers.values(), *self._leaving.values()]
        for worker in workers:
            worker.stop()
        unfinished = sum(not worker.join(deadline_s - time.monotonic()) for worker in workers)
        if self._journal is not None and not unfinished:
            self._journal.close()
        return unfinished

    def _begin(self, settings: SinkSettings, sink: Sink | None, *, after: _Worker | None) -> None:
        if self._journal is None:
            return
        worker = _Worker(settings, sink, Outbox(self._journal), after)
        self._workers[settings.name] = worker
        worker.start()


class _Worker:
    """The thread of one sink."""

    def __init__(self, settings: SinkSettings, sink: Sink | None, outbox: Outbox, after: _Worker | None) -> None:
        self.name = settings.name
        self._settings = settings
        self._sink = sink
        self._outbox = outbox
        self._after = after
        self._stopping = threading.Event()
        self._news = threading.Event()
        self._told = ""
        self._failures = 0
        self._pauses = Pauses(settings)
        # Daemonic: a destination that hangs beyond all limits must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=f"sink-{self.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._news.set()

    def stop(self) -> None:
        self._stopping.set()
        self._news.set()

    def join(self, timeout_s: float) -> bool:
        self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    def _run(self) -> None:
        if self._after is not None:
            self._after._thread.join()
            self._pauses = Pauses(self._settings, self._after._pauses)
            self._after = None
        try:
            self._resume()
            while not self._stopping.is_set():
                pause_s = self._turn()
                if pause_s > 0:
                    self._news.wait(pause_s)
        finally:
            self._close()

    def _turn(self) -> float:
        """One round, which nothing that happens in it ends for good; returns as ``_deliver_batch``."""
        try:
            return self._deliver_batch()
        except StorageError as error:
            if not self._stopping.is_set():
                self._tell("the outbox cannot be used", error)
            return _STORAGE_RETRY_S
        except BaseException as error:  # noqa: BLE001 - whatever it is, a sink without a thread would deliver nothing more
            return self._troubled("a sink cannot go on; it tries again", self._odd("serving", error))

    def _resume(self) -> None:
        """A sink that was told to go away stays away until its settings are others than those."""
        with suppress(Exception):  # the first round finds out, and goes on
            state = self._outbox.condition(self.name)
            self._failures = state.failures
            self._told = state.error or ""
            if state.gone is not None and not state.gone.startswith(_fingerprint(self._settings)):
                self._outbox.enable(self.name)

    def _deliver_batch(self) -> float:
        """Deliver what waits; returns for how long nothing needs to be done, in seconds."""
        self._news.clear()
        state = self._outbox.condition(self.name)
        self._failures = state.failures
        if state.gone is not None:
            return _LOOK_AGAIN_S
        pause_s = self._pauses.left_s(state)
        if pause_s > 0:
            return self._rest(pause_s)
        # A sink that cannot be made says nothing about any message: they wait, and none is blamed.
        try:
            sink = self._built()
        except DfwatchError as error:
            return self._troubled("a sink cannot be made; its messages wait", error)
        except BaseException as error:  # noqa: BLE001 - somebody else's code
            return self._troubled("a sink cannot be made; its messages wait", self._odd("making", error))
        entries = self._outbox.waiting(self.name, _BATCH)
        if not entries and state.failures:
            self._outbox.recovered(self.name)
            self._works()
        for entry in entries:
            if self._stopping.is_set():
                return 0.0
            if not self._deliver(sink, entry):
                return 0.0
        return 0.0 if len(entries) == _BATCH else _LOOK_AGAIN_S

    def _built(self) -> Sink:
        if self._sink is None:
            self._sink = build(self._settings)
        return self._sink

    def _rest(self, pause_s: float) -> float:
        """Sleep through a pause that news do not shorten; ``enable`` and the end of the service do."""
        self._stopping.wait(min(pause_s, _LOOK_AGAIN_S))
        return 0.0

    def _deliver(self, sink: Sink, entry: Entry) -> bool:
        """Deliver one message; False if the sink needs a pause."""
        if entry.document is None:
            return self._failed(entry, _unreadable(entry))
        message = Message(entry.job, entry.document, entry.queued_at, entry.sidecar)
        try:
            sink.deliver(message)
        except SinkGoneError as error:
            cause = f"{_fingerprint(self._settings)} {redact_text(error.cause)}"
            self._outbox.gone(self.name, cause=cause)
            self._tell("a sink asks not to be called again; 'dfwatch sinks enable' undoes this", error)
            return False
        except SinkError as error:
            return self._failed(entry, error)
        except BaseException as error:  # noqa: BLE001 - somebody else's code: SystemExit, asyncio.CancelledError …
            return self._failed(entry, self._odd("delivering to", error))
        self._insist(lambda: self._outbox.delivered(self.name, entry))
        self._pauses.done(entry)
        self._works()
        return True

    def _works(self) -> None:
        if self._told:
            _log.info("a sink works again", sink=self.name)
            self._told = ""

    def _close(self) -> None:
        # Whatever a sink's library thinks of being closed, the worker goes on, or ends.
        with suppress(BaseException):
            if self._sink is not None:
                self._sink.close()

    def _insist(self, operation: Callable[[], None]) -> None:
        """Do something in the outbox even if the disk is sick for a while."""
        while True:
            try:
                return operation()
            except StorageError as error:
                self._tell("the outbox cannot be used", error)
                if self._stopping.wait(_STORAGE_RETRY_S):
                    raise

    def _failed(self, entry: Entry, error: SinkError) -> bool:
        self._close()
        if not error.retryable or self._pauses.given_up(entry):
            text = stored_text(error)
            _log.error("a message is set aside as dead", sink=self.name, job=entry.job, error=error)
            self._insist(lambda: self._outbox.set_aside(self.name, entry, error=text))
            self._pauses.done(entry)
            return True
        self._tell("a sink does not take a message; it is tried again", error)
        retry_at, text = self._pauses.begin(error, self._failures)
        failures = self._failures + 1
        self._insist(lambda: self._outbox.failed(self.name, entry, failures=failures, retry_at=retry_at, error=text))
        return False

    def _troubled(self, event: str, error: DfwatchError) -> float:
        """Note that the sink fails whatever the message; returns for how long to wait before looking again."""
        self._tell(event, error)
        retry_at, text = self._pauses.begin(error, self._failures)
        self._failures += 1
        with suppress(Exception):  # why the outbox does not take it, the next round tells
            self._outbox.troubled(self.name, failures=self._failures, retry_at=retry_at, error=text)
        # What the outbox says of the pause may be the very thing that cannot be read.
        return min(self._pauses.own_left_s, _LOOK_AGAIN_S)

    def _odd(self, action: str, error: BaseException) -> SinkError:
        """An exception that nobody foresaw, as one of ours: only its type, because its text may hold a secret."""
        kind = type(error).__name__
        if kind != self._told:
            where = traceback.StackSummary.extract(
                traceback.walk_tb(error.__traceback__), limit=-_FRAMES, lookup_lines=False
            )
            at = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in where]
            _log.error("a sink failed in a way that it should not", sink=self.name, kind=kind, at=at)
        return SinkError(action, self.name, kind)

    def _tell(self, event: str, error: DfwatchError) -> None:
        """Log a failure once, not at each try."""
        if error.cause != self._told:
            _log.warning(event, sink=self.name, error=error)
        self._told = error.cause


def _made(settings: SinkSettings) -> Sink | None:
    """The sink, or None where its worker is to try again, and to tell: a missing secret must not stop verdicts."""
    try:
        return build(settings)
    except (ConfigError, MissingExtraError):
        raise
    except (Exception, SystemExit):  # noqa: BLE001 - somebody else's code; one sink must not end the service
        return None


def _unreadable(entry: Entry) -> SinkError:
    return SinkError(
        "reading the message of",
        entry.job,
        "its document in the journal is damaged or missing",
        hint="'dfwatch sinks replay --since' takes it from the sidecar",
        retryable=False,
    )


def _fingerprint(settings: SinkSettings) -> str:
    """Tells settings apart; they hold no secrets, and the outbox does not need them."""
    return hashlib.sha256(repr(settings).encode("utf-8")).hexdigest()[:12]
