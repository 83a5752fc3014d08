"""The promise as a state machine: whatever people and machines do, every file dropped whole ends in one place, once.

Runs the real service in processes of its own and kills it for real. A few examples in the suite; more by
``DFWATCH_EXAMPLES=500 pytest tests/reliability/test_state_machine.py --timeout 0 -o faulthandler_timeout=0``.
"""

from __future__ import annotations

import functools
import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from dfwatch.config import OutcomeSettings
from dfwatch.storage.crashpoints import NAMES
from dfwatch.storage.durable import rename_new
from tests.reliability.faults import ERRNOS, OPERATIONS
from tests.reliability.served import below
from tests.reliability.world import World, digest

FILES = st.sampled_from(["a.mp4", "b.mp4", "-c'\n\x1b[1m.mp4", "sub/a.mp4", os.fsdecode(b"caf\xe9.mp4")])
WORDS = st.sampled_from(["fake", "real", "unsure", "noface", "nonsense", "refused", "slow 0.05", "poison"])
VERDICTS = {"fake": "FAKE", "real": "REAL", "unsure": "INCONCLUSIVE", "noface": "NO_FACE", "slow": "FAKE"}
OUTCOMES = st.sampled_from([
    OutcomeSettings(),
    OutcomeSettings(sidecar="beside", verdict_folders=True),
    OutcomeSettings(fake="delete", real="keep", no_face="delete"),
    OutcomeSettings(fake="keep", real="delete", inconclusive="keep", sidecar="beside"),
])  # fmt: skip
HALF = "noface and only half of it"


class BrokenPromise(BaseException):
    """Not an Exception, so that Hypothesis does not try it again: what happens depends on the moment."""


def act(**data: Any) -> Callable[[Callable[..., None]], Any]:
    """As ``rule``; remembers the step, and a failure ends the run with all steps that led to it."""

    def decorate(function: Callable[..., None]) -> Any:
        @functools.wraps(function)
        def step(self: Promise, **drawn: Any) -> None:
            self.steps.append(f"{function.__name__}({', '.join(f'{k}={v!r}' for k, v in drawn.items())})")
            try:
                function(self, **drawn)
            except Exception as error:
                raise BrokenPromise("\n".join([*self.steps, f"{type(error).__name__}: {error}"])) from error

        return rule(**data)(step)

    return decorate


