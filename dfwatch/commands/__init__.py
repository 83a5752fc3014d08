"""One module for each command: ``add_parser`` describes it, its ``command`` runs it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def new_parser(
    commands: Subparsers,
    name: str,
    command: Callable[[argparse.Namespace], int],
    *,
    summary: str,
    text: str,
    config: bool = True,
) -> argparse.ArgumentParser:
    """A command's parser: one line for the list, a text worth reading, and ``--config`` where it reads settings."""
    parser = commands.add_parser(
        name, help=summary, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if config:
        parser.add_argument(
            "--config",
            metavar="FILE",
            help="configuration file (default: ./config.yaml, then /etc/dfwatch/config.yaml)",
        )
    parser.set_defaults(command=command)
    return parser
