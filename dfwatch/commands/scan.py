"""``dfwatch scan``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from dfwatch.commands import new_parser
from dfwatch.console.exits import Exit
from dfwatch.console.terminal import wants_colour
from dfwatch.printable import printable

if TYPE_CHECKING:
    import argparse

    from dfwatch.commands import Subparsers


def add_parser(commands: Subparsers) -> None:
    """Describe the command."""
    parser = new_parser(
        commands,
        "scan",
        command,
        summary="judge files now, at the terminal",
        text="Judges each file and prints what was found: the verdict that the daemon would publish, from the same\n"
        "code. Files are only read. No daemon is needed. What is measured of this machine is kept in ROOT/state, if\n"
        "that is there and may be written, else in $XDG_CACHE_HOME/dfwatch or ~/.cache/dfwatch.\n\n"
        "exit status: 0 no file is FAKE; 1 at least one is; 3 at least one could not be judged, and none is FAKE;\n"
        "4 the model or the device failed, or the output could not be written; 141 the output was closed.\n"
        "A file that the disk fails to give could not be judged; that is told on standard error.",
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="a video or a picture")
    parser.add_argument(
        "--json", action="store_true", help="print the sidecar document, one per line, for refused files too"
    )


def command(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from dfwatch import logs
    from dfwatch.commands.run import load_scorer, new_reader
    from dfwatch.console.progress import Progress
    from dfwatch.console.summary import describe
    from dfwatch.document import encode
    from dfwatch.errors import StorageError
    from dfwatch.judge import Judge
    from dfwatch.settings import file as settings_file

    settings = settings_file.load_found(arguments.config).settings
    logs.configure("warning", settings.log.format)
    coloured = wants_colour(sys.stdout)
    documents: list[dict[str, Any]] = []
    unreadable = 0
    with Progress(sys.stderr, total=len(arguments.files)) as progress:
        progress.begin("loading the model")
        reader = new_reader(settings)
        reader.start()
        try:
            judge = Judge(settings, reader, load_scorer(settings))
            for path in arguments.files:
                progress.begin(path)
                try:
                    document = judge.judge(path)
                except StorageError as error:
                    progress.done()
                    print(f"{printable(path)}: not judged: {printable(error.cause)}", file=sys.stderr)
                    unreadable += 1
                    continue
                documents.append(document)
                progress.done()
                if arguments.json:
                    sys.stdout.write(encode(document, indent=None).decode("utf-8"))
                else:
                    print(describe(document, coloured=coloured))
                sys.stdout.flush()
        finally:
            reader.close()
    if any(document["verdict"] == "FAKE" for document in documents):
        return Exit.FOUND
    if unreadable or any(document["verdict"] is None for document in documents):
        return Exit.NOT_JUDGED
    return Exit.OK