class Promise(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world: World
        self.numbers = itertools.count()
        # What is to be found in the end: files that were dropped whole and not taken away again, by content.
        self.expected: Counter[str] = Counter()
        # Files that are judged and stay in the inbox may be taken away, renamed, or forgotten with the journal: so
        # many more sidecars than files there may be.
        self.told_besides: Counter[str] = Counter()
        self.rewritten: dict[str, str] = {}
        self.writers: list[tuple[int, str]] = []
        self.armed = self.sick = self.was_ready = False
        self.steps: list[str] = []

    # -- what senders do -----------------------------------------------------------------------------------------------

    def content(self, word: str) -> str:
        return f"{word} number {next(self.numbers)}"

    def path(self, name: str) -> Path:
        path = self.world.inbox / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def withdraw(self, path: Path) -> None:
        """Take whatever has this name out of the inbox; what is not there any more was claimed."""
        aside = self.world.folder / f"withdrawn {next(self.numbers)}"
        with suppress(FileNotFoundError):
            os.rename(path, aside)
            content = aside.read_text()
            self.expected[content] -= 1
            self.may_be_told_besides(content)

    def may_be_told_besides(self, content: str) -> None:
        if self.action(content) == "keep":
            self.told_besides[content] += 1

    def action(self, content: str) -> str:
        """What the service is to do with a file of this content."""
        verdict = VERDICTS.get(content.split(maxsplit=1)[0], "")
        return str(getattr(self.world.settings.outcome, verdict.lower(), "move"))

    def put(self, path: Path, content: str) -> None:
        whole = self.world.folder / "whole"
        whole.write_text(content)
        self.withdraw(path)
        # Between the two a slow writer may have taken the name; it is not to lose its file to this one.
        with suppress(FileExistsError):
            os.link(whole, path)
            self.expected[content] += 1
        whole.unlink()

    @act(name=FILES, word=WORDS)
    def rename_in(self, name: str, word: str) -> None:
        path, content = self.path(name), self.content(word)
        self.withdraw(path)
        whole = self.world.folder / "whole"
        whole.write_text(content)
        # The service may put a file back under that name in between.
        with suppress(FileExistsError):
            rename_new(str(whole), str(path))
            self.expected[content] += 1

    @act(name=FILES, word=WORDS)
    def create_whole(self, name: str, word: str) -> None:
        path, content = self.path(name), self.content(word)
        self.withdraw(path)
        with suppress(FileExistsError), path.open("x") as stream:
            stream.write(content)
            self.expected[content] += 1

    @act(name=FILES, word=WORDS, copies=st.integers(2, 3))
    def same_content_under_other_names(self, name: str, word: str, copies: int) -> None:
        content = self.content(word)
        for number in range(copies):
            self.put(self.path(f"{number}-{name.replace('/', '-')}"), content)

    @act(name=FILES, word=WORDS)
    def two_links_of_one_file(self, name: str, word: str) -> None:
        path, content = self.path(name), self.content(word)
        self.put(path, content)
        other = self.world.inbox / f"link {next(self.numbers)}.mp4"
        with suppress(FileNotFoundError):
            os.link(path, other)
            self.expected[other.read_text() if other.exists() else content] += 1

    @act(word=WORDS, count=st.integers(1, 4))
    def move_a_folder_in(self, word: str, count: int) -> None:
        folder = self.world.folder / f"reel {next(self.numbers)}"
        (folder / "inner").mkdir(parents=True)
        for number in range(count):
            content = self.content(word)
            (folder / ("inner" if number % 2 else ".") / f"{number}.mp4").write_text(content)
            self.expected[content] += 1
        os.rename(folder, self.world.inbox / folder.name)

    @precondition(lambda self: len(self.writers) < 2)
    @act(word=WORDS)
    def begin_a_slow_copy(self, word: str) -> None:
        fd = os.open(self.world.inbox / f"slow {next(self.numbers)}.mp4", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(fd, HALF.encode())
        self.writers.append((fd, self.content(word)))

    @precondition(lambda self: self.writers)
    @act()
    def end_a_slow_copy(self) -> None:
        fd, content = self.writers.pop(0)
        os.pwrite(fd, content.encode(), 0)
        os.ftruncate(fd, len(content))
        os.close(fd)
        self.expected[content] += 1

    @act(name=FILES)
    def delete(self, name: str) -> None:
        self.withdraw(self.world.inbox / name)

    @act()
    def rewrite_what_is_in_work(self) -> None:
        for source in sorted((self.world.root / "work").glob("*/source"))[:1]:
            with suppress(FileNotFoundError):
                with source.open("r+") as stream:
                    before = stream.read()
                    if before in self.rewritten.values() or self.expected[before] != 1:
                        return
                    after = self.content(before.rpartition(" number ")[0])
                    stream.seek(0)
                    stream.write(after)
                    stream.truncate()
                self.rewritten[before] = after

    @precondition(lambda self: not self.writers)
    @act()
    def replace_the_inbox(self) -> None:
        old = self.world.folder / f"old inbox {next(self.numbers)}"
        os.rename(self.world.inbox, old)
        time.sleep(0.02)
        self.world.inbox.mkdir(exist_ok=True)  # a start may have been quicker
        for path in sorted(old.rglob("*")):
            if path.is_file():
                # Sent again by hand, each under a name of its own.
                self.may_be_told_besides(path.read_text())
                os.rename(path, self.world.inbox / f"again {next(self.numbers)}.mp4")

    # -- what the machine does -----------------------------------------------------------------------------------------

    @initialize(outcome=OUTCOMES)
    def first_start(self, outcome: OutcomeSettings) -> None:
        self.world = World(outcome=outcome)
        self.steps.append(str(outcome))
        self.start()

    def up(self) -> bool:
        """Whether the service runs; that it ended by itself is only right where it was to be killed."""
        if not self.world.pid:
            return False
        status = self.world.ended()
        if status is None:
            return True
        # A start on a disk that fails ends with an error, and systemd tries again; once it is ready, it goes on.
        failed_to_start = self.sick and not self.was_ready
        assert self.armed or failed_to_start, f"ended with {status}\n{self.world.describe()}"
        return False

    def start(self, crash_at: str = "") -> None:
        self.armed = bool(crash_at)
        self.sick = bool(self.world.faults.state()[0])
        self.was_ready = False
        self.world.start(crash_at)

    def fail(self, *operations: str, number: int) -> None:
        if self.world.pid and self.world.health().get("pid") == self.world.pid:
            self.was_ready = True
        self.sick = True
        self.world.faults.set(*operations, number=number)

    @act(point=st.sampled_from(NAMES), times=st.integers(1, 2))
    def start_to_crash_at(self, point: str, times: int) -> None:
        if self.up():
            self.world.kill()
        self.start(f"{point}:{times}")

    @act(after_s=st.sampled_from([0.0, 0.02, 0.1, 0.2]))
    def kill(self, after_s: float) -> None:
        time.sleep(after_s)
        if self.up():
            self.world.kill()

    @act()
    def restart(self) -> None:
        if self.up():
            # A signal that comes before the service listens to it ends it like any other process.
            assert self.world.stop() in {0, -signal.SIGTERM} or self.armed or self.sick
        self.start()

    @act(how=st.sampled_from(["deleted", "garbage", "truncated"]))
    def lose_the_journal(self, how: str) -> None:
        if self.up():
            self.world.kill()
        for path in below(self.world.inbox):
            # With the journal goes the memory of what was judged and kept.
            self.may_be_told_besides(path.read_text())
        journal = Path(self.world.layout.journal)
        for suffix in ("-wal", "-shm"):
            Path(f"{journal}{suffix}").unlink(missing_ok=True)
        if how == "deleted":
            journal.unlink(missing_ok=True)
        elif journal.exists() and journal.stat().st_size > 8192:
            with journal.open("r+b") as stream:
                if how == "garbage":
                    stream.write(b"this is no database" * 100)
                else:
                    stream.truncate(journal.stat().st_size // 2)

    @act(operation=st.sampled_from(OPERATIONS), error=st.sampled_from(sorted(ERRNOS)))
    def the_disk_fails(self, operation: str, error: str) -> None:
        self.fail(operation, number=ERRNOS[error])

    @act()
    def the_disk_is_full(self) -> None:
        self.fail("mkdir", "create", "fsync", "rename", "journal", number=ERRNOS["ENOSPC"])

    @act()
    def the_disk_recovers(self) -> None:
        self.world.faults.set()

    @act(seconds=st.sampled_from([-86400.0 * 365, -3600.0, 3600.0, 86400.0 * 365]))
    def the_clock_jumps(self, seconds: float) -> None:
        self.world.faults.set(clock_s=seconds)

    @act(seconds=st.sampled_from([0.05, 0.15]))
    def time_passes(self, seconds: float) -> None:
        time.sleep(seconds)

    # -- what must hold ------------------------------------------------------------------------------------------------

    @act()
    def everything_settles(self) -> None:
        self.world.faults.set()
        while self.writers:
            self.end_a_slow_copy()
        # A start that a sick disk may yet end is begun again; a service that was ready has to go on by itself.
        ready = self.was_ready or self.world.health().get("pid") == self.world.pid
        if self.up() and (self.armed or (self.sick and not ready)):
            self.world.kill()
        if not self.up():
            self.start()
        self.world.settle()
        self.check()

    def check(self) -> None:
        world = self.world
        assert not world.complaints.exists(), world.complaints.read_text()
        expected, besides = +self.expected, self.told_besides.copy()
        put_away, in_inbox = world.put_away(), world.contents("inbox")
        sidecars = world.sidecars()
        told = Counter(document["subject"]["sha256"] for document in sidecars.values())
        # A file that was written to after it had been claimed is one file still, of the one or the other content.
        for before, after in self.rewritten.items():
            if not expected[before]:
                continue
            found = put_away[after] + in_inbox[after]
            if found or (self.action(before) == "delete" and told[digest(after)]):
                expected[before] -= 1
                expected[after] += 1
                if told[digest(before)] and not told[digest(after)]:
                    told[digest(before)] -= 1
                    told[digest(after)] += 1
                elif self.action(before) == "keep":
                    # Written to after its verdict, and back in the inbox: a new file, as far as anybody can tell.
                    besides[before] += 1
        expected = +expected
        for content in {*expected, *put_away, *in_inbox}:
            where, count = self.action(content), expected[content]
            assert in_inbox[content] == 0 or where == "keep", f"{content!r} is in the inbox\n{world.describe()}"
            wanted = 0 if where == "delete" else count
            found = put_away[content] + in_inbox[content]
            assert found == wanted, f"{content!r} is there {found} times, not {wanted}\n{world.describe()}"
        words = {digest(content): content for content in [*expected, *besides, *self.rewritten]}
        for number in {*told, *map(digest, expected)}:
            assert number in words or not told[number], f"a sidecar of what nobody dropped whole\n{world.describe()}"
            content = words.get(number, "")
            least, most = expected[content], expected[content] + besides[content]
            assert least <= told[number] <= most, (
                f"{told[number]} sidecars of {content!r}, not {least} to {most}\n{world.describe()}"
            )
        assert len({document["job_id"] for document in sidecars.values()}) == len(sidecars)
        for path, document in sidecars.items():
            word = words[document["subject"]["sha256"]].split()[0]
            assert document["verdict"] == VERDICTS.get(word), (path, document)
        assert set(world.rows()) <= {"done", "failed", "rejected", "quarantined"}
        leftovers = [path for path in below(world.root) if path.name.endswith(".tmp")]
        assert not leftovers

    def teardown(self) -> None:
        try:
            self.everything_settles()
        finally:
            for fd, _ in self.writers:
                os.close(fd)
            self.world.close()


_EXAMPLES = int(os.environ.get("DFWATCH_EXAMPLES", "25"))
Promise.TestCase.settings = settings(
    max_examples=_EXAMPLES,
    stateful_step_count=25,
    deadline=None,
    # What happens depends on the moment, so that a shorter way to the same failure cannot be searched for.
    phases=(Phase.explicit, Phase.generate),
    database=None,
    suppress_health_check=list(HealthCheck),
)
TestPromise = Promise.TestCase
