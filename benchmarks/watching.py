"""Measures the watcher: cost of a scan, processor time while idle, latency beyond the quiet window.

python benchmarks/watching.py [--files 20000] [--arrivals 40] [--idle-s 20]
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import statistics
import tempfile
import threading
import time

import structlog

from dfwatch.config import WatchSettings
from dfwatch.watcher import Watcher


def scan_cost(folder: str, files: int) -> None:
    for number in range(files):
        with open(f"{folder}/clip {number:06d}.mp4", "wb") as file:
            file.write(b"x" * 100)
    watcher = Watcher(folder, WatchSettings(quiet_s=1.0), threading.Event())
    watcher.start()
    wall_ms, processor_ms = [], []
    for _ in range(10):
        began_s = time.thread_time()
        result = watcher.scan(limit=64)
        processor_ms.append((time.thread_time() - began_s) * 1e3)
        wall_ms.append(result.scan_ms)
        time.sleep(0.3)
    watcher.stop()
    print(f"scan of {files} files: median {statistics.median(wall_ms):.0f} ms, "
          f"of that {statistics.median(processor_ms):.0f} ms of processor time")  # fmt: skip


def idle_cost(folder: str, seconds: float) -> None:
    wake = threading.Event()
    watcher = Watcher(folder, WatchSettings(), wake)
    watcher.start()
    watcher.scan()
    began_s, used_s = time.monotonic(), time.process_time()
    while time.monotonic() - began_s < seconds:
        wake.wait(watcher.wait_s())
        wake.clear()
        if watcher.wait_s() <= 0:
            watcher.scan()
    share = (time.process_time() - used_s) / (time.monotonic() - began_s)
    watcher.stop()
    print(f"idle: {100 * share:.3f} % of one core")


def latency(folder: str, claimed: str, arrivals: int, **settings: str) -> None:
    quiet_s = 0.5
    wake = threading.Event()
    watcher = Watcher(folder, WatchSettings(quiet_s=quiet_s, **settings), wake)  # type: ignore[arg-type]
    watcher.start()
    watcher.scan()
    closed_s: dict[str, float] = {}

    def send() -> None:
        for number in range(arrivals):
            time.sleep(random.uniform(0.05, 1.2))
            with open(f"{folder}/{number}.mp4", "wb") as file:
                file.writelines(os.urandom(50_000) for _ in range(4))
            closed_s[f"{number}.mp4"] = time.monotonic()

    sender = threading.Thread(target=send)
    sender.start()
    late_ms: list[float] = []
    while len(late_ms) < arrivals:
        wake.wait(watcher.wait_s())
        wake.clear()
        if watcher.wait_s() <= 0:
            for candidate in watcher.scan().ready:
                late_ms.append((time.monotonic() - closed_s[candidate.name] - quiet_s) * 1e3)
                os.rename(f"{folder}/{candidate.name}", claimed)
                watcher.forget(candidate.name)
    sender.join()
    watcher.stop()
    late_ms.sort()
    print(f"from closed to ready beyond the quiet window {settings or ''}: median {statistics.median(late_ms):.0f} ms, "
          f"95 % {late_ms[int(0.95 * arrivals) - 1]:.0f} ms, most {late_ms[-1]:.0f} ms ({arrivals} files)")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--arrivals", type=int, default=40)
    parser.add_argument("--idle-s", type=float, default=20.0)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory() as folder:
        for name in ("many", "idle", "arrivals", "scanned"):
            os.mkdir(f"{folder}/{name}")
        scan_cost(f"{folder}/many", arguments.files)
        idle_cost(f"{folder}/idle", arguments.idle_s)
        latency(f"{folder}/arrivals", f"{folder}/claimed", arguments.arrivals)
        latency(f"{folder}/scanned", f"{folder}/claimed", arguments.arrivals, events="off")


if __name__ == "__main__":
    main()
