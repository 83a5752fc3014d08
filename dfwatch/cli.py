"""The command line: parses, picks the command, turns errors into one readable message and an exit status.

Nothing heavy is imported here: each command imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from dfwatch import __version__
from dfwatch.console.exits import Exit
from dfwatch.errors import ConfigError, DfwatchError
from dfwatch.inference.openmp import let_threads_sleep
from dfwatch.printable import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

_DESCRIPTION = """\
Watches a folder for videos, looks for manipulated faces in each, and writes what it found beside it as JSON.
A score is not proof: let a person look before anything is decided.
"""
_EPILOG = """\
exit status:
  0  done; for scan: every file was judged and none is FAKE
  1  scan: at least one file is FAKE; check-config, doctor, model verify: something is wrong
  2  the command line or the configuration is wrong
  3  scan: at least one file could not be judged, and none is FAKE
  4  the model, the device or the disk failed

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
    parsed = build_parser().parse_args(arguments)
    try:
        status = int(parsed.command(parsed))
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has had enough; Python must not complain about that at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(Exit.OK)
    except KeyboardInterrupt:
        return 130
    except ConfigError as error:
        report(error)
        return int(Exit.USAGE)
    except DfwatchError as error:
        report(error)
        return int(Exit.CANNOT_RUN)
    return status


def report(error: DfwatchError) -> None:
    """One error for a person to read, on standard error."""
    where = f" {printable(error.subject)}" if error.subject else ""
    print(f"dfwatch: {error.action}{where}: {printable(error.cause)}", file=sys.stderr)
    if error.hint:
        print(f"  → {printable(error.hint)}", file=sys.stderr)
