"""``dfwatch install-units``."""

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
        "install-units",
        command,
        summary="put the systemd service in place",
        text="Writes the systemd service, its user (sysusers.d), its folders (tmpfiles.d) and, if there is none,\n"
        "/etc/dfwatch/config.yaml. A file that somebody changed is left alone unless --replace is given.\n"
        "Command, user, root and drop-ins of a service that is in place are kept, if no option says otherwise.",
        config=False,
    )
    parser.add_argument("--dry-run", action="store_true", help="only show what would be written")
    parser.add_argument("--destination", metavar="FOLDER", default="/", help="what / means, for packaging (default: /)")
    parser.add_argument(
        "--command",
        dest="executable",
        metavar="PATH",
        help="the dfwatch command (default: the installed service's, else this one)",
    )
    parser.add_argument("--user", help="user and group of the service (default: the installed one's, else dfwatch)")
    parser.add_argument(
        "--root",
        metavar="FOLDER",
        help="folder of inbox/, results/ … (default: the installed one's, else /var/lib/dfwatch)",
    )
    parser.add_argument("--gpu", action="store_true", help="let the service use GPUs")
    parser.add_argument("--network", action="store_true", help="let sinks use the network")
    parser.add_argument("--replace", action="store_true", help="replace changed files too, keeping a copy of each")


def command(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from dfwatch.operation.units import Action, install_units

    done = install_units(
        arguments.destination,
        dry_run=arguments.dry_run,
        command=arguments.executable,
        user=arguments.user,
        root=arguments.root,
        gpu=arguments.gpu,
        network=arguments.network,
        replace_changed=arguments.replace,
    )
    for step in done.steps:
        backup = f" (the changed one is kept as {step.backup})" if step.backup else ""
        print(f"{step.action:<9} {step.path}{backup}")
        if step.diff and (arguments.dry_run or step.action is Action.KEEP):
            print("".join(f"    {line}\n" for line in step.diff.splitlines()), end="")
    if done.kept:
        print(f"\nKept as installed: {', '.join(done.kept)}. An option changes it.")
    for warning in done.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print("\nNothing was written. Without --dry-run, go on with:" if arguments.dry_run else "\nNow run, as root:")
    for following in done.next_commands:
        print(f"  {following}")
    return Exit.OK
