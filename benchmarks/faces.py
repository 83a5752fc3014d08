"""At which size should faces be searched? Found faces and time against the longer side of the searched picture.

    python -m benchmarks.faces FOLDER [FOLDER ...]

Twenty frames of each video are searched at every size. What is found at two sizes or more counts as a face; the table
says how many of these each size finds, how many it finds alone, and what one frame costs on one core. The last lines
are the search as the reader does it (``faces.FaceSearch``: full size now and then, half size in between).
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from dfwatch.config import FaceSettings, ReaderSettings
from dfwatch.decode.scenes import SceneCounter
from dfwatch.errors import MediaError
from dfwatch.faces import FaceFinder, FaceSearch
from dfwatch.reading import Box
from dfwatch.tracks import intersection_over_union
from dfwatch.video import Video

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZES_PX = (224, 320, 384, 448, 512, 640, 800, 960, 1280)
READER_SIZES_PX = (384, 448, 512, 640)
SAME_FACE = 0.35
ENDINGS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".flv", ".ts", ".3gp"}


@dataclass
class Cost:
    """What one size found, in all frames."""

    found: int = 0
    alone: int = 0
    frames_with: int = 0
    spent_s: float = 0.0
    frames: int = 0


@dataclass
class Frame:
    """One frame at every size."""

    large: NDArray[np.uint8]
    boxes: dict[str, list[Box]] = field(default_factory=dict)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    settings = FaceSettings()
    finder = FaceFinder(settings)
    sizes = [f"{size} px" for size in SIZES_PX]
    readers = [f"as the reader does, {size} px" for size in READER_SIZES_PX]
    names = [*sizes, *readers]
    costs = {name: Cost() for name in names}
    agreed = videos = frames_with = 0
    for path in sorted(path for folder in arguments.folders for path in folder.iterdir() if path.suffix in ENDINGS):
        searches = [FaceSearch(finder, settings) for _ in readers]
        scenes = [SceneCounter() for _ in readers]
        seen = False
        for picture in pictures(path):
            seen = True
            found = {
                name: at_size(finder, picture, size, settings, costs[name])
                for name, size in zip(sizes, SIZES_PX, strict=True)
            }
            for number, (name, size) in enumerate(zip(readers, READER_SIZES_PX, strict=True)):
                found[name] = as_reader(
                    searches[number], scenes[number], scaled(picture, size), picture.shape[1], costs[name]
                )
            groups = group(found)
            real = [members for members in groups if len(members & set(sizes)) >= 2]
            agreed += len(real)
            frames_with += bool(real)
            for name in names:
                costs[name].found += sum(name in members for members in real)
                costs[name].frames_with += any(name in members for members in real)
                costs[name].alone += sum(members == {name} for members in groups)
        videos += seen
    frames = costs[sizes[0]].frames
    print(f"{videos} videos, {frames} frames, {frames_with} of them with faces, {agreed} faces\n")
    print("| longer side | faces found | frames with faces that are found | found by nobody else | ms a frame |")
    print("| --- | --- | --- | --- | --- |")
    for name in names:
        cost = costs[name]
        share, framed = cost.found / max(1, agreed), cost.frames_with / max(1, frames_with)
        spent_ms = cost.spent_s / max(1, cost.frames) * 1e3
        print(f"| {name} | {share:.2%} | {framed:.2%} | {cost.alone} | {spent_ms:.1f} |")


def pictures(path: Path) -> list[NDArray[np.uint8]]:
    """Sampled frames as the reader takes them, uint8 BGR, their longer side 1280 pixels at most."""
    fd = os.open(path, os.O_RDONLY)
    try:
        with Video(fd, replace(ReaderSettings(), decoder_threads=2)) as video:
            if video.is_still:
                return []
            plan = video.plan(video.survey())
            return [taken.picture.search_bgr(max(SIZES_PX)) for taken in video.sample(plan)]
    except MediaError:
        return []
    finally:
        os.close(fd)


def scaled(picture: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    """Made so small that its longer side has so many pixels; never enlarged."""
    height, width = picture.shape[:2]
    scale = min(1.0, side_px / max(height, width))
    if scale == 1.0:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def at_size(finder: FaceFinder, picture: NDArray[np.uint8], size: int, settings: FaceSettings, cost: Cost) -> list[Box]:
    """Boxes in pixels of the given picture, found in it at another size."""
    small = scaled(picture, size)
    began_s = time.thread_time()
    found = finder.find(small, settings.min_score)
    cost.spent_s += time.thread_time() - began_s
    cost.frames += 1
    return enlarged([box for box, _ in found], picture.shape[1] / small.shape[1])


def as_reader(search: FaceSearch, scenes: SceneCounter, small: NDArray[np.uint8], width: int, cost: Cost) -> list[Box]:
    """Boxes in pixels of a picture of this width, found in a small one as the reader finds them."""
    scene = scenes.add(small)
    began_s = time.thread_time()
    found = search.find(small, scene)
    cost.spent_s += time.thread_time() - began_s
    cost.frames += 1
    return enlarged([box for box, _ in found], width / small.shape[1])


def enlarged(boxes: list[Box], factor: float) -> list[Box]:
    """Boxes of another size of the picture, without those that the reader would not use."""
    least = FaceSettings().min_side_px
    large = [Box(box.x * factor, box.y * factor, box.width * factor, box.height * factor) for box in boxes]
    return [box for box in large if max(box.width, box.height) >= least]


def group(found: dict[str, list[Box]]) -> list[set[str]]:
    """For each face: who found it."""
    faces: list[tuple[Box, Counter[str]]] = []
    for name, boxes in found.items():
        for box in boxes:
            best = max(faces, key=lambda face: intersection_over_union(face[0], box), default=None)
            if best is not None and intersection_over_union(best[0], box) >= SAME_FACE:
                best[1][name] += 1
            else:
                faces.append((box, Counter([name])))
    return [set(names) for _, names in faces]


if __name__ == "__main__":
    main()
