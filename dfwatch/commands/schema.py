"""``dfwatch schema``."""

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
    new_parser(
        commands,
        "schema",
        command,
        summary="print the JSON Schema of the sidecar",
        text="Prints the JSON Schema (2020-12) of the sidecar document: the contract with tools that read verdicts.\n"
        "Within a major version keys are only added; ignore those that you do not know.",
        config=False,
    )


def command(_arguments: argparse.Namespace) -> int:
    """Run the command."""
    from dfwatch.document import encode, schema

    sys.stdout.write(encode(schema()).decode())
    return Exit.OK
