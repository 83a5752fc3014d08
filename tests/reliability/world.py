"""A root, the real service in a forked process, faults that can be switched while it runs, and a reader that polls.

The service is forked from the test, with everything imported already, so that it starts in milliseconds and can be
killed with a real SIGKILL as often as wanted. What differs from production is named here and nowhere else: the reader
and the model are scripted (``tests.service.scripted``), pauses are short, and calls may be told to fail (``Faults``).
"""

from __future__ import annotations

import contextlib
import errno
import gc
import hashlib
import json
import mmap
import os
import shutil
import signal
import sqlite3
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfwatch import logs, service
from dfwatch.config import JobSettings, ReaderSettings, Settings, WatchSettings
from dfwatch.decode.confinement import tie_to_parent
from dfwatch.jobs import obstacles
from dfwatch.journal import Journal
from dfwatch.operation import health
from dfwatch.service import Service
from dfwatch.storage import crashpoints, durable, stamps
from dfwatch.storage.layout import Layout
from tests.service.scripted import ScriptedReader, ScriptedScorer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OPERATIONS = ("mkdir", "create", "open", "fsync", "rename", "unlink", "read", "journal")
DEADLINE_S = 20.0


class Faults:
    """Which operations of the service fail, and with what; shared with the running service."""

    _FORMAT = struct.Struct("iid")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 4096)
        self.set()

    def set(self, *operations: str, number: int = 0, clock_s: float = 0.0) -> None:
        mask = sum(1 << OPERATIONS.index(operation) for operation in operations)
        self._memory[: self._FORMAT.size] = self._FORMAT.pack(mask, number, clock_s)

    def state(self) -> tuple[int, int, float]:
        mask, number, clock_s = self._FORMAT.unpack(self._memory[: self._FORMAT.size])
        return mask, number, clock_s

    def number(self, operation: str) -> int:
        mask, number, _ = self.state()
        return number if mask >> OPERATIONS.index(operation) & 1 else 0

    def install(self, root: str) -> None:
        """In the service's process: let the calls fail that were told to."""

        def failing(operation: str, real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                which = operation
                if operation == "open" and len(args) > 1 and args[1] & os.O_CREAT:
                    which = "create"
                number = self.number(which)
                within = not isinstance(args[0], str | bytes) or os.fsdecode(args[0]).startswith(root)
                if number and within:
                    raise OSError(number, os.strerror(number), *(a for a in args[:1] if isinstance(a, str)))
                return real(*args, **kwargs)

            return call

        for name, operation in (
            ("mkdir", "mkdir"), ("open", "open"), ("fsync", "fsync"), ("unlink", "unlink"), ("rmdir", "unlink"),
            ("preadv", "read"),
        ):  # fmt: skip
            setattr(os, name, failing(operation, getattr(os, name)))
        rename = durable._libc_renameat2()
        assert rename is not None

        def renameat2(source: bytes, target: bytes) -> int:
            return self.number("rename") or rename(source, target)

        durable._libc_renameat2 = lambda: renameat2  # type: ignore[assignment]
        real_write = Journal._write

        @contextmanager
        def write(journal: Journal) -> Iterator[sqlite3.Connection]:
            with real_write(journal) as db:
                if number := self.number("journal"):
                    raise sqlite3.OperationalError(os.strerror(number))
                yield db

        Journal._write = write  # type: ignore[method-assign]

        faults = self

        class Jumping(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:
                return datetime.now(tz) + timedelta(seconds=faults.state()[2])

        stamps.datetime = Jumping  # type: ignore[attr-defined]


class World:
    """One root with at most one service on it."""

    def __init__(self, **changes: Any) -> None:
        fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="dfwatch-test-", dir=fast))
        self.root = self.folder / "root"
        self.layout = Layout(str(self.root))
        self.layout.create()
        self.inbox = self.root / "inbox"
        self.log = self.folder / "log.jsonl"
        self.complaints = self.folder / "complaints"
        self.faults = Faults()
        self.make_reader: Callable[[], ScriptedReader] = ScriptedReader
        self.pid = 0
        watch = {"quiet_s": 0.05, "empty_quiet_s": 0.05, "short_quiet_s": 0.05, "scan_interval_s": 0.05}
        self.settings = Settings(
            root=str(self.root),
            watch=WatchSettings(**{**watch, "extensions": [], "min_free_bytes": 0, **changes.pop("watch", {})}),
            jobs=JobSettings(
                **{"max_attempts": 100, "retry_delay_s": 0.01, "stop_timeout_s": 5.0, **changes.pop("jobs", {})}
            ),
            reader=ReaderSettings(processes=2),
            **changes,
        )
        self._poller = self._fork(self._poll)

    # -- processes -----------------------------------------------------------------------------------------------------

    def _fork(self, run: Callable[[], int]) -> int:
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            tie_to_parent()  # a test that is killed leaves no service behind
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            # A slow writer's descriptor, inherited, would look like the writer itself.
            os.closerange(3, 1024)
            sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115 - for the life of the process
            status = run()
        except BaseException:  # noqa: BLE001 - the forked process ends here, whatever happens
            traceback.print_exc()
        finally:
            os._exit(status)

    def start(self, crash_at: str = "") -> None:
        """Start the service; with ``crash_at`` it dies by SIGKILL at that step."""
        assert not self.pid
        self.pid = self._fork(lambda: self._serve(crash_at))

    def _serve(self, crash_at: str) -> int:
        gc.freeze()  # the test's own objects are not the service's
        os.environ.pop(crashpoints.VARIABLE, None)
        if crash_at:
            os.environ[crashpoints.VARIABLE] = crash_at
        service._STORAGE_RETRY_S = 0.05  # type: ignore[misc]
        service._LOOP_INTERVAL_S = 0.1  # type: ignore[misc]
        obstacles._FIRST_PAUSE_S = 0.05  # type: ignore[misc]
        obstacles._LONGEST_PAUSE_S = 0.2  # type: ignore[misc]
        self.faults.install(str(self.root))
        logs.configure("info", "json")
        return Service(
            self.settings,
            make_scorer=lambda _settings: ScriptedScorer(),
            make_reader=lambda _settings: self.make_reader(),
            reload_settings=lambda: self.settings,
        ).run()

    def _poll(self) -> int:
        """What another program does with results/: read every sidecar as soon as it has a name."""
        seen: dict[str, tuple[int, int]] = {}
        content: dict[str, bytes] = {}
        while True:
            began_s = time.monotonic()
            for path in self.sidecar_paths():
                try:
                    info = path.stat()
                    known = (info.st_ino, info.st_mtime_ns)
                    if seen.get(str(path)) == known:
                        continue
                    data = path.read_bytes()
                    json.loads(data)["job_id"]
                except FileNotFoundError:
                    continue
                except (ValueError, KeyError) as error:
                    self._complain(f"{path} was seen half-written: {error}")
                    continue
                if content.setdefault(str(path), data) != data:
                    self._complain(f"{path} was overwritten")
                seen[str(path)] = known
            # With thousands of sidecars a look takes long, and must not take all of a processor.
            time.sleep(max(0.002, time.monotonic() - began_s))

    def _complain(self, text: str) -> None:
        with self.complaints.open("a") as stream:
            stream.write(text + "\n")

    def ended(self) -> int | None:
        """Exit status of the service (negative: the signal); None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return None
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0

    def stop(self) -> int:
        os.kill(self.pid, signal.SIGTERM)
        return self.wait_for(self.ended_or_none, "the service ends")[0]

    def ended_or_none(self) -> tuple[int] | None:
        status = self.ended()
        return None if status is None else (status,)

    def close(self) -> None:
        self.kill()
        os.kill(self._poller, signal.SIGKILL)
        os.waitpid(self._poller, 0)
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- looking -------------------------------------------------------------------------------------------------------

    def wait_for(self, condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
        until_s = time.monotonic() + deadline_s
        while time.monotonic() < until_s:
            began_s = time.monotonic()
            if value := condition():
                return value
            time.sleep(max(0.01, time.monotonic() - began_s))
        raise AssertionError(f"not within {deadline_s} s: {what}\n{self.describe()}")

    def describe(self) -> str:
        lines = [str(path.relative_to(self.root)) for path in below(self.root)]
        return "\n".join(lines) + "\n" + self.log.read_text()[-4000:]

    def sidecar_paths(self) -> list[Path]:
        return [path for path in below(self.root / "results") if path.suffix == ".json" and path.name[0] != "."]

    def sidecars(self) -> dict[str, dict[str, Any]]:
        return {str(path): json.loads(path.read_bytes()) for path in self.sidecar_paths()}

    def contents(self, *folders: str) -> Counter[str]:
        """What lies in these folders, by content."""
        return Counter(path.read_text() for folder in folders for path in below(self.root / folder))

    def put_away(self) -> Counter[str]:
        return self.contents("done", "failed", "quarantine")

    def waiting(self) -> list[str]:
        return [*os.listdir(self.root / "work"), *map(str, below(self.inbox))]

    def health(self) -> dict[str, Any]:
        return health.read(self.layout.health) or {}

    def settle(self) -> None:
        """Wait until nothing is in the inbox or in work."""

        def settled() -> bool:
            status = self.ended() if self.pid else 0
            assert status is None, f"the service ended by itself with status {status}\n{self.describe()}"
            return not self.waiting() and self.health().get("pid") == self.pid

        self.wait_for(settled, "nothing is in the inbox or in work")

    def rows(self) -> Counter[str]:
        with contextlib.closing(Journal(self.layout.journal, read_only=True)) as journal:
            return Counter(journal.counts())


def below(folder: Path) -> list[Path]:
    """Everything below a folder that is not a folder; whatever vanishes meanwhile is left out."""
    return [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


ERRNOS = {name: getattr(errno, name) for name in ("ENOSPC", "EIO", "EROFS", "EACCES", "EMFILE")}
