"""All checks, in the order in which a person would look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dfwatch.doctor import daemon, extras, folders, machine, sinks, software
from dfwatch.doctor.finding import Finding, fail
from dfwatch.errors import DfwatchError
from dfwatch.storage.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dfwatch.config import Settings


def examine(settings: Settings) -> Iterator[Finding]:
    """Run every check and yield what it found, one after another; some take a second (torch is imported).

    Nothing is changed: the probes in folders are files of their own that are gone when a check ends.
    A check that itself breaks is a finding too.
    """
    layout = Layout(settings.root)
    checks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("python", software.python),
        ("packages", software.packages),
        ("decoders", software.decoders),
        ("face detector", lambda: software.face_detector(settings.faces.model)),
        ("model", lambda: software.model(settings.model.path, settings.verdict)),
        ("device", lambda: software.device(settings.model.device)),
        ("engine", lambda: extras.engine(settings.model)),
        ("provenance", lambda: extras.provenance(settings.provenance)),
        ("metrics", lambda: extras.metrics(settings.metrics)),
        ("folders", lambda: folders.permissions(layout)),
        ("renaming", lambda: folders.renaming(layout)),
        ("file system", lambda: folders.file_system(layout)),
        ("inbox", lambda: folders.inbox_contents(layout)),
        ("disk", lambda: folders.disk(layout, settings.watch.min_free_bytes)),
        ("leases", lambda: folders.leases(layout, settings.watch.lease)),
        ("inotify", lambda: machine.inotify(layout, settings.watch)),
        ("memory", lambda: machine.memory(settings.reader)),
        ("limits", machine.limits),
        ("clock", machine.clock),
        ("daemon", lambda: daemon.running(layout)),
        ("systemd", daemon.systemd),
    )
    for name, check in checks:
        yield from _guarded(name, _one(check))
    yield from _guarded("sink", sinks.sinks(settings.root, settings.sinks, daemon.unit_lacks_network))


def _one(check: Callable[[], Finding]) -> Iterator[Finding]:
    yield check()


def _guarded(name: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    try:
        yield from findings
    except DfwatchError as error:
        yield fail(name, f"{error.subject}: {error.cause}" if error.subject else error.cause, error.hint)
    except Exception as error:  # noqa: BLE001 - the others must still be looked at, and the person must know
        yield fail(name, f"the check itself broke: {type(error).__name__}: {error}", "please report this")
