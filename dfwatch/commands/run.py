"""``dfwatch run``."""

from __future__ import annotations

import faulthandler
import os
import sys
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
    if "NOTIFY_SOCKET" not in os.environ and not sys.stdout.closed:
        # On standard output, which is not the log's; systemd's journal has no use for it.
        print(_WELCOME.format(notice=loaded.notice, root=settings.root), flush=True)
    service = Service(
        settings,
        make_scorer=load_scorer,
        make_reader=new_reader,
        reload_settings=lambda: _reloaded(loaded.path),
    )
    service.run()
    return Exit.OK


def _reloaded(path: Path | None) -> Settings:
    """The settings anew, from the very file that the service started with; searched for where it had none.

    Raises:
        ConfigError: The file is gone, or something is wrong with it.
    """
    from dfwatch.settings import file as settings_file

    return settings_file.load_found(path).settings


_WELCOME = """\
{notice}
Drop videos into   {root}/inbox
Verdicts appear in {root}/results
Ctrl-C stops.
"""


def load_scorer(settings: Settings) -> Scorer:
    """The detector of every device that is to be used; what was measured of this machine is kept for the next start."""
    from dfwatch.detector import Detector
    from dfwatch.inference.group import DetectorGroup

    detectors = Detector.load_all(bundle_path(settings), settings.model, cache_dir=_cache_folder(settings.root))
    return detectors[0] if len(detectors) == 1 else DetectorGroup(detectors)


def _cache_folder(root: str) -> Path | None:
    """``state/`` of a root that is in use and may be written, which the daemon's always is; else the user's own cache.

    None where the user has none.
    """
    from dfwatch.storage.layout import Layout

    state = Path(Layout(root).state)
    if os.access(state, os.W_OK | os.X_OK):
        return state
    # A relative path is to be passed over: https://specifications.freedesktop.org/basedir-spec/latest/
    places = (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache"))
    return next((Path(place) / "dfwatch" for place in places if os.path.isabs(place)), None)


def new_reader(settings: Settings) -> Reader:
    """A reader process, not started yet."""
    from dfwatch.reader import Reader as ReaderProcess

    side_px = settings.evidence.side_px if settings.evidence.enabled else 0
    return ReaderProcess(settings.reader, settings.faces, thumbnail_side_px=side_px)


def bundle_path(settings: Settings) -> str:
    """The configured bundle, or the one that ships with dfwatch."""
    from dfwatch import resources

    return settings.model.path or str(resources.default_bundle())
