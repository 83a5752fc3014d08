"""Where a job's sidecar and its file go, and under which name when that name is taken.

Names are tried in a fixed order, so that two runs over the same folders choose alike: the dropped name, then the name
with the first twelve digits of the file's SHA-256, then the name with the job's id, which nothing else can have, and
last the id alone, for file systems that take no longer name.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import structlog

from dfwatch.printable import printable
from dfwatch.reasons import Label, Status
from dfwatch.storage.durable import NAME_MAX_BYTES, fitting_name, fsync_folder, may_write

if TYPE_CHECKING:
    from dfwatch.config import OutcomeSettings
    from dfwatch.storage.layout import DroppedName, Layout

_log = structlog.get_logger(__name__)

_FOLDER_OF_STATUS = {
    Status.DONE: "done",
    Status.FAILED: "failed",
    Status.REJECTED: "quarantine",
    Status.QUARANTINED: "quarantine",
}
NEXT_NAME = frozenset({errno.EEXIST, errno.ENAMETOOLONG})
"""What is answered to a name that is taken, or too long for this file system: the next one is to be tried."""
_DIGEST_DIGITS = 12
# A folder must leave room for the longest name in it, and for evidence in a folder of its own.
_LONGEST_FOLDER_BYTES = 4095 - 2 * (NAME_MAX_BYTES + 1)


def media_base(layout: Layout, status: Status, label: Label | None, outcome: OutcomeSettings) -> str:
    """Top folder for the files of this outcome."""
    base = layout.folder(_FOLDER_OF_STATUS[status])
    return os.path.join(base, str(label)) if label is not None and outcome.verdict_folders else base


def action_for(label: Label | None, outcome: OutcomeSettings) -> str:
    """``move``, ``keep`` or ``delete``; whatever has no verdict is moved."""
    action: str = "move" if label is None else getattr(outcome, str(label).lower())
    return action


def sidecar_base(layout: Layout, status: Status, label: Label | None, outcome: OutcomeSettings) -> str:
    """Top folder for the sidecars of this outcome; ``results/`` where theirs is closed to us, as to their files."""
    if outcome.sidecar != "beside" or action_for(label, outcome) != "move":
        return layout.results
    base = media_base(layout, status, label, outcome)
    if os.path.isdir(base) and not may_write(base):
        _log.warning("a folder is closed to the service, so a sidecar goes to results/", folder=base)
        return layout.results
    return base


def media_bases(layout: Layout) -> list[str]:
    """Every top folder in which a file may lie that was put away, under whatever settings."""
    folders = [layout.folder(name) for name in dict.fromkeys(_FOLDER_OF_STATUS.values())]
    return folders + [os.path.join(layout.folder(_FOLDER_OF_STATUS[Status.DONE]), str(label)) for label in Label]


def sidecar_bases(layout: Layout) -> list[str]:
    """Every top folder in which a sidecar may lie: the settings may have changed since it was written."""
    return [layout.results, *media_bases(layout)]


def sidecar_names(name: str, sha256: str | None, job_id: str) -> list[str]:
    """Names for a sidecar, in the order in which they are tried."""
    digest = [f".{sha256[:_DIGEST_DIGITS]}.json"] if sha256 else []
    return [*(fitting_name(name, suffix) for suffix in (".json", *digest, f".{job_id}.json")), f"{job_id}.json"]


def superseded_names(name: str, job_id: str) -> list[str]:
    """Names for the sidecar ``name`` of a file that was handed back, in the order in which they are tried."""
    ending = f"{job_id}.superseded.json"
    return [fitting_name(name.removesuffix(".json"), f".{ending}"), ending]


def media_names(name: str, sha256: str | None, job_id: str) -> list[str]:
    """Names for a moved file, in the order in which they are tried; its ending stays at the end if there is room."""
    stem, ending = os.path.splitext(name)
    if len(os.fsencode(f".{job_id}{ending}")) >= NAME_MAX_BYTES:
        # A dot early in a long name begins no ending.
        stem, ending = name, ""
    digest = [f".{sha256[:_DIGEST_DIGITS]}{ending}"] if sha256 else []
    return [name, *(fitting_name(stem, suffix) for suffix in (*digest, f".{job_id}{ending}")), job_id]


def folders(base: str, dropped: DroppedName, job_id: str) -> tuple[str, str]:
    """Where below ``base`` things of a job may lie: the subfolder ``dropped.folder``, and the job's own folder."""
    return os.path.join(base, dropped.folder) if dropped.folder else base, os.path.join(base, job_id)


def make_folder(base: str, dropped: DroppedName, job_id: str) -> str:
    """Make the subfolder ``dropped.folder`` below ``base``, durably; the job's own folder where that is impossible.

    It is impossible where a file already has the name of one of its parts, where the path gets too long, and where
    somebody closed it to us: were one closed folder waited for, its files would hold up all others.
    """
    wanted, _ = folders(base, dropped, job_id)
    try:
        if len(os.fsencode(wanted)) <= _LONGEST_FOLDER_BYTES:
            _make_durable(wanted)
            if wanted == base or may_write(wanted):
                return wanted
            _tell_closed(wanted, job_id)
    except (FileExistsError, NotADirectoryError):
        pass
    except PermissionError:
        if wanted == base:
            raise
        _tell_closed(wanted, job_id)
    except OSError as exc:
        if exc.errno != errno.ENAMETOOLONG:
            raise
    return make_own_folder(base, job_id)


def make_own_folder(base: str, job_id: str) -> str:
    """Make a folder below ``base``, durably, that is only one job's."""
    folder = os.path.join(base, job_id)
    _make_durable(folder)
    return folder


def _tell_closed(folder: str, job_id: str) -> None:
    _log.warning("a folder is closed to the service, so a job got one of its own", folder=printable(folder), job=job_id)


def _make_durable(path: str) -> None:
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    _make_durable(parent)
    try:
        os.mkdir(path)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
        return
    fsync_folder(parent)
