"""``dfwatch status``."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dfwatch.commands import new_parser
from dfwatch.console.exits import Exit
from dfwatch.printable import printable

if TYPE_CHECKING:
    import argparse

    from dfwatch.commands import Subparsers
    from dfwatch.journal import JobRow

_STALE_AFTER_S = 30.0


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
        "--last", metavar="N", type=int, default=5, help="list the last N jobs without a verdict (default: 5)"
    )


def command(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from dfwatch.settings import file as settings_file

    settings = settings_file.load_found(arguments.config).settings
    report = gather(settings.root, arguments.last)
    if arguments.json:
        json.dump(report, sys.stdout, indent=2)
        print()
    else:
        print(describe(report))
    return Exit.OK


def gather(root: str, last: int) -> dict[str, Any]:
    """Everything that is known of a root, from its journal, its health file and its lock."""
    from dfwatch.journal import Journal, State
    from dfwatch.operation import health
    from dfwatch.reasons import Status
    from dfwatch.storage.layout import Layout
    from dfwatch.storage.rootlock import holder_of

    layout = Layout(root)
    pid = holder_of(layout.lock)
    told = health.read(layout.health) if pid is not None else None
    counts: dict[str, int] = {}
    verdicts: dict[str, int] = {}
    unfinished: list[JobRow] = []
    troubled: list[JobRow] = []
    if os.path.exists(layout.journal):
        journal = Journal(layout.journal, read_only=True)
        try:
            counts, verdicts = journal.counts(), journal.verdict_counts()
            unfinished = journal.unfinished()
            troubled = journal.ended(Status.FAILED, Status.REJECTED, Status.QUARANTINED, limit=last)
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
                "age_s": _age_s(row.received_at),
            }
            for row in unfinished
            if row.state is not State.CLOSED
        ],
        "counts": {str(status): counts.get(status, 0) for status in Status},
        "verdicts": verdicts,
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
        age_s = _age_s(daemon["updated_at"])
        if age_s > _STALE_AFTER_S:
            lines.append(f"          has said nothing for {_duration(age_s)}: it may hang")
        lines.append(f"model     {daemon['model']} on {daemon['device']}, {daemon['precision']}")
        lines.append(f"          {daemon['device_reason']}")
        oldest = f", oldest for {_duration(daemon['oldest_wait_s'])}" if daemon["inbox_waiting"] else ""
        lines.append(f"inbox     {daemon['inbox_ready']} ready, {daemon['inbox_waiting']} not complete yet{oldest}")
        lines += [f"          {text}: {daemon[key]}" for key, text in _TROUBLES if daemon[key]]
        lines += [f"          cannot be taken in: {blocked}" for blocked in daemon["blocked"]]
        lines += [f"          problem: {printable(problem)}" for problem in daemon["watch"]["problems"]]
        lines += [f"          no progress: {late}" for late in daemon["late"]]
    work = report["in_work"]
    oldest_s = max((job["age_s"] for job in work), default=0.0)
    lines.append(f"in work   {len(work)}" + (f", oldest for {_duration(oldest_s)}" if work else ""))
    lines += [f"          {printable(job['name'])}: {job['state']}, attempt {job['attempts']}" for job in work[:10]]
    counts, verdicts = report["counts"], report["verdicts"]
    found = ", ".join(f"{number} {verdict}" for verdict, number in sorted(verdicts.items()))
    lines.append(f"done      {counts['done']}" + (f" ({found})" if found else ""))
    lines += [f"{status:<9} {counts[status]}" for status in ("failed", "rejected")]
    lines.append(f"quarantined {counts['quarantined']}")
    if report["without_verdict"]:
        lines.append("last without a verdict:")
        for job in report["without_verdict"]:
            lines.append(f"  {job['job']}  {printable(job['name'])}")
            lines.append(f"    {job['status']}, {job['reason']}: {printable(job['detail'] or '')}")
        lines.append("'dfwatch retry JOB' hands one back to the inbox.")
    return "\n".join(lines)


_TROUBLES = (("paused", "intake paused"), ("trouble", "work waits"), ("deaf", "no file events"))


def _age_s(stamp: str) -> float:
    # Between processes there is only the wall clock; this age is shown, and nothing is decided by it.
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(stamp)).total_seconds())


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
