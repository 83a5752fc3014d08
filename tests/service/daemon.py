"""Starting, watching, signalling and killing a real daemon process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import jsonschema
import yaml

from dfwatch.document import schema
from dfwatch.journal import JobRow, Journal

REPOSITORY = Path(__file__).parents[2]
DEADLINE_S = 60.0

QUICK: dict[str, Any] = {
    "watch": {
        "quiet_s": 0.15,
        "empty_quiet_s": 0.3,
        "short_quiet_s": 0.5,
        "scan_interval_s": 0.1,
        "extensions": ["mp4"],
    },
    "jobs": {"retry_delay_s": 0.05, "stop_timeout_s": 10.0},
    "log": {"format": "json", "level": "info"},
}


def wait_for(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """The first true value of ``condition``; fails the test when there is none in time."""
    until_s = time.monotonic() + deadline_s
    while time.monotonic() < until_s:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {deadline_s} s: {what}")


class Daemon:
    """One root, and the daemon that runs on it from time to time."""

    module = "tests.service.scripted"

    def __init__(self, folder: Path, changes: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.inbox = self.root / "inbox"
        self.inbox.mkdir(parents=True, exist_ok=True)
        self.config = folder / "config.yaml"
        self.log = folder / "log.jsonl"
        self.process: subprocess.Popen[bytes] | None = None
        self.configure(changes or {})

    def configure(self, changes: dict[str, Any]) -> None:
        merged: dict[str, Any] = {"root": str(self.root)}
        for section in QUICK.keys() | changes.keys():
            merged[section] = {**QUICK.get(section, {}), **changes.get(section, {})}
        self.config.write_text(yaml.safe_dump(merged))

    def start(self, *, crash_at: str = "", ready: bool = True) -> Self:
        environment = {**os.environ, "DFWATCH_CRASH_AT": crash_at} if crash_at else dict(os.environ)
        with self.log.open("ab") as log:
            already = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module, str(self.config)],
                cwd=REPOSITORY,
                env=environment,
                stdout=log,
                stderr=log,
            )
        if ready:
            wait_for(lambda: "ready" in self.events(already), "the daemon is ready")
        return self

    def events(self, since: int = 0) -> list[str]:
        return [line["event"] for line in self.lines(since)]

    def lines(self, since: int = 0) -> list[dict[str, Any]]:
        lines = []
        for line in self.log.read_bytes()[since:].splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                lines.append({"event": line.decode("utf-8", "replace")})
        return lines

    def health(self) -> dict[str, Any]:
        """What the daemon last said of itself; nothing before it first did."""
        try:
            health: dict[str, Any] = json.loads((self.root / "state" / "health.json").read_text())
        except FileNotFoundError:
            return {}
        return health

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def wait_until_dead(self) -> int:
        assert self.process is not None
        status = self.process.wait(timeout=DEADLINE_S)
        self.process = None
        return status

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.wait_until_dead()

    def drop(self, name: str | bytes, text: str) -> None:
        """As careful senders do it: written elsewhere, renamed in."""
        whole = self.folder / "being-sent"
        whole.write_text(text)
        os.rename(os.fsencode(whole), os.path.join(os.fsencode(self.inbox), os.fsencode(name)))

    def sidecars(self) -> dict[str, dict[str, Any]]:
        """Every sidecar by its path below the root, each checked against the schema."""
        validator = jsonschema.Draft202012Validator(schema())
        found = {}
        for folder in ("results", "done", "failed", "quarantine"):
            for path in (self.root / folder).rglob("*.json"):
                document = json.loads(path.read_bytes())
                validator.validate(document)
                found[str(path.relative_to(self.root))] = document
        return found

    def sidecar(self, name: str) -> dict[str, Any]:
        path = self.root / "results" / f"{name}.json"
        wait_for(path.exists, f"{path} exists; the log says:\n{self.log.read_text()[-3000:]}")
        document: dict[str, Any] = json.loads(path.read_bytes())
        jsonschema.Draft202012Validator(schema()).validate(document)
        return document

    def files(self) -> dict[str, str]:
        """Every dropped file under the root by path, sidecars and the daemon's own files aside."""
        found = {}
        for folder in ("inbox", "work", "done", "failed", "quarantine"):
            for path in (self.root / folder).rglob("*"):
                if path.is_file() and path.suffix != ".json":
                    found[str(path.relative_to(self.root))] = path.read_text()
        return found

    def settle(self, count: int) -> dict[str, dict[str, Any]]:
        """Wait until ``count`` sidecars are there and nothing is in work or in the inbox."""

        def settled() -> bool:
            work = list((self.root / "work").iterdir()) if (self.root / "work").exists() else []
            waiting = [path for path in self.inbox.rglob("*") if path.is_file()]
            return len(self.sidecars()) >= count and not work and not waiting

        try:
            wait_for(settled, f"{count} sidecars, nothing in work")
        except AssertionError as failure:
            raise AssertionError(
                f"{failure}\nsidecars: {sorted(self.sidecars())}\nfiles: {self.files()}\n{self.log.read_text()[-3000:]}"
            ) from None
        return self.sidecars()

    def jobs(self) -> list[JobRow]:
        """Unfinished jobs, as the journal knows them."""
        with contextlib.closing(Journal(str(self.root / "state" / "journal.sqlite3"), read_only=True)) as journal:
            return journal.unfinished()

    def reading(self) -> list[JobRow]:
        return [job for job in self.jobs() if job.state == "reading"]
