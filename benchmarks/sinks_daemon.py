"""What a dead sink costs a whole daemon: two side by side, one with three sinks that work, one with a dead third.

    python benchmarks/sinks_daemon.py [--verdicts 1000] [--rounds 3]

Both run at the same time on roots of their own, so whatever else the machine does hurts both. Service, journal, outbox,
dispatcher and sinks are the real ones; only the reader and the model are a script (``tests/service/scripted.py``), so
that nothing but the plumbing is measured. Rates count from the claim of the first file to the last outcome that a sink
took, as the journal tells them.
"""

from __future__ import annotations

import argparse
import base64
import os
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

from tests.sinks.receiver import Receiver  # noqa: E402 - not installed, found below the line above

DEADLINE_S = 600.0
WATCHED = ("jsonl", "sqlite")
THIRD = "third"
DEAD = {"refuses": "connection refused", "silent": "accepts, never answers"}
# Outcomes per second: published, and taken by each of the sinks that work.
Rates = dict[str, float]


class Side:
    """One daemon, its root and its sinks."""

    def __init__(self, folder: Path, port: int, verdicts: int) -> None:
        self.folder = folder
        self.verdicts = verdicts
        inbox = folder / "root" / "inbox"
        inbox.mkdir(parents=True)
        for number in range(verdicts):
            (inbox / f"{number:06d}.mp4").write_text(f"fake {number}")
        secret = folder / "secret"
        secret.write_text("whsec_" + base64.b64encode(os.urandom(32)).decode())
        third = {"type": "webhook", "name": THIRD, "url": f"http://127.0.0.1:{port}/", "allow_http": True}
        sinks: list[dict[str, Any]] = [
            {"type": "jsonl", "path": str(folder / "verdicts.jsonl")},
            {"type": "sqlite", "path": str(folder / "verdicts.sqlite3")},
            {**third, "secret": f"file:{secret}", "timeout_s": 5.0},
        ]
        watch = {"quiet_s": 0.2, "short_quiet_s": 0.2, "extensions": ["mp4"]}
        settings = {"root": str(folder / "root"), "watch": watch, "sinks": sinks, "log": {"format": "json"}}
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        self.journal = folder / "root" / "state" / "journal.sqlite3"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.service.scripted", str(self.folder / "config.yaml")],
                cwd=REPOSITORY,
                stdout=log,
                stderr=log,
            )

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30.0)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def query(self, text: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True, timeout=30.0)) as db:
            return db.execute(text).fetchall()

    def finished(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise SystemExit(f"the daemon ended:\n{(self.folder / 'log').read_text()[-2000:]}")
        if '"ready"' not in (self.folder / "log").read_text():
            return False
        taken = dict(self.query("SELECT name, delivered FROM sinks"))
        return all(taken.get(name) == self.verdicts for name in WATCHED)

    def rates(self) -> Rates:
        ((first, last, count),) = self.query("SELECT min(received_at), max(updated_at), count(*) FROM jobs")
        assert count == self.verdicts
        ends = dict(self.query("SELECT name, delivered_at FROM sinks"))

        def rate(end: str) -> float:
            return self.verdicts / (datetime.fromisoformat(end) - datetime.fromisoformat(first)).total_seconds()

        return {"published": rate(last)} | {name: rate(ends[name]) for name in WATCHED}

    def third_took(self) -> int:
        return int(dict(self.query("SELECT name, delivered FROM sinks")).get(THIRD, 0))


def compare(dead: str, verdicts: int, where: str) -> tuple[Rates, Rates]:
    """One round: the rates beside a third sink that works, and beside one that is dead."""
    with tempfile.TemporaryDirectory(dir=where) as top, ExitStack() as stack:
        receiver = Receiver(Path(top) / "kept")
        receiver.start()
        stack.callback(receiver.stop)
        # Bound, so that nobody else gets the port; refuses because it does not listen.
        corpse = stack.enter_context(socket.socket())
        corpse.bind(("127.0.0.1", 0))
        if dead == "silent":
            corpse.listen(16)
        sides = []
        for name, port in (("works", receiver.port), ("dead", corpse.getsockname()[1])):
            (Path(top) / name).mkdir()
            sides.append(Side(Path(top) / name, port, verdicts))
        for side in sides:
            stack.callback(side.stop)
            side.start()
        until_s = time.monotonic() + DEADLINE_S
        while not all(side.finished() for side in sides):
            if time.monotonic() > until_s:
                raise SystemExit(f"not finished within {DEADLINE_S:.0f} s")
            time.sleep(0.25)
        works, corpse_side = sides
        assert corpse_side.third_took() == 0, "the dead one took something"
        return works.rates(), corpse_side.rates()


def main() -> None:
    """Print each round and the medians of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verdicts", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", default=os.getcwd(), help="where roots and sinks lie; verdicts are synced there")
    arguments = parser.parse_args()
    for dead, meaning in DEAD.items():
        rounds = []
        for number in range(1, arguments.rounds + 1):
            rounds.append(compare(dead, arguments.verdicts, arguments.folder))
            works, beside = rounds[-1]
            told = ", ".join(f"{name} {rate:.0f}/s and {beside[name]:.0f}/s" for name, rate in works.items())
            print(f"{meaning}, round {number} (load {os.getloadavg()[0]:.1f}): {told}", flush=True)
        for name in rounds[0][0]:
            first, second = (statistics.median(pair[side][name] for pair in rounds) for side in (0, 1))
            ratios = [beside[name] / works[name] for works, beside in rounds]
            print(
                f"median, {meaning}: {name} {first:.0f}/s beside a third that works, {second:.0f}/s beside a dead one, "
                f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
