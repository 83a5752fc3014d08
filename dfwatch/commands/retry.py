"""``dfwatch retry``."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from dfwatch.commands import new_parser
from dfwatch.console.exits import Exit
from dfwatch.printable import printable

if TYPE_CHECKING:
    import argparse

    from dfwatch.commands import Subparsers


def add_parser(commands: Subparsers) -> None:
    """Describe the command."""
    parser = new_parser(
        commands,
        "retry",
        command,
        summary="hand files that were not judged back to the inbox",
        text="Moves files from failed/ or quarantine/ back to where they were dropped, to be judged anew as new jobs.\n"
        "Their old sidecars stay, renamed to NAME.JOB.superseded.json. Works while the daemon runs.",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("jobs", metavar="JOB", nargs="*", default=[], help="job id, from 'dfwatch status' or a sidecar")
    which.add_argument("--failed", action="store_true", help="every file in failed/")
    which.add_argument("--quarantined", action="store_true", help="every file in quarantine/ that was not refused")


def command(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from dfwatch.errors import StorageError
    from dfwatch.jobs import retrying
    from dfwatch.journal import Journal
    from dfwatch.reasons import Status
    from dfwatch.settings import file as settings_file
    from dfwatch.storage.layout import Layout

    settings = settings_file.load_found(arguments.config).settings
    layout = Layout(settings.root)
    if not os.path.exists(layout.journal):
        # Opening it would make one, owned by whoever calls.
        raise StorageError("opening the journal", layout.journal, "the daemon was never started here", retryable=False)
    journal = Journal(layout.journal)
    status = Exit.OK
    try:
        if arguments.failed or arguments.quarantined:
            rows = journal.ended(Status.FAILED if arguments.failed else Status.QUARANTINED)
            jobs = [row.id for row in rows if row.media is not None]
        else:
            jobs = arguments.jobs
        for job_id in jobs:
            try:
                name = retrying.retry(layout, journal, job_id, marker=settings.watch.marker)
            except StorageError as error:
                print(f"{job_id}: {printable(error.cause)}", file=sys.stderr)
                status = Exit.FOUND
            else:
                print(f"{job_id}: {printable(name)} is back in the inbox")
        if not jobs:
            print("nothing to retry")
    finally:
        journal.close()
    return status
