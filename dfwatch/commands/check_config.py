"""``dfwatch check-config``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from dfwatch.commands import new_parser
from dfwatch.console.exits import Exit

if TYPE_CHECKING:
    import argparse

    from dfwatch.commands import Subparsers


def add_parser(commands: Subparsers) -> None:
    """Describe the command."""
    parser = new_parser(
        commands,
        "check-config",
        command,
        summary="check a configuration file",
        text="Checks the configuration as the service would read it, and prints every mistake with line and column.\n"
        "Exit status 0: it is fine; 1: it is not.",
    )
    parser.add_argument(
        "--show", action="store_true", help="print the settings in force, every default included, as YAML"
    )


def command(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from dfwatch.settings import file as settings_file
    from dfwatch.settings.render import render

    path = settings_file.find(arguments.config)
    problems = [] if path is None else settings_file.check(path)
    for problem in problems:
        hint = f" ({problem.hint})" if problem.hint else ""
        print(f"{problem.subject}: {problem.cause}{hint}", file=sys.stderr)
    if problems:
        print(f"{len(problems)} mistake{'s' if len(problems) > 1 else ''} in {path}", file=sys.stderr)
        return Exit.FOUND
    loaded = settings_file.load_found(arguments.config)
    if arguments.show:
        sys.stdout.write(render(loaded.settings))
    else:
        print(f"{loaded.notice}: fine")
    return Exit.OK
