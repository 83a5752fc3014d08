"""The planner's promises, for any index: one pick for each slice that has a frame, in order, and never dear."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfwatch.decode.frame_index import EntryTimes
from dfwatch.sampling import KEY_COST, SEEK_COST, SLACK_S, ListedFrames, plan_blind, plan_sample, slice_bounds


@st.composite
def indexes(draw: st.DrawFn) -> ListedFrames:
    gaps = draw(st.lists(st.floats(0.01, 2.0), min_size=1, max_size=300))
    times = [0.0]
    for gap in gaps:
        times.append(times[-1] + gap)
    every = draw(st.integers(1, 80))
    keys = draw(st.sampled_from(["regular", "first", "all"]))
    key_times = {"regular": times[::every], "first": times[:1], "all": times}[keys]
    return ListedFrames(times, key_times, times[-1] + draw(st.floats(0.01, 1.0)))


@given(indexes(), st.integers(1, 40), st.sampled_from(["planned", "exact"]))
def test_one_pick_for_each_slice_with_a_frame(index: ListedFrames, frames: int, mode: str) -> None:
    plan = plan_sample(index, frames, mode, skippable_share=0.4)

    occupied = {
        number
        for number, (start, end) in enumerate(slice_bounds(index.duration_s, frames))
        if any(start - SLACK_S <= time < end - SLACK_S for time in index.times_s)
    }
    assert [pick.slice_index for pick in plan.picks] == sorted(occupied)
    for pick in plan.picks:
        assert pick.start_s - SLACK_S <= pick.target_s < pick.end_s
        assert pick.key_s is None or pick.key_s <= pick.target_s
        assert pick.key_s is None or pick.key_s in index.key_times_s or pick.key_s == 0.0


@given(indexes(), st.integers(1, 40), st.sampled_from(["planned", "exact"]))
def test_never_dearer_than_reading_through(index: ListedFrames, frames: int, mode: str) -> None:
    plan = plan_sample(index, frames, mode)
    assert plan.cost <= len(index.times_s) + 1


@given(indexes(), st.integers(1, 40))
def test_no_pick_costs_more_than_one_group_of_pictures(index: ListedFrames, frames: int) -> None:
    plan = plan_sample(index, frames)
    keys = [*index.key_times_s, math.inf]
    longest = max(index.count(a, b) for a, b in pairwise(keys))
    step = index.duration_s / frames
    for pick in plan.picks:
        if plan.hops and pick.key_s is not None:
            assert index.count(pick.key_s, pick.target_s) <= longest
    assert not plan.hops or plan.cost <= len(plan.picks) * (SEEK_COST + KEY_COST + longest)
    assert step > 0


@given(indexes(), st.integers(1, 40))
def test_the_same_input_gives_the_same_plan(index: ListedFrames, frames: int) -> None:
    assert plan_sample(index, frames) == plan_sample(index, frames)


def regular(seconds: float, fps: int, key_every: int) -> ListedFrames:
    times = [n / fps for n in range(round(seconds * fps))]
    return ListedFrames(times, times[::key_every], seconds)


@pytest.mark.parametrize(
    ("index", "strategy"),
    [
        (regular(10, 30, 250), "sequential"),
        (regular(600, 30, 250), "keyframes"),
        (regular(7200, 30, 250), "keyframes"),
        (regular(60, 30, 250), "seek"),
        (regular(10, 30, 1), "keyframes"),
    ],
)
def test_strategies(index: ListedFrames, strategy: str) -> None:
    assert plan_sample(index, 20).strategy == strategy
    assert plan_sample(index, 20, "exact").strategy == "exact"


def test_a_long_video_costs_no_more_than_a_short_one() -> None:
    assert plan_sample(regular(7200, 30, 60), 20).cost <= plan_sample(regular(60, 30, 60), 20).cost


def test_key_frames_alone_may_be_listed() -> None:
    index = ListedFrames((), [0.0, 2.0, 4.0, 6.0, 8.0], 10.0, 25.0)
    plan = plan_sample(index, 5)
    assert plan.strategy == "keyframes"
    assert index.count(0.0, 4.0) == 100


def test_frames_that_no_other_needs_are_left_out_only_where_there_are_enough() -> None:
    assert plan_sample(regular(10, 30, 250), 20).reference_only
    assert not plan_sample(regular(3, 30, 250), 20).reference_only
    assert not plan_sample(regular(10, 30, 250), 20, "exact").reference_only


def test_blind() -> None:
    plan = plan_blind(100.0, 4)
    assert [(pick.start_s, pick.end_s) for pick in plan.picks] == [(0, 25), (25, 50), (50, 75), (75, math.inf)]


@given(indexes(), st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3))
def test_the_nearest_key_frame_is_the_nearest(index: ListedFrames, shares: list[float]) -> None:
    start_s, middle_s, end_s = (share * index.duration_s for share in sorted(shares))
    within = [time for time in index.key_times_s if start_s <= time < end_s]
    nearest = min(within, key=lambda time: abs(time - middle_s)) if within else None
    assert index.key_nearest(start_s, middle_s, end_s) == nearest


@given(st.lists(st.integers(-50, 5000), max_size=60), st.integers(0, 40), st.floats(0.0, 60.0))
def test_looked_up_entries_are_those_within_the_playing_time(stamps: list[int], start: int, duration_s: float) -> None:
    entries = [SimpleNamespace(timestamp=stamp) for stamp in sorted(stamps)]
    times = EntryTimes(entries, start, 0.01, duration_s)  # type: ignore[arg-type] # as a demuxer's list
    expected = [time for time in ((stamp - start) * 0.01 for stamp in sorted(stamps)) if 0 <= time <= duration_s]
    assert list(times) == expected
    assert times[1:4] == expected[1:4]
    assert [times[-position] for position in range(1, len(times) + 1)] == expected[::-1]
