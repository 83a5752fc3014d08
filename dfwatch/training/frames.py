"""Which video a file shows: itself or, for a picture, the video that it is a frame of, as far as names can tell.

Frames of one video must never be dealt to different parts of a split. So a picture in a folder of its own belongs to
the video that the folder is named after, and ``clip_0012.png`` to ``clip``.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dfwatch.config import STILL_EXTENSIONS, VIDEO_EXTENSIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

VIDEO_SUFFIXES = frozenset(f".{ending}" for ending in VIDEO_EXTENSIONS)
PICTURE_SUFFIXES = frozenset({".bmp", *(f".{ending}" for ending in STILL_EXTENSIONS)})
# Folders that say what lies in them and not which video it is of.
_KINDS = frozenset({"frames", "images", "imgs", "pictures", "faces", "crops", "videos", "jpg", "png"})
_NUMBERED = re.compile(r"(.+?)[_\-. ]+(?:frame|img|image|face)?[_\-. ]*\d+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Shown:
    """The video that a file shows.

    Attributes:
        name: The video's name, without an ending.
        path: The same for all files that show it: relative, of the video or of what stands for it.
    """

    name: str
    path: str


def is_video(path: str) -> bool:
    """Whether a file is a video by its ending."""
    return os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES


def shown_videos(paths: Sequence[str], root: str) -> dict[str, Shown]:
    """Tell for each file below ``root`` which video it shows.

    Where all pictures that lie in ``root`` itself have one name but for their numbers (``img_0001.jpg``,
    ``img_0002.jpg`` …), the numbers are all that tells them apart, and each stands for itself.
    """
    found, loose = {}, []
    for path in paths:
        relative = os.path.relpath(path, root)
        folder = "" if is_video(path) else _named_folder(os.path.dirname(relative))
        if folder:
            found[path] = Shown(os.path.basename(folder), folder)
        elif is_video(path):
            found[path] = Shown(_stem(path), relative)
        else:
            loose.append((path, relative))
    names = {_without_number(_stem(path)) for path, _ in loose}
    for path, relative in loose:
        name = _without_number(_stem(path))
        if len(names) > 1 and name != _stem(path):
            found[path] = Shown(name, os.path.join(os.path.dirname(relative), name))
        else:
            found[path] = Shown(_stem(path), relative)
    return found


def shown_by_name(relative: str, is_name: Callable[[str], object]) -> Shown:
    """Tell which video a file shows, in a data set whose videos have names of a known form.

    A picture is a frame of the folder above it that is called like a video, else of what its own name says.

    Args:
        relative: Path of the file within the data set.
        is_name: Whether a name is that of a video.
    """
    if is_video(relative):
        return Shown(_stem(relative), relative)
    above = parent = os.path.dirname(relative)
    while above:
        if is_name(os.path.basename(above)):
            return Shown(os.path.basename(above), above)
        above = os.path.dirname(above)
    stem = _stem(relative)
    # A video's name may end in a number of its own: FaceForensics++'s 000_003.
    if not is_name(stem):
        stem = os.path.basename(parent) if stem.isdecimal() and parent else _without_number(stem)
    return Shown(stem, os.path.join(parent, stem))


def _without_number(stem: str) -> str:
    """A picture's name without the frame number at its end; one that is nothing but a number is left as it is."""
    match = _NUMBERED.fullmatch(stem)
    return match[1] if match else stem


def _named_folder(folder: str) -> str:
    """The folder, or the next one above it, that is named after a video; empty if there is none."""
    while folder and os.path.basename(folder).lower() in _KINDS:
        folder = os.path.dirname(folder)
    return folder


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]
