"""The command line: parses, picks the command, turns errors into one readable message and an exit status.

Nothing heavy is imported here: each command imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import errno
import io
import json
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO, cast

from dfwatch import __version__
from dfwatch.console.exits import Exit
from dfwatch.errors import ConfigError, DfwatchError
from dfwatch.inference.openmp import let_threads_sleep
from dfwatch.printable import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

# As a shell reports a program that SIGINT or SIGPIPE ended.
_INTERRUPTED = 130
_CLOSED_PIPE = 141
_ESCAPED = "dfwatch-escaped"
_DESCRIPTION = """\
Watches a folder for videos, looks for manipulated faces in each, and writes what it found beside it as JSON.
A score is not proof: let a person look before anything is decided.
"""
_EPILOG = """\
exit status:
  0  done; for scan: every file was judged and none is FAKE
  1  scan: at least one file is FAKE; check-config, doctor, model verify: something is wrong; retry, sinks test,
     sinks replay: it did not work, or not for all
  2  the command line or the configuration is wrong
  3  scan: at least one file could not be judged, and none is FAKE; train: unfinished, the same command goes on
  4  the model, the device or the disk failed, the output could not be written, or dfwatch has a defect
  130  Ctrl-C
  141  the output was closed before its end (scan ... | head): whatever was still to come is not known

'dfwatch COMMAND --help' tells more about each command.
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser with every command."""
    from dfwatch.commands import (
        check_config,
        doctor,
        install_units,
        model,
        retry,
        run,
        scan,
        schema,
        sinks,
        status,
    )
    from dfwatch.training import cli as training

    parser = argparse.ArgumentParser(
        prog="dfwatch",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dfwatch {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (run, scan, status, retry, sinks, check_config, doctor, model, schema, install_units):
        module.add_parser(commands)
    training.add_parsers(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the process's exit status."""
    let_threads_sleep()
    output = sys.stdout
    _escape_what_cannot_be_shown(output)
    sys.stdout = cast("TextIO", _Output(output))
    try:
        return _run(arguments)
    except _OutputError as error:
        _silence(output)
        if isinstance(error.cause, BrokenPipeError):
            return _CLOSED_PIPE
        print(f"dfwatch: standard output: {error.cause.strerror or error.cause}", file=sys.stderr)
        return int(Exit.CANNOT_RUN)
    finally:
        sys.stdout = output


def _run(arguments: Sequence[str] | None) -> int:
    try:
        try:
            parsed = build_parser().parse_args(arguments)
            status = int(parsed.command(parsed))
        except SystemExit:
            # --help prints too.
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except ConfigError as error:
        report(error)
        return int(Exit.USAGE)
    except DfwatchError as error:
        report(error)
        return int(Exit.CANNOT_RUN)
    except _OutputError:
        raise
    except Exception as error:  # noqa: BLE001 - status 1, Python's own, says that something was found
        sys.excepthook(type(error), error, error.__traceback__)
        print(f"dfwatch: a defect in dfwatch: {type(error).__name__}: {printable(str(error))}", file=sys.stderr)
        return int(Exit.CANNOT_RUN)
    return status


class _OutputError(Exception):
    """Standard output takes nothing more; ``cause`` says why. No OSError: no command is to take it for its own."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause)
        self.cause = cause


class _Output:
    """Standard output whose failures cannot be confused with those of files, pipes and sockets.

    Args:
        stream: The real one; None when it was closed before the start.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write; raises _OutputError."""
        try:
            if self._stream is None:
                raise OSError(errno.EBADF, "it is closed")
            return self._stream.write(text)
        except OSError as error:
            raise _OutputError(error) from error

    def flush(self) -> None:
        """Flush; raises _OutputError."""
        try:
            if self._stream is not None:
                self._stream.flush()
        except OSError as error:
            raise _OutputError(error) from error

    @property
    def closed(self) -> bool:
        """Whether nothing can be written."""
        return self._stream is None or self._stream.closed

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the stream has
        return getattr(self._stream, name)


def _escape_what_cannot_be_shown(output: TextIO | None) -> None:
    r"""Have what the terminal's encoding lacks written as \u2192, as JSON does it, instead of ending the command.

    Where the encoding is not UTF-8, that is everything beyond ASCII: JSON that a program reads is UTF-8 in any locale.
    """
    if not isinstance(output, io.TextIOWrapper):
        return
    codecs.register_error(_ESCAPED, _as_json_does)
    utf8 = codecs.lookup(output.encoding).name == "utf-8"
    output.reconfigure(encoding=None if utf8 else "ascii", errors=_ESCAPED)


def _as_json_does(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def _silence(output: TextIO | None) -> None:
    """Let what is still buffered go nowhere, or Python would complain about it at exit and change the status."""
    with contextlib.suppress(OSError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), cast("TextIO", output).fileno())


def report(error: DfwatchError) -> None:
    """One error for a person to read, on standard error."""
    where = f" {printable(error.subject)}" if error.subject else ""
    print(f"dfwatch: {error.action}{where}: {printable(error.cause)}", file=sys.stderr)
    if error.hint:
        print(f"  → {printable(error.hint)}", file=sys.stderr)
