from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dfwatch.intake import Job
from dfwatch.jobs.backlog import Backlog
from dfwatch.storage.layout import DroppedName


def job(number: int, *, alone: bool = False) -> Job:
    return Job(f"{number:04d}", DroppedName("", f"clip{number}.mp4"), "", "2026-01-01T00:00:00.000Z", alone=alone)


def test_jobs_come_out_in_the_order_of_their_receipt() -> None:
    backlog = Backlog()
    for number in (3, 1, 2):
        backlog.add(job(number))
    assert [taken.id for taken in (backlog.take(0.0), backlog.take(0.0), backlog.take(0.0)) if taken] == [
        "0001",
        "0002",
        "0003",
    ]


def test_a_delayed_job_lets_others_pass_and_then_goes_first() -> None:
    backlog = Backlog()
    backlog.add(job(1), not_before_s=5.0)
    backlog.add(job(2))
    backlog.add(job(3))
    first, second = backlog.take(0.0), backlog.take(5.0)
    assert first is not None
    assert second is not None
    assert (first.id, second.id) == ("0002", "0001")


class BacklogMachine(RuleBasedStateMachine):
    """Every job is taken exactly as often as it was added, and a job that must run alone does."""

    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog()
        self.now_s = 0.0
        self.number = 0
        self.inside: set[str] = set()
        self.running: dict[str, Job] = {}
        self.places_kept: dict[str, float] = {}

    @rule(alone=st.booleans(), delay_s=st.none() | st.floats(0, 10), keeps_place=st.booleans())
    def add(self, alone: bool, delay_s: float | None, keeps_place: bool) -> None:
        self.number += 1
        added = job(self.number, alone=alone)
        self.inside.add(added.id)
        not_before_s = None if delay_s is None else self.now_s + delay_s
        self.backlog.add(added, not_before_s=not_before_s, keeps_place=keeps_place)
        if not_before_s is not None and keeps_place:
            self.places_kept[added.id] = not_before_s

    @rule()
    def take(self) -> None:
        taken = self.backlog.take(self.now_s)
        self.places_kept = {job_id: due_s for job_id, due_s in self.places_kept.items() if due_s > self.now_s}
        if taken is not None:
            assert taken.id in self.inside
            self.inside.discard(taken.id)
            self.running[taken.id] = taken

    @precondition(lambda self: self.running)
    @rule(data=st.data(), again=st.booleans())
    def finish(self, data: st.DataObject, again: bool) -> None:
        ended = self.running.pop(data.draw(st.sampled_from(sorted(self.running))))
        self.backlog.finish(ended.id)
        if again:
            self.inside.add(ended.id)
            self.backlog.add(replace(ended), not_before_s=self.now_s + 1.0)

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @invariant()
    def a_lonely_job_is_alone(self) -> None:
        if any(running.alone for running in self.running.values()):
            assert len(self.running) == 1

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.backlog.running == set(self.running)
        assert self.backlog.waiting + self.backlog.delayed == len(self.inside)

    @invariant()
    def who_keeps_a_place_has_it(self) -> None:
        in_turn = len(self.backlog.running) + self.backlog.waiting
        assert self.backlog.occupied == in_turn + len(self.places_kept)

    def teardown(self) -> None:
        self.now_s += 1000.0
        while self.inside:
            for running in list(self.running):
                self.backlog.finish(running)
                del self.running[running]
            taken = self.backlog.take(self.now_s)
            assert taken is not None, "jobs are left that nobody can ever take"
            self.inside.discard(taken.id)
            self.running[taken.id] = taken


TestBacklog = BacklogMachine.TestCase
