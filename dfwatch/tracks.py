"""Pure: link the faces of the sampled frames into tracks.

Sampled frames may be seconds apart, so a face may have moved by more than its own size; a track is therefore not
required to overlap from frame to frame. Two sightings are linked when place, size and look together agree; where the
scene has changed in between (a cut), place and size say nothing and the look alone has to agree. Frames are taken in
order of time, and in each the best pairs are linked first, so the result does not depend on the order of detections.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dfwatch.reading import Face, Track

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from dfwatch.reading import Box

LINK_COST = 1.0
# Measured on 25 videos: 97 % of consecutive crops of one person differ less than this, 3 % of those of two people do.
SAME_LOOK = 0.25
# Nobody changes that much from one sampled frame to the next within a scene: another person sits in the same place.
OTHER_LOOK = 2 * SAME_LOOK
MAX_SIZE_RATIO = 3.0
MAX_MISSED_FRAMES = 5


@dataclass(frozen=True, slots=True)
class Sighting:
    """One face with what linking needs to know of it.

    Attributes:
        face: The face.
        look: Descriptor of the crop (``describe_look``), unit length.
        scene: Number of the scene that its frame belongs to.
    """

    face: Face
    look: NDArray[np.float32]
    scene: int


def describe_look(crop: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A cheap descriptor of a face crop (uint8 RGB, square): brightness pattern and colours, float32, unit length.

    Half of it is the mean-free 8 x 8 brightness pattern of the crop's middle, half the square roots of a 4 x 4 x 4
    colour histogram. It tells two people in one video apart where their light, hair or skin differ; it identifies
    nobody.
    """
    side = crop.shape[0]
    middle = crop[side // 8 : side - side // 8, side // 8 : side - side // 8]
    cell = middle.shape[0] // 8
    if 8 * cell == middle.shape[0]:
        # Much quicker, and true of the usual sizes.
        grid = middle.reshape(8, cell, 8, cell, 3).mean(axis=(1, 3, 4), dtype=np.float32)
    else:
        rows = np.array_split(middle.astype(np.float32).mean(axis=2), 8, axis=0)
        grid = np.array([[part.mean() for part in np.array_split(row, 8, axis=1)] for row in rows], np.float32)
    pattern = (grid - grid.mean()).ravel()
    bins = (middle >> 6).astype(np.int32)
    codes = bins[..., 0] * 16 + bins[..., 1] * 4 + bins[..., 2]
    colours = np.sqrt(np.bincount(codes.ravel(), minlength=64).astype(np.float32))
    parts = [part / max(float(np.linalg.norm(part)), 1e-6) for part in (pattern, colours)]
    return np.concatenate(parts).astype(np.float32) / np.float32(np.sqrt(2.0))


def link_cost(last: Sighting, new: Sighting) -> float:
    """How badly two sightings fit together; under ``LINK_COST`` they may be the same face."""
    unlike = 1.0 - float(np.dot(last.look, new.look))
    if last.scene != new.scene:
        return unlike / SAME_LOOK
    first, second = last.face.box, new.face.box
    size_first, size_second = _size(first), _size(second)
    ratio = max(size_first, size_second) / max(min(size_first, size_second), 1e-6)
    if ratio > MAX_SIZE_RATIO or unlike >= OTHER_LOOK:
        return float("inf")
    overlap = intersection_over_union(first, second)
    distance = _distance(first, second) / max(size_first, size_second)
    place = min(distance, 4.0) / 4.0 + 0.25 * (ratio - 1.0)
    # Where the boxes overlap, the look matters less: light and pose change, the person does not.
    return (1.0 - overlap) * (0.5 * place + unlike / SAME_LOOK * 0.75)


def link(frames: Iterable[Sequence[Sighting]]) -> tuple[Track, ...]:
    """Tracks over the frames' faces, numbered by first appearance (within a frame: from left to right).

    Each face is in exactly one track, and no track has two faces of one frame.
    """
    tracks: list[list[Sighting]] = []
    last_seen: list[int] = []
    for number, sightings in enumerate(frames):
        ordered = sorted(sightings, key=lambda s: (s.face.box.x, s.face.box.y, s.face.box.width, s.face.crop_index))
        pairs = sorted(
            (cost, track, position)
            for track, members in enumerate(tracks)
            if number - last_seen[track] <= MAX_MISSED_FRAMES
            for position, sighting in enumerate(ordered)
            if (cost := link_cost(members[-1], sighting)) < LINK_COST
        )
        linked: set[int] = set()
        for _, track, position in pairs:
            if position in linked or last_seen[track] == number:
                continue
            linked.add(position)
            tracks[track].append(ordered[position])
            last_seen[track] = number
        for position, sighting in enumerate(ordered):
            if position not in linked:
                tracks.append([sighting])
                last_seen.append(number)
    return tuple(Track(number, tuple(s.face for s in members)) for number, members in enumerate(tracks))


def intersection_over_union(first: Box, second: Box) -> float:
    """Shared area of two boxes over their joint area, 0 to 1."""
    width = min(first.x + first.width, second.x + second.width) - max(first.x, second.x)
    height = min(first.y + first.height, second.y + second.height) - max(first.y, second.y)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    joint = first.width * first.height + second.width * second.height - shared
    return shared / joint if joint > 0 else 0.0


def _size(box: Box) -> float:
    return max(box.width, box.height)


def _distance(first: Box, second: Box) -> float:
    dx = (first.x + first.width / 2) - (second.x + second.width / 2)
    dy = (first.y + first.height / 2) - (second.y + second.height / 2)
    return float(np.hypot(dx, dy))
