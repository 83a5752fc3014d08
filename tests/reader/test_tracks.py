"""Linking faces into tracks: invariants for any input, and the cases that matter."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dfwatch.reading import Box, Face
from dfwatch.tracks import Sighting, describe_look, intersection_over_union, link

RED, BLUE, GREEN = ((200, 60, 40), (40, 60, 200), (50, 180, 60))


def look(colour: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """The look of a crop with its own pattern and colour."""
    rows = np.random.default_rng(sum(colour)).integers(-60, 60, (8, 8, 1))
    noise = np.random.default_rng(seed).integers(-6, 6, (64, 64, 3))
    crop = np.clip(np.kron(rows, np.ones((8, 8, 1))) + np.array(colour) + noise, 0, 255)
    return describe_look(crop.astype(np.uint8))


def sighting(frame: int, index: int, box: Box, colour: tuple[int, int, int] = RED, scene: int = 0) -> Sighting:
    return Sighting(Face(frame, frame * 1.0, box, 0.9, index), look(colour, index), scene)


boxes = st.builds(
    Box, x=st.floats(-50, 2000), y=st.floats(-50, 1000), width=st.floats(1, 500), height=st.floats(1, 500)
)


@st.composite
def videos(draw: st.DrawFn) -> list[list[Sighting]]:
    frames = []
    index = 0
    scene = 0
    for frame in range(draw(st.integers(0, 12))):
        scene += draw(st.booleans())
        row = []
        for _ in range(draw(st.integers(0, 5))):
            row.append(sighting(frame, index, draw(boxes), draw(st.sampled_from([RED, BLUE, GREEN])), scene))
            index += 1
        frames.append(row)
    return frames


@given(videos(), st.randoms(use_true_random=False))
def test_invariants(frames: list[list[Sighting]], shuffler: random.Random) -> None:
    tracks = link(frames)

    linked = sorted(face.crop_index for track in tracks for face in track.faces)
    assert linked == sorted(s.face.crop_index for row in frames for s in row), "each face is in exactly one track"
    assert [track.id for track in tracks] == list(range(len(tracks)))
    for track in tracks:
        assert track.faces
        assert all(a.frame_index < b.frame_index for a, b in pairwise(track.faces)), "one face of a frame, in order"
    first_seen = [track.faces[0].frame_index for track in tracks]
    assert first_seen == sorted(first_seen), "numbered by first appearance"

    for row in frames:
        shuffler.shuffle(row)
    assert link(frames) == tracks, "the order of detections does not matter"


def test_a_face_that_moves_by_more_than_its_size_stays_one_track() -> None:
    frames = [[sighting(n, n, Box(100 + 90 * n, 100, 80, 100))] for n in range(6)]
    assert [len(track.faces) for track in link(frames)] == [6]


def test_two_people_side_by_side_stay_apart() -> None:
    frames = [
        [
            sighting(n, 2 * n, Box(100 + 5 * n, 100, 80, 100), RED),
            sighting(n, 2 * n + 1, Box(300 - 5 * n, 100, 80, 100), BLUE),
        ]
        for n in range(8)
    ]
    tracks = link(frames)
    assert [[face.crop_index % 2 for face in track.faces] for track in tracks] == [[0] * 8, [1] * 8]


def test_a_cut_to_another_person_in_the_same_place_makes_a_new_track() -> None:
    box = Box(100, 100, 80, 100)
    frames = [[sighting(n, n, box, RED if n < 4 else BLUE, scene=int(n >= 4))] for n in range(8)]
    assert [len(track.faces) for track in link(frames)] == [4, 4]


def test_the_same_person_after_a_cut_and_back_is_one_track() -> None:
    colours = [RED, RED, BLUE, BLUE, RED, RED]
    scenes = [0, 0, 1, 1, 2, 2]
    frames = [[sighting(n, n, Box(100 + 300 * (n % 2), 90, 80, 100), colours[n], scenes[n])] for n in range(6)]
    assert [[face.crop_index for face in track.faces] for track in link(frames)] == [[0, 1, 4, 5], [2, 3]]


def test_a_face_not_found_for_a_while_is_taken_up_again() -> None:
    frames = [[] if n in {2, 3} else [sighting(n, n, Box(100, 100, 80, 100))] for n in range(6)]
    assert [len(track.faces) for track in link(frames)] == [4]


@given(boxes, boxes)
def test_overlap_is_a_share(first: Box, second: Box) -> None:
    shared = intersection_over_union(first, second)
    assert 0.0 <= shared <= 1.0 + 1e-9
    assert shared == intersection_over_union(second, first)
    assert abs(intersection_over_union(first, first) - 1.0) < 1e-6
