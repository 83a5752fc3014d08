"""``dfwatch check-config``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from dfwatch.commands import new_parser
from dfwatch.console.exits import Exit

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from dfwatch.commands import Subparsers
    from dfwatch.errors import ConfigError
    from dfwatch.settings.file import Loaded


def add_parser(commands: Subparsers) -> None:
    """Describe the command."""
    parser = new_parser(
        commands,
        "check-config",
        command,
        summary="check a configuration file",
        text="Checks the configuration as the service would read it, and prints every mistake with line and column.\n"
        "A single threshold is held against the model's other one too, where the model is there.\n"
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
    if problems:
        return _tell(problems, path)
    loaded = settings_file.load_found(arguments.config)
    problems = _against_the_model(loaded)
    if problems:
        return _tell(problems, path)
    if arguments.show:
        sys.stdout.write(render(loaded.settings))
    else:
        print(f"{loaded.notice}: fine")
    return Exit.OK


def _tell(problems: list[ConfigError], path: Path | None) -> int:
    for problem in problems:
        hint = f" ({problem.hint})" if problem.hint else ""
        print(f"{problem.subject}: {problem.cause}{hint}", file=sys.stderr)
    print(f"{len(problems)} mistake{'s' if len(problems) > 1 else ''} in {path}", file=sys.stderr)
    return Exit.FOUND


def _against_the_model(loaded: Loaded) -> list[ConfigError]:
    """What is wrong with a threshold beside the model's other one, where the model is at hand."""
    settings = loaded.settings
    if (settings.verdict.real_threshold is None) == (settings.verdict.fake_threshold is None):
        return []
    from dfwatch.commands.run import bundle_path
    from dfwatch.errors import ConfigError, ModelError
    from dfwatch.models.bundle import load_bundle
    from dfwatch.verdict import limits_in_force

    try:
        limits_in_force(load_bundle(bundle_path(settings)).thresholds, settings.verdict)
    except ModelError:
        # A file may be checked on a machine without the model; doctor says what is wrong with that.
        return []
    except ConfigError as error:
        return [ConfigError(error.action, loaded.path, error.cause, hint=error.hint)]
    return []
