"""``dfwatch sinks``: list, test, replay and put in order where outcomes go."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from dfwatch.commands import new_parser
from dfwatch.console.exits import Exit
from dfwatch.errors import ConfigError, StorageError
from dfwatch.printable import printable
from dfwatch.storage.stamps import stamp

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from dfwatch.commands import Subparsers
    from dfwatch.config import SinkSettings
    from dfwatch.jobs.outbox import Outbox
    from dfwatch.journal import JobRow, Journal

_LARGEST_SIDECAR_BYTES = 64 * 1024 * 1024
_SPAN = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhdw])")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def add_parser(commands: Subparsers) -> None:
    """Describe the commands."""
    parser = commands.add_parser(
        "sinks",
        help="list, test and replay the destinations of verdicts",
        description="Sinks bring outcomes where people need them. Each is fed from the journal's outbox, in order.",
    )
    below = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = new_parser(
        below,
        "list",
        _list,
        summary="show each sink and what waits for it",
        text="Shows how each one gets on.",
    )
    listing.add_argument("--json", action="store_true", help="print one JSON document")
    new_parser(below, "kinds", _kinds, summary="show which types of sinks are installed", text=_KINDS, config=False)
    test = new_parser(below, "test", _test, summary="try a sink's destination", text=_TEST)
    test.add_argument("name", metavar="NAME", help="the sink's name")
    replay = new_parser(below, "replay", _replay, summary="send outcomes again", text=_REPLAY)
    replay.add_argument("--since", metavar="TIME", help="2026-01-31, 2026-01-31T12:00:00Z, or an age: 90m, 12h, 7d")
    replay.add_argument("--sink", metavar="NAME", action="append", help="only this sink; may be repeated")
    replay.add_argument(
        "--dead", action="store_true", help="only messages that were set aside as dead; without --since, all of them"
    )
    enable = new_parser(below, "enable", _enable, summary="call a sink again at once", text=_ENABLE)
    enable.add_argument("name", metavar="NAME", help="the sink's name")
    forget = new_parser(below, "forget", _forget, summary="drop all messages of a sink", text=_FORGET)
    forget.add_argument("name", metavar="NAME", help="the sink's name; it need not be configured any more")
    forget.add_argument("--dead", action="store_true", help="only messages that were set aside as dead")


_KINDS = "Shows the types that 'sinks' in the configuration may name: those of dfwatch and of installed packages."
_TEST = """\
Connects to the sink's destination from this process, with this user's rights, and says what came of it. No outcome is
left there; a webhook and a chat get a message that is marked as a test. Exit status 0: it works; 1: it does not."""
_REPLAY = """\
Queues outcomes again that were published since TIME and pass the sink's filters, dead ones among them. With --dead,
puts back into their old places the messages that were set aside as dead, however old, and nothing else. A running
daemon delivers them within seconds, otherwise the next one does. They carry the keys that they had, so a destination
that knows keys has no second record. Outcomes whose sidecar is no longer where it was are left out and counted. For a
sink that is switched off nothing is queued unless --sink names it."""
_ENABLE = """\
Ends a sink's pause, and calls again a destination that asked not to be called (HTTP status 410)."""
_FORGET = """\
Drops everything that waits for a sink, dead messages too. Meant for a sink that was taken out of the configuration;
with --dead, for messages that nobody wants sent again. Until then retention keeps what they speak of."""


def _list(arguments: argparse.Namespace) -> int:
    from dfwatch.sinks.report import describe, gather

    settings, root = _settings(arguments)
    report = gather(root, settings)
    if arguments.json:
        json.dump(report, sys.stdout, indent=2)
        print()
    elif not report:
        print("no sinks: outcomes are in their sidecars only (see 'sinks' in the configuration)")
    else:
        print("\n".join(line for sink in report for line in describe(sink)))
    return Exit.OK


def _kinds(_arguments: argparse.Namespace) -> int:
    from dfwatch.sinks.registry import classes

    for name, kind in sorted(classes().items()):
        print(f"{name:<12} {(kind.__doc__ or '').strip().partition(chr(10))[0]}".rstrip())
    return Exit.OK


def _test(arguments: argparse.Namespace) -> int:
    from dfwatch.errors import SinkError
    from dfwatch.sinks.registry import build

    settings, _ = _settings(arguments)
    wanted = _named(settings, arguments.name)
    try:
        sink = build(wanted)
        try:
            print(f"{wanted.name}: {printable(sink.probe())}")
        finally:
            sink.close()
    except SinkError as error:
        hint = f" ({error.hint})" if error.hint else ""
        print(f"{wanted.name}: {printable(f'{error.action} {error.subject}: {error.cause}{hint}')}", file=sys.stderr)
        return Exit.FOUND
    return Exit.OK


