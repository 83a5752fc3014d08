"""A root, the real service on it in a process of its own, faults that can be switched on, and a reader that polls.

The processes are started by ``tests.reliability.launcher`` in milliseconds, and can be killed with a real SIGKILL as
often as wanted. What they run, and how it differs from production: ``tests.reliability.served``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfwatch.config import JobSettings, ReaderSettings, Settings, WatchSettings
from dfwatch.errors import StorageError
from dfwatch.journal import Journal, State
from dfwatch.operation import health
from dfwatch.storage.layout import Layout
from tests.reliability import launcher
from tests.reliability.faults import Faults
from tests.reliability.served import Poller, Served, below, sidecar_paths
from tests.service.scripted import ScriptedReader, ScriptedScorer

if TYPE_CHECKING:
    from collections.abc import Callable

    from dfwatch.judge import Scorer
    from dfwatch.pipeline import Reader

# Far above what anything takes on a machine that is busy with other things.
DEADLINE_S = 40.0
# Where files lie that were put away, and sidecars too if they are written beside them.
_PUT_AWAY = ("done", "failed", "quarantine")


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
        self._faults_file = self.folder / "faults"
        self.faults = Faults(self._faults_file)
        self.make_reader: Callable[[], Reader] = ScriptedReader
        self.make_scorer: Callable[[], Scorer] = ScriptedScorer
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
        self._launcher = launcher.shared()
        folders = tuple(self.root / name for name in ("results", *_PUT_AWAY))
        self._poller = self._launcher.start(Poller(folders, self.complaints), self.log)

    # -- processes -----------------------------------------------------------------------------------------------------

    def start(self, crash_at: str = "", *, busy_threads: int = 0) -> None:
        """Start the service; with ``crash_at`` it dies by SIGKILL at that step."""
        assert not self.pid
        served = Served(self.settings, self._faults_file, self.make_reader, self.make_scorer, crash_at, busy_threads)
        self.pid = self._launcher.start(served, self.log)

    def ended(self) -> int | None:
        """Exit status of the service (negative: the signal); None while it runs."""
        status = self._launcher.ended(self.pid)
        if status is not None:
            self.pid = 0
        return status

    def kill(self) -> None:
        if self.pid:
            self._launcher.kill(self.pid)
            self.pid = 0

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        os.kill(self.pid, signal.SIGTERM)
        try:
            return self.wait_for(self.ended_or_none, "the service ends")[0]
        except AssertionError as failure:
            # Where are its threads?
            os.kill(self.pid, signal.SIGABRT)
            with contextlib.suppress(AssertionError):
                self.wait_for(self.ended_or_none, "", 5.0)
            raise AssertionError(f"{failure}\n{self.log.read_text()[-12000:]}") from None

    def ended_or_none(self) -> tuple[int] | None:
        status = self.ended()
        return None if status is None else (status,)

    def close(self) -> None:
        self.kill()
        self._launcher.kill(self._poller)
        self.faults.close()
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
        lines += [f"work/{name}/" for name in os.listdir(self.root / "work")]
        return "\n".join(lines) + "\n" + self.log.read_text()[-4000:]

    def sidecar_paths(self) -> list[Path]:
        return sidecar_paths(*(self.root / name for name in ("results", *_PUT_AWAY)))

    def sidecars(self) -> dict[str, dict[str, Any]]:
        return {str(path): json.loads(path.read_bytes()) for path in self.sidecar_paths()}

    def contents(self, *folders: str) -> Counter[str]:
        """What lies in these folders, by content; sidecars aside."""
        paths = [path for folder in folders for path in below(self.root / folder)]
        return Counter(path.read_text() for path in paths if path.suffix != ".json")

    def put_away(self) -> Counter[str]:
        return self.contents(*_PUT_AWAY)

    def waiting(self) -> list[str]:
        """What is in work, or in the inbox and neither judged nor meant to stay there."""
        kept = self.kept()
        inbox = []
        for path in below(self.inbox):
            with contextlib.suppress(FileNotFoundError):
                info = path.lstat()
                if kept.get(str(path.relative_to(self.inbox))) != (info.st_ino, info.st_size, info.st_mtime_ns):
                    inbox.append(str(path))
        return [*os.listdir(self.root / "work"), *inbox]

    def kept(self) -> dict[str, tuple[int, int, int]]:
        """Files that were judged and are kept in the inbox: inode, size and time of change by path."""
        if "keep" not in {
            getattr(self.settings.outcome, label) for label in ("fake", "real", "inconclusive", "no_face")
        }:
            return {}
        with (
            contextlib.suppress(StorageError),  # it is being made
            contextlib.closing(Journal(self.layout.journal, read_only=True)) as journal,
        ):
            return journal.kept()
        return {}

    def health(self) -> dict[str, Any]:
        return health.read(self.layout.health) or {}

    def settle(self) -> None:
        """Wait until nothing is in the inbox or in work."""

        def settled() -> bool:
            status = self.ended() if self.pid else 0
            assert status is None, f"the service ended by itself with status {status}\n{self.describe()}"
            return not self.waiting() and self.health().get("pid") == self.pid

        self.wait_for(settled, "nothing is in the inbox or in work")

    def reading(self) -> int:
        """How many files are being read."""
        with contextlib.closing(Journal(self.layout.journal, read_only=True)) as journal:
            return sum(row.state is State.READING for row in journal.unfinished())

    def rows(self) -> Counter[str]:
        with contextlib.closing(Journal(self.layout.journal, read_only=True)) as journal:
            return Counter(journal.counts())


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
