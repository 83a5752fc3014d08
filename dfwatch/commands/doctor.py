"""``dfwatch doctor``."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING

from dfwatch.commands import new_parser
from dfwatch.console.exits import Exit
from dfwatch.console.terminal import paint, wants_colour
from dfwatch.printable import printable

if TYPE_CHECKING:
    import argparse

    from dfwatch.commands import Subparsers

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def add_parser(commands: Subparsers) -> None:
    """Describe the command."""
    new_parser(
        commands,
        "doctor",
        command,
        summary="examine this machine and say what to do",
        text="Examines what the service needs: packages, decoders, model, device, folders, file system, file events,\n"
        "leases, limits, sinks. Each trouble comes with what to do about it. Changes nothing.\n"
        "Exit status 0: it will work; 1: it will not.",
    )


def command(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from dfwatch.doctor import Health, examine
    from dfwatch.settings import file as settings_file

    settings = settings_file.load_found(arguments.config).settings
    coloured = wants_colour(sys.stdout)
    failed = False
    for finding in examine(settings):
        failed |= finding.health is Health.FAIL
        mark = paint(f"{finding.health:<4}", _COLOURS[finding.health], coloured=coloured)
        print(f"{mark}  {finding.name:<14}{_wrapped(finding.found)}", flush=True)
        if finding.advice:
            print(f"{'':20}→ {_wrapped(finding.advice, indent=22)}")
    return Exit.FOUND if failed else Exit.OK


def _wrapped(text: str, indent: int = 20) -> str:
    return f"\n{'':{indent}}".join(textwrap.wrap(printable(text), 96, break_long_words=False)) or ""
