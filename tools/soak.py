"""Mixed senders, hostile files and kill -9 against a running service, and a ledger: ``python -m tools.soak``.

    python -m tools.soak                    ten minutes
    python -m tools.soak --minutes 600      a night
    python -m tools.soak --full             with the shipped model instead of a scripted one
    python -m tools.soak --seed 11          the same files, ways, pauses and moments of death as the last run with 11

The service and its reader process are the real ones. For the first two thirds of the time the service is killed at
random moments and started again; then it runs undisturbed while memory and descriptors are watched; then it idles while
its processor time is measured. Ends with status 1 if anything was lost, judged twice, read half, or judged that should
have been refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import yaml

from tests.clips import make_clip

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).parents[1]
QUIET_S = 0.5
IDLE_S = 15.0
SETTLE_LIMIT_S = 180.0


@dataclass
class Ledger:
    """What was dropped: SHA-256 of each whole file, and what is expected of it. Names of what has no bytes."""

    good: set[str] = field(default_factory=set)
    bad: set[str] = field(default_factory=set)
    special: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, data: bytes, *, good: bool) -> None:
        with self.lock:
            (self.good if good else self.bad).add(hashlib.sha256(data).hexdigest())

    @property
    def dropped(self) -> int:
        return len(self.good) + len(self.bad) + len(self.special)


class Senders:
    """Everybody who drops files, from two threads; each way of sending is one method.

    What is sent, how, and after which pause comes from the seed alone; only which thread sends it does not.
    """

    def __init__(self, folder: Path, inbox: Path, ledger: Ledger, seed: int) -> None:
        self._inbox = inbox
        self._outside = folder / "senders"
        self._outside.mkdir()
        self._ledger = ledger
        self._seed = seed
        self._number = 0
        self._lock = threading.Lock()
        self._clips = [
            make_clip(folder / "a.mp4", seconds=1.0, size=(160, 128)).read_bytes(),
            make_clip(folder / "b.mp4", seconds=2.0, size=(320, 240)).read_bytes(),
            make_clip(folder / "c.mp4", codec="libx265", seconds=1.0, size=(160, 128), faces=()).read_bytes(),
        ]
        good: list[Callable[[str, random.Random], None]] = [
            self.moved_in,
            self.copied,
            self.copied_slowly,
            self.preallocated,
            self.linked,
            self.folder_moved_in,
        ]
        if shutil.which("rsync"):
            good += [self.rsynced, self.rsynced_in_place]
        bad: list[Callable[[str, random.Random], None]] = [
            self.noise,
            self.playlist,
            self.half,
            self.segfault,
            self.eat,
            self.fifo,
            self.symlink,
        ]
        self._ways: list[Callable[[str, random.Random], None]] = good * 3 + bad

    def send(self) -> float:
        """Send the next file, or folder of files; returns the share of a mean pause to make after it."""
        with self._lock:
            self._number += 1
            name = f"{self._number:06d}.mp4"
        draw = random.Random(f"{self._seed}/{name}")
        draw.choice(self._ways)(name, draw)
        return draw.uniform(0.2, 1.8)

    def _video(self, draw: random.Random) -> bytes:
        """A whole video that no other file is equal to."""
        mark = draw.randbytes(16)
        data = draw.choice(self._clips) + struct.pack(">I", 8 + len(mark)) + b"free" + mark
        self._ledger.enter(data, good=True)
        return data

    def _write(self, name: str, data: bytes) -> Path:
        path = self._outside / name
        path.write_bytes(data)
        return path

    def moved_in(self, name: str, draw: random.Random) -> None:
        self._write(name, self._video(draw)).rename(self._inbox / name)

    def copied(self, name: str, draw: random.Random) -> None:
        (self._inbox / name).write_bytes(self._video(draw))

    def copied_slowly(self, name: str, draw: random.Random) -> None:
        data = self._video(draw)
        with (self._inbox / name).open("wb", buffering=0) as file:
            for start in range(0, len(data), len(data) // 4 + 1):
                file.write(data[start : start + len(data) // 4 + 1])
                time.sleep(QUIET_S * 0.8)

    def preallocated(self, name: str, draw: random.Random) -> None:
        data = self._video(draw)
        with (self._inbox / name).open("wb", buffering=0) as file:
            os.posix_fallocate(file.fileno(), 0, len(data))
            time.sleep(QUIET_S * 1.5)
            file.write(data)

    def linked(self, name: str, draw: random.Random) -> None:
        path = self._write(name, self._video(draw))
        os.link(path, self._inbox / name)
        path.unlink()

    def folder_moved_in(self, name: str, draw: random.Random) -> None:
        folder = self._outside / f"reel {name}"
        folder.mkdir()
        for number in range(3):
            (folder / f"{number}.mp4").write_bytes(self._video(draw))
        folder.rename(self._inbox / folder.name)

    def rsynced(self, name: str, draw: random.Random) -> None:
        path = self._write(name, self._video(draw))
        subprocess.run(["rsync", "-t", "--bwlimit=200", path, self._inbox / name], check=True)
        path.unlink()

    def rsynced_in_place(self, name: str, draw: random.Random) -> None:
        path = self._write(name, self._video(draw))
        subprocess.run(["rsync", "--inplace", "--bwlimit=200", path, self._inbox / name], check=True)
        path.unlink()

    def _bad(self, name: str, data: bytes) -> None:
        data += name.encode()
        self._ledger.enter(data, good=False)
        self._write(name, data).rename(self._inbox / name)

    def noise(self, name: str, draw: random.Random) -> None:
        self._bad(name, draw.randbytes(50_000))

    def playlist(self, name: str, _draw: random.Random) -> None:
        self._bad(name, b"ffconcat version 1.0\nfile /etc/hostname\n#")

    def half(self, name: str, _draw: random.Random) -> None:
        self._bad(name, self._clips[1][: len(self._clips[1]) // 2])

    def segfault(self, name: str, _draw: random.Random) -> None:
        self._bad(name, b"FAULT segfault\n")

    def eat(self, name: str, _draw: random.Random) -> None:
        self._bad(name, b"FAULT eat\n")

    def fifo(self, name: str, _draw: random.Random) -> None:
        self._ledger.special.add(name)
        os.mkfifo(self._inbox / name)

    def symlink(self, name: str, _draw: random.Random) -> None:
        self._ledger.special.add(name)
        (self._inbox / name).symlink_to("/etc/hostname")


class Daemon:
    """The service, started and killed."""

    def __init__(self, folder: Path, *, full: bool) -> None:
        self._log = (folder / "log.jsonl").open("ab")
        self._config = folder / "config.yaml"
        self._root = folder / "root"
        watch = {"quiet_s": QUIET_S, "short_quiet_s": 2.0, "empty_quiet_s": 5.0, "scan_interval_s": 1.0}
        self._config.write_text(
            yaml.safe_dump(
                {
                    "root": str(self._root),
                    "watch": watch,
                    "reader": {
                        "processes": 1,
                        "time_limit_s": 20.0,
                        "memory_limit_bytes": 1 << 30,
                        "jobs_per_process": 200,
                    },
                    "jobs": {"retry_delay_s": 0.1},
                    "log": {"format": "json"},
                }
            )
        )
        command = ["-m", "dfwatch", "run", "--config"] if full else ["-m", "tests.reliability.real_daemon"]
        self._command = [sys.executable, *command, str(self._config)]
        self.starts = 0
        self.process: psutil.Popen | None = None

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        self.process = psutil.Popen(self._command, cwd=REPOSITORY, env=environment, stdout=self._log, stderr=self._log)
        self.starts += 1

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        if self.process is not None and self.alive():
            self.process.kill()
            self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return int(self.process.wait(timeout=60))

    def sample(self) -> tuple[int, int]:
        """Resident bytes and descriptors of the service itself."""
        assert self.process is not None
        return self.process.memory_info().rss, self.process.num_fds()

    def cpu_s(self) -> float:
        """Processor time so far, of the service and its reader processes."""
        assert self.process is not None
        everyone = [self.process, *self.process.children(recursive=True)]
        return sum(sum(process.cpu_times()[:2]) for process in everyone)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long files are dropped (default: 10)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1.5, help="files a second (default: 1.5)")
    parser.add_argument("--kill-every", type=float, default=20.0, help="mean seconds between two kill -9 (default: 20)")
    parser.add_argument("--full", action="store_true", help="with the shipped model")
    parser.add_argument("--folder", type=Path, help="work here, and leave everything behind")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="dfwatch-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return soak(folder, arguments)
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


def soak(folder: Path, arguments: argparse.Namespace) -> int:
    root = folder / "root"
    inbox = root / "inbox"
    inbox.mkdir(parents=True)
    ledger = Ledger()
    senders = Senders(folder, inbox, ledger, arguments.seed)
    daemon = Daemon(folder, full=arguments.full)
    draw = random.Random(arguments.seed)
    duration_s = arguments.minutes * 60
    began_s = time.monotonic()
    stop = threading.Event()
    failures: list[str] = []

    def keep_sending() -> None:
        try:
            while not stop.is_set():
                stop.wait(2.0 / arguments.rate * senders.send())
        except BaseException as error:
            failures.append(f"a sender failed: {error!r}")
            raise

    threads = [threading.Thread(target=keep_sending) for _ in range(2)]
    for thread in threads:
        thread.start()
    samples: list[tuple[float, int, int]] = []
    try:
        daemon.start()
        kill_at_s = draw.expovariate(1 / arguments.kill_every)
        while (now_s := time.monotonic() - began_s) < duration_s:
            time.sleep(0.25)
            if not daemon.alive():
                failures.append(f"the service ended by itself after {now_s:.0f} s")
                daemon.start()
            if now_s < duration_s * 2 / 3:
                if now_s > kill_at_s:
                    daemon.kill()
                    daemon.start()
                    kill_at_s = now_s + max(3.0, draw.expovariate(1 / arguments.kill_every))
            else:
                samples.append((now_s, *daemon.sample()))
        stop.set()
        for thread in threads:
            thread.join()
        took_s = settle(root)
        daemon_cpu_s = daemon.cpu_s()
        time.sleep(IDLE_S)
        idle_share = (daemon.cpu_s() - daemon_cpu_s) / IDLE_S
        stopping_s = time.monotonic()
        status = daemon.stop()
        print(f"{'seconds from SIGTERM to the end':45} {time.monotonic() - stopping_s:.1f}")
    finally:
        stop.set()
        daemon.kill()
    if status:
        failures.append(f"SIGTERM ended the service with status {status}")
    return tell(root, ledger, daemon.starts, samples, idle_share, took_s, failures)


def settle(root: Path) -> float:
    """Wait until nothing is in the inbox or in work; returns how long that took."""
    began_s = time.monotonic()
    while time.monotonic() - began_s < SETTLE_LIMIT_S:
        waiting = [path for path in (root / "inbox").rglob("*") if path.is_symlink() or not path.is_dir()]
        if not waiting and not any((root / "work").glob("*")):
            break
        time.sleep(0.2)
    return time.monotonic() - began_s


@dataclass
class Account:
    """What became of everything that was dropped.

    Attributes:
        judged: Sidecars with a verdict.
        refused: Sidecars without one.
        lost: Dropped, and in no sidecar.
        twice: In more than one sidecar.
        half: In a sidecar, and never dropped so: part of a file, or something else.
        wrongly: Judged, and not to be judged.
        blamed: Good videos without a verdict, and what was said of them.
        misplaced: Dropped files that lie nowhere, twice, or still in the inbox or in work.
        reasons: Why files were refused, and how many.
    """

    judged: int = 0
    refused: int = 0
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    half: list[str] = field(default_factory=list)
    wrongly: list[str] = field(default_factory=list)
    blamed: list[str] = field(default_factory=list)
    misplaced: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def clean(self) -> bool:
        return not (self.lost or self.twice or self.half or self.wrongly or self.blamed or self.misplaced)


def audit(root: Path, ledger: Ledger) -> Account:
    """Compare the ledger with the folders of a service that has nothing left to do."""
    documents: list[dict[str, Any]] = [json.loads(path.read_bytes()) for path in (root / "results").rglob("*.json")]
    told = Counter(document["subject"]["sha256"] for document in documents if document["subject"]["sha256"])
    named = Counter(d["subject"]["name"] for d in documents if d["subject"]["sha256"] is None)
    known = ledger.good | ledger.bad
    placed: Counter[str] = Counter()
    account = Account()
    for folder in ("inbox", "work", "done", "failed", "quarantine"):
        for path in (root / folder).rglob("*"):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                # What has no bytes is known by its name.
                placed[path.name] += folder not in {"inbox", "work"}
            elif path.is_file() and path.name != "job.json":
                placed[hashlib.sha256(path.read_bytes()).hexdigest()] += folder not in {"inbox", "work"}
    account.misplaced = [key for key in known | ledger.special if placed[key] != 1]
    account.lost = [key for key in known if not told[key]] + [name for name in ledger.special if not named[name]]
    account.twice = [key for counter in (told, named) for key, count in counter.items() if count > 1]
    account.half = [key for key in told if key not in known] + [name for name in named if name not in ledger.special]
    for document in documents:
        sha256, judged = document["subject"]["sha256"], document["status"] == "done"
        account.judged += judged
        account.refused += not judged
        if document["reason"]:
            account.reasons[document["reason"]] += 1
        if judged and sha256 not in ledger.good:
            account.wrongly.append(document["subject"]["name"])
        elif not judged and sha256 in ledger.good:
            account.blamed.append(f"{document['status']}: {document['reason']}: {document['reason_detail']}")
    return account


def tell(  # noqa: PLR0917 - the whole of a run
    root: Path,
    ledger: Ledger,
    starts: int,
    samples: list[tuple[float, int, int]],
    idle_share: float,
    took_s: float,
    failures: list[str],
) -> int:
    account = audit(root, ledger)
    lines: dict[str, Any] = {
        "dropped": ledger.dropped,
        "judged": account.judged,
        "refused": account.refused,
        "lost": len(account.lost),
        "judged twice": len(account.twice),
        "half-read": len(account.half),
        "judged that should be refused": len(account.wrongly),
        "good videos without a verdict": len(account.blamed),
        "files not in exactly one place": len(account.misplaced),
        "reasons": dict(account.reasons),
        "kill -9": starts - 1,
        "seconds to finish at the end": round(took_s, 1),
        "idle processor time, share of one core": f"{idle_share:.2%}",
    }
    if samples:
        quarter = max(1, len(samples) // 4)
        for what, column in (("resident MiB", 1), ("descriptors", 2)):
            unit = 1 << 20 if column == 1 else 1
            early = sorted(sample[column] for sample in samples[quarter : 2 * quarter] or samples)
            late = sorted(sample[column] for sample in samples[-quarter:])
            top = max(sample[column] for sample in samples)
            lines[f"{what}: median early, median late, most"] = (
                f"{early[len(early) // 2] / unit:.0f}, {late[len(late) // 2] / unit:.0f}, {top / unit:.0f}"
            )
    for name, value in lines.items():
        print(f"{name:45} {value}")
    for words in account.blamed:
        print(f"good, but {words}")
    for failure in failures:
        print(f"FAILURE: {failure}")
    return 0 if account.clean and not failures else 1


if __name__ == "__main__":
    sys.exit(main())
