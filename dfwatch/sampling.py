"""Pure: what is known of a video's frames → which frames to decode, and how to reach them.

The playing time is cut into N equal slices and one frame is taken from each. In ``planned`` mode any frame of a slice
will do, so the planner takes the one that costs least: a key frame costs one decoded frame however long the video is,
any other frame costs the frames between it and the key frame before it. Where many such stretches would have to be
decoded anyway, reading straight through is cheaper, and then the frame at the middle of each slice is taken. ``exact``
always takes the frame at the middle. Same input, same plan.

Costs are counted in decoded frames. The constants were chosen by measurement on H.264, HEVC, VP9 and AV1 clips.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

# A seek empties the decoder's pipeline and makes the demuxer read anew; a key frame is larger than the others.
SEEK_COST = 2.0
KEY_COST = 2.0
# A run of frames to which no other frame refers is seldom longer than this; where one is, the sampler notices.
REFERENCE_FRAMES = 8
WORTH_HOPPING = 0.85
# Time stamps are exact; this only covers the rounding of their division into seconds. Whoever plans and whoever takes a
# frame at the very edge of two slices must think alike.
SLACK_S = 1e-5


class FrameIndex(Protocol):
    """What a container says of its frames; times are seconds from the first frame, in presentation order."""

    @property
    def duration_s(self) -> float:
        """Playing time covered by the index, in seconds."""
        ...

    def count(self, start_s: float, end_s: float) -> int:
        """Number of frames with start_s <= time < end_s (an estimate where the container does not list them)."""
        ...

    def surely_shows(self, start_s: float, end_s: float) -> bool:
        """Whether a frame with start_s <= time < end_s is shown for certain, and not by an estimate."""
        ...

    def key_nearest(self, start_s: float, middle_s: float, end_s: float) -> float | None:
        """Time of the key frame in [start_s, end_s) that is nearest to ``middle_s``; None where there is none."""
        ...

    def key_before(self, time_s: float) -> float:
        """Time of the last key frame at or before ``time_s``; the first frame's time where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class ListedFrames:
    """An index of which every frame, or every key frame, is listed.

    Attributes:
        times_s: Times of all frames in presentation order; empty when only key frames are listed.
        key_times_s: Times of the key frames, ascending.
        duration_s: Playing time in seconds.
        frames_per_s: Used to estimate counts when ``times_s`` is empty.
    """

    times_s: Sequence[float]
    key_times_s: Sequence[float]
    duration_s: float
    frames_per_s: float = 0.0

    def count(self, start_s: float, end_s: float) -> int:
        """As ``FrameIndex.count``."""
        if not self.times_s:
            span_s = max(0.0, min(end_s, self.duration_s) - start_s)
            # Any stretch, however short, may hold a frame.
            return max(round(span_s * self.frames_per_s), int(span_s > 0))
        return bisect_left(self.times_s, end_s) - bisect_left(self.times_s, start_s)

    def surely_shows(self, start_s: float, end_s: float) -> bool:
        """As ``FrameIndex.surely_shows``."""
        return bool(self.times_s) and self.count(start_s, end_s) > 0

    def key_nearest(self, start_s: float, middle_s: float, end_s: float) -> float | None:
        """As ``FrameIndex.key_nearest``."""
        first, last = bisect_left(self.key_times_s, start_s), bisect_left(self.key_times_s, end_s)
        after = bisect_left(self.key_times_s, middle_s, first, last)
        keys = [self.key_times_s[position] for position in (after - 1, after) if first <= position < last]
        return min(keys, key=lambda time: abs(time - middle_s)) if keys else None

    def key_before(self, time_s: float) -> float:
        """As ``FrameIndex.key_before``."""
        position = bisect_right(self.key_times_s, time_s)
        return self.key_times_s[position - 1] if position else 0.0


@dataclass(frozen=True, slots=True)
class Pick:
    """One frame to be taken.

    Attributes:
        slice_index: Which slice of the playing time, from 0.
        start_s: Start of the slice.
        end_s: End of the slice; the last slice's end is open.
        target_s: The first good frame at or after this time is taken, or else the last one of the slice before it.
        key_s: Seek to the key frame at this time first; None: decode on from where the decoder stands.
        due: Whether the slice holds a frame for certain, so that to find none is a failure.
    """

    slice_index: int
    start_s: float
    end_s: float
    target_s: float
    key_s: float | None = None
    due: bool = False

    @property
    def is_key(self) -> bool:
        """Whether the frame that is wanted is itself a key frame that is sought."""
        return self.key_s is not None and self.key_s == self.target_s


