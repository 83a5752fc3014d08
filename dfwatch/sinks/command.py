"""Runs a program for each outcome, with the sidecar on its standard input."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from dfwatch.config import SinkSettings, setting
from dfwatch.document import encode
from dfwatch.errors import SinkError
from dfwatch.sinks import Sink

if TYPE_CHECKING:
    from dfwatch.sinks import Message

_TOLD_BYTES: Final = 400
# What a program says beyond this is thrown away while it runs, all but what it says next.
_MOST_KEPT_BYTES: Final = 1024 * 1024
_LOOK_S: Final = 0.1
# sysexits.h: the data were wrong, and will be so the next time.
_EX_DATAERR: Final = 65
# What a program needs to find its way; the service's other variables may hold secrets.
_PASSED_ON: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSettings(SinkSettings):
    """Settings of ``type: command``."""

    type: str = setting("command", doc="Kind of sink.")
    command: list[str] = setting(MISSING, doc="Program and arguments. There is no shell: each entry is one argument.")
    timeout_s: float = setting(60.0, doc="The program and its children are killed after this.", minimum=0.1)

    def problems(self) -> list[tuple[str, str, str]]:
        """See ``SinkSettings``."""
        if not self.command or not self.command[0]:
            return [("command", "names no program", "[/usr/local/bin/tell-somebody, --quietly]")]
        return []


class CommandSink(Sink):
    """Exit status 0: taken; 65: this outcome will never be taken; anything else: to be tried again.

    The program gets the sidecar on standard input and DFWATCH_JOB_ID, DFWATCH_STATUS, DFWATCH_VERDICT and
    DFWATCH_SIDECAR in its environment. It may be run more than once with the same job id.
    """

    settings_type: ClassVar[type[SinkSettings]] = CommandSettings

    def __init__(self, settings: CommandSettings) -> None:
        self._command = settings.command
        self._timeout_s = settings.timeout_s

    def deliver(self, message: Message) -> None:
        """See ``Sink``."""
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        environment |= {
            "DFWATCH_JOB_ID": message.key,
            "DFWATCH_STATUS": message.document["status"],
            "DFWATCH_VERDICT": message.document["verdict"] or "",
            "DFWATCH_SIDECAR": message.sidecar,
        }
        # Files, not pipes: a program that reads nothing or writes much can block nobody.
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as told:
            given.write(encode(message.document))
            given.seek(0)
            status = self._run(given.fileno(), told.fileno(), environment)
            if status == 0:
                return
            told.seek(max(0, told.seek(0, os.SEEK_END) - _TOLD_BYTES))
            said = told.read(_TOLD_BYTES).replace(b"\0", b"").decode("utf-8", "replace").strip()
        how = f"exit status {status}" if status > 0 else f"killed by {signal.Signals(-status).name}"
        raise self._error(f"{how}: {said}" if said else how, retryable=status != _EX_DATAERR)

    def probe(self) -> str:
        """See ``Sink``. The program is found, not run: what it would do with a made-up outcome nobody knows."""
        found = shutil.which(self._command[0])
        if found is None:
            raise self._error("there is no such program, or it may not be run")
        return f"{found} is there (it was not run)"

    def _run(self, given: int, told: int, environment: dict[str, str]) -> int:
        try:
            process = subprocess.Popen(
                self._command,
                stdin=given,
                stdout=subprocess.DEVNULL,
                stderr=told,
                env=environment,
                cwd="/",
                start_new_session=True,
            )
        except (OSError, ValueError) as exc:
            raise self._error(exc) from exc
        deadline_s = time.monotonic() + self._timeout_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(min(_LOOK_S, left_s))
            # The program goes on writing where it was: the file is as long as before, but takes up only what is new.
            if os.fstat(told).st_blocks * 512 > _MOST_KEPT_BYTES:
                os.ftruncate(told, 0)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise self._error(f"it did not end within {self._timeout_s:g} s and was killed")

    def _error(self, cause: object, *, retryable: bool = True) -> SinkError:
        return SinkError("running", self._command[0], cause, retryable=retryable)