def _replay(arguments: argparse.Namespace) -> int:
    settings, root = _settings(arguments)
    if arguments.since is None and not arguments.dead:
        raise ConfigError("replaying", "", "neither --since nor --dead says what", hint="--since 12h, or --dead")
    since = "" if arguments.since is None else moment(arguments.since, datetime.now(UTC))
    sinks = [_named(settings, name) for name in arguments.sink or ()]
    if not sinks:
        # What would wait for a sink that is switched off would come out when somebody switches it on, much later.
        sinks = [sink for sink in settings if sink.enabled]
        for name in (sink.name for sink in settings if not sink.enabled):
            print(f"{name}: switched off and left out; '--sink {name}' queues for it", file=sys.stderr)
    queued, lost = _queue_again(root, sinks, since, only_dead=arguments.dead)
    for name, number in queued.items():
        print(f"{name}: {number} queued")
    if lost:
        print(f"{lost} left out: their sidecars are no longer where they were written", file=sys.stderr)
    return Exit.FOUND if lost else Exit.OK


def _queue_again(root: str, sinks: list[SinkSettings], since: str, *, only_dead: bool) -> tuple[dict[str, int], int]:
    """How many messages were queued for each sink, and how many outcomes are not to be found any more."""
    from dfwatch.jobs.outbox import Outbox
    from dfwatch.journal import Journal
    from dfwatch.sinks.filters import wants
    from dfwatch.storage.layout import Layout

    queued = dict.fromkeys((sink.name for sink in sinks), 0)
    path = Layout(root).journal
    if not os.path.exists(path):
        return queued, 0
    journal = Journal(path)
    try:
        outbox = Outbox(journal)
        if only_dead:
            return {name: outbox.revive(name, since) for name in queued}, 0
        lost = 0
        for row, document in _published(journal, since):
            if document is None:
                lost += 1
                continue
            for sink in sinks:
                if wants(sink, document):
                    queued[sink.name] += outbox.replay(
                        sink.name, row.id, document, sidecar=row.sidecar or "", published_at=row.updated_at
                    )
        return queued, lost
    finally:
        journal.close()


def _published(journal: Journal, since: str) -> Iterator[tuple[JobRow, dict[str, Any] | None]]:
    """Jobs with a sidecar, in order of publication, with its content; None where it is not readable any more."""
    from dfwatch.jobs.outbox import Outbox

    outbox = Outbox(journal)
    for row in journal.published_since(since):
        yield row, outbox.document(row.id) or _written(row)


def _written(row: JobRow) -> dict[str, Any] | None:
    """A job's sidecar, if it is still where it was written."""
    try:
        with open(row.sidecar or "", "rb") as stream:
            document = json.loads(stream.read(_LARGEST_SIDECAR_BYTES))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and document.get("job_id") == row.id else None


def _enable(arguments: argparse.Namespace) -> int:
    settings, root = _settings(arguments)
    wanted = _named(settings, arguments.name)
    with _outbox(root) as outbox:
        outbox.enable(wanted.name)
    print(f"{wanted.name}: will be called again")
    return Exit.OK


def _forget(arguments: argparse.Namespace) -> int:
    settings, root = _settings(arguments)
    with _outbox(root) as outbox:
        if arguments.name not in {*(state.name for state in outbox.states()), *(sink.name for sink in settings)}:
            raise StorageError("forgetting the sink", arguments.name, "there is nothing of it", retryable=False)
        print(f"{arguments.name}: {outbox.forget(arguments.name, only_dead=arguments.dead)} messages dropped")
    return Exit.OK


@contextmanager
def _outbox(root: str) -> Iterator[Outbox]:
    """The outbox of a root, for the length of a ``with`` block."""
    from dfwatch.jobs.outbox import Outbox
    from dfwatch.journal import Journal
    from dfwatch.storage.layout import Layout

    path = Layout(root).journal
    if not os.path.exists(path):
        raise StorageError("opening the journal", path, "the daemon was never started here", retryable=False)
    journal = Journal(path)
    try:
        yield Outbox(journal)
    finally:
        journal.close()


def moment(text: str, now: datetime) -> str:
    """A point in time as the journal writes it.

    Raises:
        ConfigError: The text is neither a time nor an age.
    """
    span = _SPAN.fullmatch(text)
    try:
        if span is not None:
            found = now - timedelta(seconds=float(span[1]) * _UNITS_S[span[2]])
        else:
            found = datetime.fromisoformat(text)
            # A time without a zone is this machine's.
            found = found.astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise ConfigError(
            "reading the time",
            text,
            "it is neither a time nor an age",
            hint="2026-01-31T12:00Z, 12h or 7d",
        ) from exc
    return stamp(found)


def _settings(arguments: argparse.Namespace) -> tuple[list[SinkSettings], str]:
    from dfwatch.settings import file as settings_file

    settings = settings_file.load_found(arguments.config).settings
    return settings.sinks, settings.root


def _named(settings: list[SinkSettings], name: str) -> SinkSettings:
    found = next((sink for sink in settings if sink.name == name), None)
    if found is None:
        known = ", ".join(sink.name for sink in settings) or "none"
        raise ConfigError("looking for the sink", name, "it is not in the configuration", hint=f"there: {known}")
    return found
