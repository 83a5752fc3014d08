"""What a dead sink costs the others: verdicts through journal, outbox and dispatcher to three sinks.

    python benchmarks/sinks.py [--verdicts 1000]

Three runs: three sinks that work; one of them refuses at once (connection refused); one of them accepts connections and
never answers. Each prints how long the publisher took for all verdicts, how long one verdict took at most, and how many
outcomes each working sink took per second, from the first verdict to its last outcome.
"""

from __future__ import annotations

import argparse
import base64
import os
import random
import socket
import statistics
import tempfile
import time
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING

import structlog

from dfwatch.jobs.dispatcher import Dispatcher
from dfwatch.journal import Journal
from dfwatch.sinks.jsonl import JsonlSettings
from dfwatch.sinks.sqlite import SqliteSettings
from dfwatch.sinks.testing import message, publish
from dfwatch.sinks.webhook import WebhookSettings

if TYPE_CHECKING:
    from dfwatch.config import SinkSettings


def dead_webhook(folder: str, port: int) -> SinkSettings:
    secret = os.path.join(folder, "secret")
    with open(secret, "w", encoding="ascii") as stream:
        stream.write("whsec_" + base64.b64encode(os.urandom(32)).decode())
    return WebhookSettings(
        name="third", url=f"http://127.0.0.1:{port}/", allow_http=True, secret=f"file:{secret}", timeout_s=5.0
    )


def run(what: str, verdicts: int, third: str, where: str) -> dict[str, float]:
    listener = socket.create_server(("127.0.0.1", 0)) if third == "silent" else None
    with tempfile.TemporaryDirectory(dir=where) as folder, closing(listener) if listener else nullcontext():
        port = listener.getsockname()[1] if listener else 1
        sinks: list[SinkSettings] = [
            JsonlSettings(name="jsonl", path=os.path.join(folder, "verdicts.jsonl")),
            SqliteSettings(name="sqlite", path=os.path.join(folder, "verdicts.sqlite3")),
            JsonlSettings(name="third", path=os.path.join(folder, "third.jsonl"))
            if third == "works"
            else dead_webhook(folder, port),
        ]
        path = os.path.join(folder, "journal.sqlite3")
        journal = Journal(path)
        dispatcher = Dispatcher(path, sinks)
        dispatcher.start()
        names = [sink.name for sink in sinks]
        longest_s = 0.0
        began_s = time.monotonic()
        for number in range(verdicts):
            before_s = time.monotonic()
            publish(journal, message(number), names)
            dispatcher.wake()
            longest_s = max(longest_s, time.monotonic() - before_s)
        published_s = time.monotonic() - began_s
        ended_s: dict[str, float] = {}
        watched = names if third == "works" else names[:2]
        while len(ended_s) < len(watched):
            for state in dispatcher.states():
                if state.name in watched and state.delivered == verdicts:
                    ended_s.setdefault(state.name, time.monotonic() - began_s)
            time.sleep(0.01)
        rates = ", ".join(f"{name} {verdicts / ended_s[name]:.0f}/s" for name in watched)
        print(
            f"{what}: published in {published_s:.2f} s (one at most {longest_s * 1000:.0f} ms); taken: {rates}",
            flush=True,
        )
        dispatcher.stop(0.1)
        journal.close()
    return {"published": verdicts / published_s, **{name: verdicts / ended_s[name] for name in names[:2]}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verdicts", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--folder", default=os.getcwd(), help="where journal and files lie; each verdict is synced there"
    )
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    cases = {"works": "three that work", "refuses": "third refuses", "silent": "third never answers"}
    results: dict[str, list[dict[str, float]]] = {third: [] for third in cases}
    for _ in range(arguments.rounds):
        # In another order each time, so that nothing else that runs on the machine favours one.
        for third in random.sample(list(cases), len(cases)):
            results[third].append(run(f"{cases[third]:<19}", arguments.verdicts, third, arguments.folder))
    for third, found in results.items():
        medians = {name: statistics.median(result[name] for result in found) for name in found[0]}
        print(f"median, {cases[third]:<19}: " + ", ".join(f"{name} {rate:.0f}/s" for name, rate in medians.items()))


if __name__ == "__main__":
    main()
