"""A real daemon on a root of its own: started, fed, timed, stopped. No other process of the machine is touched."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil
import yaml

from benchmarks.child import REPOSITORY, environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

START_LIMIT_S = 120.0
STOP_LIMIT_S = 60.0
QUIET_S = 0.3
_POLL_S = 0.001


class Daemon:
    """One root with a daemon on it. Use it as a context manager: the process ends with the block.

    Args:
        folder: Made where missing; the root and the log go there.
        changes: Settings by section, over the benchmark's own (a short quiet window, and a log in JSON).
        module: What is run with ``python -m``, with its arguments before the configuration's path.

    Attributes:
        ready_s: From the start of the process to READY=1, in seconds.
        quiet_s: The quiet window.
    """

    def __init__(
        self, folder: Path, changes: Mapping[str, Mapping[str, Any]] | None = None, *, module: tuple[str, ...] = ()
    ) -> None:
        self.root = folder / "root"
        self.inbox = self.root / "inbox"
        self.inbox.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._log = folder / "log.jsonl"
        self._config = folder / "config.yaml"
        settings: dict[str, Any] = {
            "watch": {"quiet_s": QUIET_S, "short_quiet_s": QUIET_S, "min_free_bytes": 0},
            "log": {"format": "json"},
        }
        for section, values in (changes or {}).items():
            settings[section] = {**settings.get(section, {}), **values}
        self.quiet_s = float(settings["watch"]["quiet_s"])
        self._config.write_text(yaml.safe_dump({"root": str(self.root), **settings}), encoding="utf-8")
        self._module = module or ("dfwatch", "run", "--config")
        self._process: psutil.Popen | None = None
        self.ready_s = 0.0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process and wait for READY."""
        address = f"\0dfwatch-benchmark-{os.getpid()}-{time.monotonic_ns()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices, self._log.open("ab") as log:
            notices.bind(address)
            began_s = time.monotonic()
            command = [sys.executable, "-m", *self._module, str(self._config)]
            self._process = psutil.Popen(
                command, cwd=REPOSITORY, env=environment(NOTIFY_SOCKET="@" + address[1:]), stdout=log, stderr=log
            )
            try:
                self._wait_for_ready(notices, began_s + START_LIMIT_S)
            except BaseException:
                self.stop()
                raise
            self.ready_s = time.monotonic() - began_s

    def _wait_for_ready(self, notices: socket.socket, until_s: float) -> None:
        notices.settimeout(0.2)
        while True:
            with contextlib.suppress(TimeoutError):
                if b"READY=1" in notices.recv(4096):
                    return
            self._require_alive()
            if time.monotonic() > until_s:
                raise TimeoutError(f"the daemon was not ready within {START_LIMIT_S} s; see {self._log}")

    def stop(self) -> None:
        """End the process, and wait for its end."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=STOP_LIMIT_S)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(timeout=STOP_LIMIT_S)

    def judge(self, clip: Path, limit_s: float = 600.0, *, copied: bool = False) -> tuple[float, dict[str, Any]]:
        """Drop a clip and wait for its sidecar.

        Args:
            clip: On the root's file system, unless it is copied.
            limit_s: How long to wait.
            copied: Whether to write it into the inbox, instead of having it appear there whole.

        Returns:
            Seconds from the file being complete to the sidecar being there, less the quiet window; and the sidecar.
        """
        name = f"{time.monotonic_ns()}{clip.suffix}"
        sidecar = self.root / "results" / f"{name}.json"
        # A second link is made at once, whole, and costs no copy; one at a time, so that no other use disturbs it.
        if copied:
            shutil.copyfile(clip, self.inbox / name)
        else:
            os.link(clip, self.inbox / name)
        dropped_s = time.monotonic()
        while not sidecar.exists():
            if time.monotonic() > dropped_s + limit_s:
                raise TimeoutError(f"no verdict on {clip} within {limit_s} s; see {self._log}")
            self._require_alive()
            time.sleep(_POLL_S)
        seconds = time.monotonic() - dropped_s - self.quiet_s
        document: dict[str, Any] = json.loads(sidecar.read_bytes())
        if document["status"] != "done":
            raise RuntimeError(f"{clip} ended as {document['status']}: {document['reason_detail']}")
        return seconds, document

    def judge_folder(self, folder: Path, limit_s: float = 1800.0) -> float:
        """Move a folder of files into the inbox; returns seconds to the last sidecar, less the quiet window."""
        count = sum(1 for _ in folder.iterdir())
        results = self.root / "results" / folder.name
        began_s = time.monotonic()
        folder.rename(self.inbox / folder.name)
        while True:
            taken_s = time.monotonic() - began_s
            if taken_s > limit_s:
                raise TimeoutError(f"not all of {count} files were judged within {limit_s} s; see {self._log}")
            self._require_alive()
            # Listing many files costs time that the daemon wants: look ever more seldom, to one part in a hundred.
            time.sleep(max(0.002, 0.01 * taken_s))
            if results.is_dir() and sum(entry.name.endswith(".json") for entry in os.scandir(results)) >= count:
                return time.monotonic() - began_s - self.quiet_s

    def documents(self) -> list[dict[str, Any]]:
        """All sidecars."""
        return [json.loads(path.read_bytes()) for path in (self.root / "results").rglob("*.json")]

    def peak_bytes(self) -> int:
        """Most resident memory so far: that of the daemon and that of its readers, added up."""
        return sum(_peak_resident(process.pid) for process in self._processes())

    def cpu_s(self) -> float:
        """Processor time so far, of the daemon and its readers."""
        return float(sum(sum(process.cpu_times()[:2]) for process in self._processes()))

    def _processes(self) -> list[psutil.Process]:
        if self._process is None:
            return []
        return [self._process, *self._process.children(recursive=True)]

    def _require_alive(self) -> None:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"the daemon ended by itself; see {self._log}:\n{self._log.read_text()[-2000:]}")


def _peak_resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
