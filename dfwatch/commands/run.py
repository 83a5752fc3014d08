"""``dfwatch run``."""

from __future__ import annotations

import faulthandler
import os
from pathlib import Path
from typing import TYPE_CHECKING

from dfwatch.commands import new_parser
from dfwatch.console.exits import Exit

if TYPE_CHECKING:
    import argparse

    from dfwatch.commands import Subparsers
    from dfwatch.config import Settings
    from dfwatch.judge import Scorer
    from dfwatch.pipeline import Reader


def add_parser(commands: Subparsers) -> None:
    """Describe the command."""
    new_parser(
        commands,
        "run",
        command,
        summary="run the daemon",
        text="Watches ROOT/inbox, judges every video that is dropped there, writes ROOT/results/NAME.json and puts\n"
        "the video into ROOT/done. What cannot be judged goes to ROOT/failed or ROOT/quarantine, with a sidecar\n"
        "that says why.\n\n"
        "SIGHUP reads the configuration again. SIGTERM or Ctrl-C finishes what is in work; a second one hurries.\n"
        "What is not finished by then is taken up by the next start.",
    )


def command(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from dfwatch import logs
    from dfwatch.service import Service
    from dfwatch.settings import file as settings_file

    loaded = settings_file.load_found(arguments.config)
    settings = loaded.settings
    logs.configure(settings.log.level, settings.log.format)
    logs.log_uncaught()
    logs.quiet_decoders()
    # systemd ends a hung service with SIGABRT; the journal should then show where every thread was.
    faulthandler.enable()
    if "NOTIFY_SOCKET" not in os.environ:
        # On standard output, which is not the log's; systemd's journal has no use for it.
        print(_WELCOME.format(notice=loaded.notice, root=settings.root), flush=True)
    service = Service(
        settings,
        make_scorer=load_scorer,
        make_reader=new_reader,
        reload_settings=lambda: settings_file.load_found(arguments.config).settings,
    )
    service.run()
    return Exit.OK


_WELCOME = """\
{notice}
Drop videos into   {root}/inbox
Verdicts appear in {root}/results
Ctrl-C stops.
"""


def load_scorer(settings: Settings) -> Scorer:
    """The detector of every device that is to be used, with what was measured of this machine cached in ``state/``."""
    from dfwatch.detector import Detector
    from dfwatch.inference.group import DetectorGroup
    from dfwatch.storage.layout import Layout

    state = Path(Layout(settings.root).state)
    detectors = Detector.load_all(bundle_path(settings), settings.model, cache_dir=state)
    return detectors[0] if len(detectors) == 1 else DetectorGroup(detectors)


def new_reader(settings: Settings) -> Reader:
    """A reader process, not started yet."""
    from dfwatch.reader import Reader as ReaderProcess

    side_px = settings.evidence.side_px if settings.evidence.enabled else 0
    return ReaderProcess(settings.reader, settings.faces, thumbnail_side_px=side_px)


def bundle_path(settings: Settings) -> str:
    """The configured bundle, or the one that ships with dfwatch."""
    from dfwatch import resources

    return settings.model.path or str(resources.default_bundle())
