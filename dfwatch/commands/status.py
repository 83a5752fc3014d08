"""``dfwatch status``."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from dfwatch.commands import new_parser
from dfwatch.console.exits import Exit
from dfwatch.console.ranges import in_range
from dfwatch.console.text import age_s, duration
from dfwatch.printable import printable

if TYPE_CHECKING:
    import argparse

    from dfwatch.commands import Subparsers
    from dfwatch.config import Settings
    from dfwatch.journal import JobRow

_STALE_AFTER_S: Final = 30.0
_WATCH_INTERVAL_S: Final = 1.0
_WATCH_LEAST_S: Final = 0.1
_WATCH_MOST_S: Final = 3600
_RECENT: Final = 100
_MOST_LISTED: Final = 1_000_000


def add_parser(commands: Subparsers) -> None:
    """Describe the command."""
    parser = new_parser(
        commands,
        "status",
        command,
        summary="show what is waiting, in work, done and failed",
        text="Shows what the daemon is doing and what it has done, from its journal. Works while the daemon runs, and\n"
        "when it does not.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        type=in_range(float, _WATCH_LEAST_S, _WATCH_MOST_S, "number of seconds"),
        const=_WATCH_INTERVAL_S,
        help="show it at the terminal until Ctrl-C, anew every SECONDS (0.1 to 3600, default: 1); "
        "with --json, one line each time",
    )
    parser.add_argument(
        "--last",
        metavar="N",
        type=in_range(int, 0, _MOST_LISTED),
        default=5,
        help=f"list the last N jobs without a verdict (0 to {_MOST_LISTED}, default: 5)",
    )


def command(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from dfwatch.settings import file as settings_file

    settings = settings_file.load_found(arguments.config).settings
    if arguments.watch is not None:
        return _watch(settings, arguments.last, arguments.watch, as_json=arguments.json)
    report = _report(settings, arguments.last)
    if arguments.json:
        json.dump(report, sys.stdout, indent=2)
        print()
    else:
        print(describe(report))
    return Exit.OK


def _report(settings: Settings, last: int) -> dict[str, Any]:
    """Everything that is known of the configured root, its sinks included."""
    from dfwatch.sinks.report import gather as gather_sinks

    return {**gather(settings.root, last), "sinks": gather_sinks(settings.root, settings.sinks)}


def _watch(settings: Settings, last: int, interval_s: float, *, as_json: bool) -> int:
    from dfwatch.console.dashboard import Screen
    from dfwatch.console.live import redraw
    from dfwatch.console.terminal import wants_colour

    if as_json:
        try:
            while True:
                print(json.dumps(_report(settings, last)), flush=True)
                time.sleep(interval_s)
        except KeyboardInterrupt:
            return Exit.OK
    if not sys.stdout.isatty():
        print("dfwatch status --watch: this is not a terminal; use --json --watch for a program", file=sys.stderr)
        return Exit.USAGE
    screen, rates = Screen(coloured=wants_colour(sys.stdout)), _Rates()

    def frame(columns: int, rows: int) -> list[str]:
        report = gather(settings.root, last)
        rates.add(sum(report["counts"].values()))
        return screen.lines(report, rates.per_minute, columns, rows)

    redraw(sys.stdout, frame, interval_s)
    return Exit.OK


class _Rates:
    """Files per minute between one look and the next."""

    def __init__(self) -> None:
        self.per_minute: list[float] = []
        self._before: tuple[float, int] | None = None

    def add(self, ended: int) -> None:
        """So many files have come to their end by now."""
        now_s = time.monotonic()
        if self._before is not None:
            then_s, count = self._before
            self.per_minute.append(max(0, ended - count) * 60.0 / max(0.01, now_s - then_s))
            del self.per_minute[:-300]
        self._before = (now_s, ended)


def gather(root: str, last: int) -> dict[str, Any]:
    """Everything that is known of a root, from its journal, its health file and its lock."""
    from dfwatch.journal import Journal, State
    from dfwatch.operation import health
    from dfwatch.reasons import Status
    from dfwatch.storage.layout import Layout
    from dfwatch.storage.rootlock import holder_of

    layout = Layout(root)
    pid = holder_of(layout.lock)
    told = health.read(layout.health, of=pid) if pid is not None else None
    counts: dict[str, int] = {}
    verdicts: dict[str, int] = {}
    unfinished: list[JobRow] = []
    troubled: list[JobRow] = []
    recent: list[JobRow] = []
    if os.path.exists(layout.journal):
        journal = Journal(layout.journal, read_only=True)
        try:
            counts, verdicts = journal.counts(), journal.verdict_counts()
            unfinished = journal.unfinished()
            troubled = journal.ended(Status.FAILED, Status.REJECTED, Status.QUARANTINED, limit=last)
            recent = journal.ended(*Status, limit=_RECENT)
        finally:
            journal.close()
    return {
        "root": root,
        "running": pid is not None,
        "pid": pid,
        "daemon": told,
        "in_work": [
            {
                "job": row.id,
                "name": row.dropped.shown,
                "state": str(row.state),
                "attempts": row.attempts,
                "age_s": age_s(row.received_at),
            }
            for row in unfinished
            if row.state is not State.CLOSED
        ],
        "counts": {str(status): counts.get(status, 0) for status in Status},
        "verdicts": verdicts,
        "recent": [
            {
                "job": row.id,
                "name": row.dropped.shown,
                "status": str(row.status),
                "verdict": row.verdict,
                "p_fake": row.p_fake,
                "reason": row.reason,
                "updated_at": row.updated_at,
            }
            for row in recent
        ],
        "without_verdict": [
            {
                "job": row.id,
                "name": row.dropped.shown,
                "status": str(row.status),
                "reason": row.reason,
                "detail": row.detail,
                "file": None if row.media is None else printable(row.media),
            }
            for row in troubled
        ],
    }


def describe(report: dict[str, Any]) -> str:
    """The report for a person."""
    from dfwatch.sinks.report import describe as describe_sink

    lines = [f"root      {printable(report['root'])}"]
    daemon = report["daemon"]
    if not report["running"]:
        lines.append("daemon    not running")
    elif daemon is None:
        lines.append(f"daemon    starting (pid {report['pid']})")
    else:
        lines.append(
            f"daemon    running since {daemon['started_at']} (pid {report['pid']}, dfwatch {daemon['version']})"
        )
        silent_s = age_s(daemon["updated_at"])
        if silent_s > _STALE_AFTER_S:
            lines.append(f"          has said nothing for {duration(silent_s)}: it may hang")
        lines.append(f"model     {daemon['model']} on {daemon['device']}, {daemon['precision']}")
        lines.append(f"          {daemon['device_reason']}")
        oldest = f", oldest for {duration(daemon['oldest_wait_s'])}" if daemon["inbox_waiting"] else ""
        lines.append(f"inbox     {daemon['inbox_ready']} ready, {daemon['inbox_waiting']} not complete yet{oldest}")
        lines += [f"          {text}: {daemon[key]}" for key, text in _TROUBLES if daemon[key]]
        lines += [f"          cannot be taken in: {blocked}" for blocked in daemon["blocked"]]
        lines += [f"          problem: {printable(problem)}" for problem in daemon["watch"]["problems"]]
        lines += [f"          no progress: {late}" for late in daemon["late"]]
    work = report["in_work"]
    oldest_s = max((job["age_s"] for job in work), default=0.0)
    lines.append(f"in work   {len(work)}" + (f", oldest for {duration(oldest_s)}" if work else ""))
    lines += [f"          {printable(job['name'])}: {job['state']}, attempt {job['attempts']}" for job in work[:10]]
    counts, verdicts = report["counts"], report["verdicts"]
    found = ", ".join(f"{number} {verdict}" for verdict, number in sorted(verdicts.items()))
    lines.append(f"done      {counts['done']}" + (f" ({found})" if found else ""))
    lines += [f"{status:<9} {counts[status]}" for status in ("failed", "rejected")]
    lines.append(f"quarantined {counts['quarantined']}")
    for sink in report.get("sinks", []):
        first, *rest = describe_sink(sink)
        lines += [f"sink      {first}", *(f"        {line}" for line in rest)]
    if report["without_verdict"]:
        lines.append("last without a verdict:")
        for job in report["without_verdict"]:
            lines.append(f"  {job['job']}  {printable(job['name'])}")
            lines.append(f"    {job['status']}, {job['reason']}: {printable(job['detail'] or '')}")
        lines.append("'dfwatch retry JOB' hands one back to the inbox.")
    return "\n".join(lines)


_TROUBLES = (("paused", "intake paused"), ("trouble", "work waits"), ("deaf", "no file events"))