@dataclass(frozen=True, slots=True)
class Plan:
    """Which frames to take and how.

    Attributes:
        strategy: ``sequential``, ``seek`` or ``keyframes``; ``exact`` when that was asked for.
        picks: In order of time.
        hops: Whether the picks are reached by seeking (else by decoding straight through).
        reference_only: Whether the decoder may leave out frames to which no other frame refers.
        cost: Estimate, in decoded frames.
    """

    strategy: str
    picks: tuple[Pick, ...]
    hops: bool
    reference_only: bool
    cost: float


def slice_bounds(duration_s: float, slices: int) -> list[tuple[float, float]]:
    """``slices`` equal parts of the playing time; the last one is open towards later frames."""
    edges = [duration_s * i / slices for i in range(slices)] + [float("inf")]
    return list(pairwise(edges))


def plan_sample(index: FrameIndex, frames: int, mode: str = "planned", *, skippable_share: float = 0.0) -> Plan:
    """Plan the cheapest sample of ``frames`` frames.

    Args:
        index: The video's frames; its duration must be positive.
        frames: Frames wanted, one for each slice; slices in which no frame begins are left out.
        mode: ``planned`` or ``exact``.
        skippable_share: Share of the frames that the decoder can leave out because no other frame refers to them.
    """
    duration = index.duration_s
    bounds = [
        (number, start, end)
        for number, (start, end) in enumerate(slice_bounds(duration, frames))
        if index.count(*_looked_up(start, end, duration)) > 0
    ]
    exact = mode == "exact"
    step = duration / frames
    # Among few frames, a slice may hold none to which others refer.
    reference_only = not exact and all(
        index.count(*_looked_up(start, end, duration)) >= REFERENCE_FRAMES for _, start, end in bounds
    )
    through = tuple(
        Pick(number, start, end, start + step / 2, due=index.surely_shows(*_looked_up(start, end, duration)))
        for number, start, end in bounds
    )
    rolled = 1.0 - skippable_share if reference_only else 1.0
    through_cost = rolled * (index.count(0.0, through[-1].target_s) + 1) if through else 0.0
    hops, hops_cost = _plan_hops(index, through, rolled, exact=exact)
    # Hops that decode nearly everything anyway are no gain, and the middle of a slice is the better frame.
    if hops_cost < WORTH_HOPPING * through_cost:
        every_key = all(pick.is_key for pick in hops)
        strategy = "exact" if exact else "keyframes" if every_key else "seek"
        return Plan(strategy, hops, hops=True, reference_only=reference_only, cost=hops_cost)
    strategy = "exact" if exact else "sequential"
    return Plan(strategy, through, hops=False, reference_only=reference_only, cost=through_cost)


def _looked_up(start_s: float, end_s: float, duration_s: float) -> tuple[float, float]:
    """Bounds by which an index tells what is in a slice."""
    return start_s - SLACK_S, min(end_s - SLACK_S, duration_s)


def _plan_hops(
    index: FrameIndex, middles: tuple[Pick, ...], rolled: float, *, exact: bool
) -> tuple[tuple[Pick, ...], float]:
    picks: list[Pick] = []
    total = 0.0
    # Time up to which the decoder has decoded without a gap, or None when its last frame was a lone key frame.
    position: float | None = None
    for pick in middles:
        start = pick.start_s
        first, last = _looked_up(start, pick.end_s, index.duration_s)
        key = None if exact else index.key_nearest(first, pick.target_s, last)
        if key is not None:
            picks.append(replace(pick, target_s=key, key_s=key))
            total += SEEK_COST + KEY_COST
            position = key
            continue
        target = pick.target_s if exact else start
        before = index.key_before(target)
        seek_cost = SEEK_COST + KEY_COST + rolled * index.count(before, target)
        # Going on is only possible within the same group of pictures or through later ones.
        go_on_cost = rolled * index.count(position, target) if position is not None else float("inf")
        if go_on_cost <= seek_cost:
            picks.append(replace(pick, target_s=target))
            total += go_on_cost
        else:
            picks.append(replace(pick, target_s=target, key_s=before))
            total += seek_cost
        position = target
    return tuple(picks), total


def plan_blind(duration_s: float, frames: int) -> Plan:
    """A plan for a long video that lists no frames: look for a key frame from the start of each slice on."""
    picks = tuple(
        Pick(number, start, end, start, start) for number, (start, end) in enumerate(slice_bounds(duration_s, frames))
    )
    return Plan("seek", picks, hops=True, reference_only=True, cost=float(frames) * (SEEK_COST + KEY_COST))
