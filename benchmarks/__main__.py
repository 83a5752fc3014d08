"""``python -m benchmarks``: how fast dfwatch is, and against what.

    python -m benchmarks                             everything; about 20 minutes, once the clips are made
    python -m benchmarks --only older forward        some cases
    python -m benchmarks --quick                     tiny clips, one round: tries out the harness, gives no figures
    python -m benchmarks --docs docs/performance.md  fills that page's tables and plots

Figures mean something on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import machine, report, tables
from benchmarks.clips import ClipStore
from benchmarks.context import Context
from benchmarks.models import OLDER, SHIPPED, models
from benchmarks.results import Report, Skipped

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.results import Result

CASES = {
    "older": ("benchmarks.cases.older", "a warm daemon against the older pipeline, clip by clip"),
    "length": ("benchmarks.cases.length", "a 2-hour file beside a 1-minute file: time and memory"),
    "throughput": ("benchmarks.cases.throughput", "a folder of mixed clips against reading and scoring alone"),
    "overhead": ("benchmarks.cases.overhead", "what is added to one file's way, and to each of very many"),
    "forward": ("benchmarks.cases.forward", "scoring against a bare forward loop"),
    "start": ("benchmarks.cases.start", "to READY, and light commands"),
    "quality": ("benchmarks.cases.quality", "planned against exact sampling on labelled videos"),
    "engines": ("benchmarks.engines", "processor time of a crop, by engine, precision and batch size"),
    "cuda": ("benchmarks.cuda", "frames a second on a CUDA device"),
}
_FOLDER = Path("build/benchmarks")


def main(arguments: list[str] | None = None) -> int:
    """Run the cases; returns 1 if one failed to run, not if a target was missed: that is a finding."""
    options = _parser().parse_args(arguments)
    # Daemons and folders must not be left behind by a run that is ended from outside.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    found = Report({**machine.facts(), "load before": f"{_quiet_enough(insist=options.insist):.2f}"})
    options.out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=options.out))
    began_s = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began_s:7.1f} s  {text}", file=sys.stderr, flush=True)

    try:
        context = Context(
            folder=folder.resolve(),
            clips=ClipStore(options.clips.resolve()),
            models=models(options.models, options.clips.resolve()),
            rounds=1 if options.quick else options.rounds,
            files=4 if options.quick else options.files,
            tiny_files=50 if options.quick else options.tiny_files,
            labelled=options.labelled,
            quick=options.quick,
            say=say,
        )
        for name in options.only:
            say(f"case {name}: {CASES[name][1]}")
            _run(name, context, found)
            report.write(found, options.out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    facts = {**found.facts, "load after": f"{machine.load():.2f}", "took": f"{time.monotonic() - began_s:.0f} s"}
    found = replace(found, facts=facts)
    print(tables.document(found))
    for path in report.write(found, options.out):
        print(path)
    if options.docs:
        print(f"{options.docs}: filled {', '.join(report.fill(options.docs, found)) or 'nothing'}")
    return 1 if found.failed else 0


def _run(name: str, context: Context, found: Report) -> None:
    began_s = time.monotonic()
    try:
        module = importlib.import_module(CASES[name][0])
        run: Callable[[Context], Result] = module.run
        found.results[name] = run(context)
    except Skipped as why:
        found.skipped[name] = str(why)
    except Exception as error:  # noqa: BLE001 - what the other cases found must not be lost with it
        traceback.print_exc()
        found.failed[name] = f"{type(error).__name__}: {error}"
    found.took_s[name] = time.monotonic() - began_s


def _quiet_enough(*, insist: bool) -> float:
    load = machine.load()
    if load > machine.BUSY_LOAD:
        text = f"the machine is busy (load {load:.2f}): ratios of things measured one after the other mean little"
        if insist:
            raise SystemExit(f"benchmarks: {text}")
        print(f"{'!' * 100}\nWARNING: {text}\n{'!' * 100}", file=sys.stderr, flush=True)
    return load


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="cases:\n" + "\n".join(f"  {name:11} {what}" for name, (_, what) in CASES.items()),
    )
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="CASE", default=list(CASES), help="some cases")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions of short measurements (default: 3)")
    parser.add_argument("--files", type=int, default=200, help="clips in the folder of 'throughput' (default: 200)")
    parser.add_argument("--tiny-files", type=int, default=10_000, help="files of 'overhead' (default: 10000)")
    parser.add_argument("--models", nargs="+", choices=[SHIPPED, OLDER], default=[SHIPPED, OLDER], help="which models")
    parser.add_argument("--labelled", type=Path, help="a folder of videos, with labels.csv, for 'quality'")
    parser.add_argument("--quick", action="store_true", help="try out the harness in a minute; gives no figures")
    parser.add_argument("--insist", action="store_true", help="refuse to run on a busy machine, instead of warning")
    parser.add_argument("--out", type=Path, default=_FOLDER, help=f"where results go (default: {_FOLDER})")
    parser.add_argument("--clips", type=Path, default=_FOLDER / "clips", help="where clips are kept from run to run")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="fill this page's marked sections")
    return parser


if __name__ == "__main__":
    os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder says a page of things otherwise
    sys.exit(main())
