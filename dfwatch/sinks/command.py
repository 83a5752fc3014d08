"""Runs a program for each outcome, with the sidecar on its standard input."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from contextlib import suppress
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Self

from dfwatch.config import SinkSettings, setting
from dfwatch.document import encode
from dfwatch.errors import SinkError
from dfwatch.sinks import Sink

if TYPE_CHECKING:
    from dfwatch.sinks import Message

_TOLD_BYTES: Final = 400
_CHUNK_BYTES: Final = 64 * 1024
# How long a program's last words may be on their way when it has ended; what it left behind may go on for ever.
_LAST_WORDS_S: Final = 1.0
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
        if "/" in self.command[0] and not os.path.isabs(self.command[0]):
            return [("command", "names its program by a path that does not begin with '/'", "the whole path")]
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
        # In memory, so that no full disk is in the way; not a pipe, which somebody would have to fill.
        with open(os.memfd_create("sidecar"), "w+b") as given:
            given.write(encode(message.document))
            given.seek(0)
            self._run(given.fileno(), environment)

    def probe(self) -> str:
        """See ``Sink``. The program is found, not run: what it would do with a made-up outcome nobody knows."""
        found = shutil.which(self._command[0])
        if found is None:
            raise self._error("there is no such program, or it may not be run")
        return f"{found} is there (it was not run)"

    def _run(self, given: int, environment: dict[str, str]) -> None:
        try:
            with _Told() as told:
                process = subprocess.Popen(
                    self._command,
                    stdin=given,
                    stdout=subprocess.DEVNULL,
                    stderr=told.fd,
                    env=environment,
                    cwd="/",
                    start_new_session=True,
                )
        except (OSError, ValueError) as exc:
            raise self._error(exc) from exc
        try:
            status = process.wait(self._timeout_s)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise self._failed(f"it did not end within {self._timeout_s:g} s and was killed", told) from None
        if status != 0:
            how = f"exit status {status}" if status > 0 else f"killed by {signal.Signals(-status).name}"
            raise self._failed(how, told, retryable=status != _EX_DATAERR)

    def _failed(self, how: str, told: _Told, *, retryable: bool = True) -> SinkError:
        said = told.end()
        return self._error(f"{how}: {said}" if said else how, retryable=retryable)

    def _error(self, cause: object, *, retryable: bool = True) -> SinkError:
        return SinkError("running", self._command[0], cause, retryable=retryable)


class _Told:
    """What a program says on its standard error, of which only the end is kept.

    It is read for as long as anybody holds the other end: so neither the program nor what it leaves behind ever waits
    for room, or is ended by a broken pipe. The ``with`` block is for handing that end, ``fd``, to the program.
    """

    def __init__(self) -> None:
        self._end = b""
        reading, self.fd = os.pipe()
        # Begun ahead of the program: where there is no thread, none is started.
        self._thread = threading.Thread(target=self._listen, args=(reading,), name="told", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            os.close(reading)
            os.close(self.fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self.fd)

    def end(self) -> str:
        """The end of it, once the program has ended."""
        self._thread.join(_LAST_WORDS_S)
        return self._end.decode("utf-8", "replace").strip()

    def _listen(self, reading: int) -> None:
        with open(reading, "rb", buffering=0) as stream:
            while part := stream.read(_CHUNK_BYTES):
                self._end = (self._end + part)[-_TOLD_BYTES:]
