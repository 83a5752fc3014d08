"""The layouts in which people keep their videos and pictures, each turned into a list of sources.

Groups are what must not cross a split. A fake belongs to the group of the video, or of the person, whose body it shows.
Where a second person lent the face, FaceForensics++'s split files keep both on one side, and are followed; of Celeb-DF,
what shows a tested identity, be it body or face, is left out of the rest. Of FaceForensics++'s actors the face may be
another group's: there is no official split of them, and each has lent a face to many.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dfwatch.config import WatchSettings
from dfwatch.errors import TrainingError
from dfwatch.inbox.names import NameRules
from dfwatch.training.crops import Source
from dfwatch.training.frames import PICTURE_SUFFIXES, VIDEO_SUFFIXES, Shown, is_video, shown_by_name, shown_videos
from dfwatch.training.splits import SPLITS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

_FFPP_SPLITS = {"train": "train", "val": "select", "test": "test"}
_LABEL_FOLDERS = {"real": "REAL", "fake": "FAKE", "0_real": "REAL", "1_fake": "FAKE", "original": "REAL"}
# An identity and a number, two identities and a number, or a number of five digits.
_CELEBDF_NAME = re.compile(r"id\d+(_id\d+)?_\d+|\d{5}")
_PAIR_NAME = re.compile(r"(\d{3})_(\d{3})")
_MASK_FOLDERS = frozenset({"mask", "masks"})
_SPLIT_FOLDERS = {
    "train": "train", "training": "train", "val": "select", "valid": "select", "validation": "select", "test": "test",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class DataSet:
    """What a data set holds.

    Attributes:
        sources: Its files, by path.
        left_out: How many were left out, by the reason in words.
    """

    sources: list[Source]
    left_out: Counter[str]


def scan(layout: str, root: str) -> DataSet:
    """List the sources of a data set.

    Args:
        layout: A key of ``LAYOUTS``.
        root: The data set's folder, or the CSV file.

    Raises:
        TrainingError: When the layout is unknown, or nothing of that layout is there.
    """
    if layout not in LAYOUTS:
        raise TrainingError("reading the data set", root, f"no layout {layout}; known are {', '.join(LAYOUTS)}")
    left_out: Counter[str] = Counter()
    sources = sorted(LAYOUTS[layout](root, left_out), key=lambda source: source.path)
    if not sources:
        left = "".join(f"; left out: {count} {why}" for why, count in left_out.items())
        raise TrainingError(
            "reading the data set", root, f"nothing of the layout {layout} is there{left}", hint="see docs/training.md"
        )
    return DataSet(sources, left_out)


def detect(root: str) -> str:
    """Guess the layout of a folder or CSV file from the files that mark it."""
    if os.path.isfile(root):
        return "csv"
    marks = (
        ("ffpp", os.path.isdir(os.path.join(root, "manipulated_sequences"))),
        ("celebdf", os.path.isfile(os.path.join(root, "List_of_testing_videos.txt"))),
        ("dfdc", bool(_metadata_files(root))),
        ("splits", any(_split_of(name) for name in _folders(root))),
        ("folders", any(name.lower() in _LABEL_FOLDERS for name in _folders(root))),
    )
    for layout, there in marks:
        if there:
            return layout
    raise TrainingError(
        "recognising the layout of", root, "none of the known ones fits", hint="name it with --layout, or write a CSV"
    )


def ffpp(root: str, left_out: Counter[str]) -> Iterator[Source]:
    """FaceForensics++: ``original_sequences``, ``manipulated_sequences/<kind>/<compression>/videos``, split files.

    Pictures are frames of the video that their folder, or their name without its number, is called after.

    The split files (``train.json``, ``val.json``, ``test.json``: lists of pairs) are looked for in ``splits/`` and in
    the root. A fake is named ``<target>_<source>``; both of a pair are in the same split and form one group, also
    where there are no split files: each video is in one pair only. ``masks`` show no face and are left out.

    The actors' videos (DeepFakeDetection) are in no split file. A real is named ``<actor>__<scene>``, a fake
    ``<actor>_<actor who lent the face>__<scene>__<code>``: the group is the actor of the body, ``ffpp:actor01``.
    """
    split_of, group_of = _ffpp_splits(root)
    found: list[tuple[str, str, str, Shown]] = []
    for part, label in (("original_sequences", "REAL"), ("manipulated_sequences", "FAKE")):
        for path in _media(os.path.join(root, part), left_out):
            relative = os.path.relpath(path, os.path.join(root, part))
            if not _MASK_FOLDERS.isdisjoint(relative.split(os.sep)):
                left_out["masks"] += 1
                continue
            shown = shown_by_name(relative, _ffpp_target)
            found.append((path, label, relative, shown))
            if pair := _PAIR_NAME.fullmatch(shown.name):
                for member in pair.groups():
                    group_of.setdefault(member, "+".join(sorted(pair.groups())))
    for path, label, relative, shown in found:
        target = _ffpp_target(shown.name) or shown.name
        yield Source(
            path=path,
            label=label,
            group=f"ffpp:{group_of.get(target, target)}",
            source="ffpp",
            video=shown.path,
            manipulation=relative.split(os.sep)[0] if label == "FAKE" else "",
            split=split_of.get(target, ""),
        )


def _ffpp_target(name: str) -> str:
    """Return the video, or the actor, whose body a video of this name shows; empty for other names."""
    if re.fullmatch(r"\d{3}(_\d{3})?", name):
        return name[:3]
    actor = re.match(r"(\d{2})(_\d{2})?__", name)
    return f"actor{actor[1]}" if actor else ""


def _ffpp_splits(root: str) -> tuple[dict[str, str], dict[str, str]]:
    split_of: dict[str, str] = {}
    group_of: dict[str, str] = {}
    for name, split in _FFPP_SPLITS.items():
        for folder in (os.path.join(root, "splits"), root):
            path = os.path.join(folder, f"{name}.json")
            if not os.path.isfile(path):
                continue
            for pair in _json(path):
                for member in pair:
                    split_of[str(member)] = split
                    group_of[str(member)] = "+".join(sorted(map(str, pair)))
            break
    return split_of, group_of


def celebdf(root: str, left_out: Counter[str]) -> Iterator[Source]:
    """Celeb-DF v2: ``Celeb-real``, ``YouTube-real``, ``Celeb-synthesis``, ``List_of_testing_videos.txt`` (1 is REAL).

    The videos of that list are the test part; the rest is dealt by identity. A fake ``id1_id2_0003`` shows the body of
    id1 with the face of id2: its group is id1. A tested identity is one whose body a video of the list shows; what else
    shows it, be it the body or the face of a fake, is left out.
    """
    list_path = os.path.join(root, "List_of_testing_videos.txt")
    testing: dict[str, str] = {}
    if os.path.isfile(list_path):
        with open(list_path, encoding="utf-8") as stream:
            for line in stream:
                flag, _, name = line.strip().partition(" ")
                if name:
                    testing[name.strip()] = "REAL" if flag == "1" else "FAKE"
    test_groups = {_celebdf_group(name) for name in testing}
    for folder, label in (("Celeb-real", "REAL"), ("YouTube-real", "REAL"), ("Celeb-synthesis", "FAKE")):
        for path in _media(os.path.join(root, folder), left_out):
            shown = shown_by_name(os.path.relpath(path, root), _CELEBDF_NAME.fullmatch)
            video = f"{folder}/{os.path.basename(path) if is_video(path) else f'{shown.name}.mp4'}"
            if testing.get(video, label) != label:
                raise TrainingError("reading the data set", list_path, f"{video} is listed as {testing[video]}")
            group = _celebdf_group(video)
            if video not in testing and test_groups & {group, _celebdf_face(video)}:
                # The list mixes identities; to keep groups apart, the rest of a tested identity is left out.
                left_out["that show somebody whom a tested video shows"] += 1
                continue
            yield Source(
                path=path,
                label=label,
                group=group,
                source="celebdf",
                video=video,
                manipulation="Celeb-synthesis" if label == "FAKE" else "",
                split="test" if video in testing else "",
            )


def _celebdf_group(video: str) -> str:
    stem = os.path.splitext(os.path.basename(video))[0]
    match = re.match(r"(id\d+)_", stem)
    return f"celebdf:{match[1] if match else stem}"


def _celebdf_face(video: str) -> str:
    """Return the group of whoever lent the face: for all but fakes of two identities, of the body's."""
    match = re.match(r"id\d+_(id\d+)_", os.path.basename(video))
    return f"celebdf:{match[1]}" if match else _celebdf_group(video)


def dfdc(root: str, left_out: Counter[str]) -> Iterator[Source]:
    """DFDC: folders of videos, each with a ``metadata.json`` (``label``, ``original``, ``split``)."""
    for path in _metadata_files(root):
        entries = _json(path)
        if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
            cause = "it is no list of DFDC videos with their labels"
            raise TrainingError("reading", path, cause, hint="where the data set is none of DFDC's, give --layout")
        for name, entry in entries.items():
            video = os.path.join(os.path.dirname(path), name)
            if not os.path.isfile(video):
                left_out["named in metadata.json that are not there"] += 1
                continue
            yield Source(
                path=video,
                label=_label(entry.get("label", ""), path),
                group=str(entry.get("original") or name),
                source="dfdc",
                video=name,
            )


def folders(root: str, left_out: Counter[str]) -> Iterator[Source]:
    """Plain ``real/`` and ``fake/`` folders; ``real/train/`` and the like fix the split.

    Each video is a group of its own, unless its name begins with that of another one and an underscore
    (``clip.mp4`` and ``clip_swapped.mp4``): then both are one group. Pictures are frames (see ``frames``).
    """
    yield from _labelled_folders(root, "", left_out)


def splits(root: str, left_out: Counter[str]) -> Iterator[Source]:
    """``train/``, ``val/`` and ``test/``, each with ``real/`` and ``fake/`` folders.

    Groups are those of plain folders, within each part: ``0001.jpg`` of one part is not ``0001.jpg`` of another.
    """
    for name in _folders(root):
        split = _split_of(name)
        if split:
            yield from _labelled_folders(os.path.join(root, name), split, left_out)
        else:
            left_out[f"folder beside the parts: {name}/"] += 1


def table(path: str, _left_out: Counter[str]) -> Iterator[Source]:
    """A CSV with ``path`` and ``label``; where known also the other fields of ``Source``.

    Paths are relative to the CSV file's folder.

    Raises:
        TrainingError: It cannot be read or is no such CSV.
    """
    base = os.path.dirname(os.path.abspath(path))
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            # A `Group` that was passed over would be dealt to several parts.
            reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
            if missing := [name for name in ("path", "label") if name not in reader.fieldnames]:
                cause = f"its first line names no column {' and no column '.join(missing)}"
                raise TrainingError("reading the table", path, cause, hint="columns are divided by commas: path,label")
            for number, row in enumerate(reader, 2):
                if not any(row.values()):
                    continue
                if not row.get("path"):
                    raise TrainingError("reading the table", f"{path}:{number}", "there is no path")
                # Of `id1` and `id1 ` a spreadsheet shows the same.
                video = (row.get("video") or "").strip() or row["path"]
                yield Source(
                    path=os.path.join(base, row["path"]),
                    label=_label(row.get("label") or "", f"{path}:{number}"),
                    group=(row.get("group") or "").strip() or video,
                    source=row.get("source") or os.path.splitext(os.path.basename(path))[0],
                    video=video,
                    manipulation=row.get("manipulation") or "",
                    split=_split(row.get("split") or "", f"{path}:{number}"),
                    face_px=_pixels(row.get("face_px") or "0", f"{path}:{number}"),
                )
    except OSError as error:
        raise TrainingError("reading the table", path, error.strerror or error) from error
    except (UnicodeDecodeError, csv.Error) as error:
        hint = "name a data set's folder, or a CSV in UTF-8 with the columns path and label"
        raise TrainingError("reading the table", path, "it is not a CSV", hint=hint) from error


LAYOUTS: dict[str, Callable[[str, Counter[str]], Iterator[Source]]] = {
    "ffpp": ffpp,
    "celebdf": celebdf,
    "dfdc": dfdc,
    "folders": folders,
    "splits": splits,
    "csv": table,
}


def _labelled_folders(root: str, split: str, left_out: Counter[str]) -> Iterator[Source]:
    whole = os.path.dirname(os.path.abspath(root)) if split else os.path.abspath(root)
    name_of_set = os.path.basename(whole)
    parts: dict[str, list[tuple[str, str, Shown]]] = defaultdict(list)
    for name in _folders(root):
        label = _LABEL_FOLDERS.get(name.lower())
        folder = os.path.join(root, name)
        if not label:
            left_out[f"folder that is called neither real nor fake: {os.path.relpath(folder, whole)}/"] += 1
            continue
        inner = {} if split else {part: _split_of(part) for part in _folders(folder)}
        for below in ("", *(part for part, its_split in inner.items() if its_split)):
            within = os.path.join(folder, below)
            elsewhere = () if below else [part for part, its_split in inner.items() if its_split]
            all_shown = shown_videos(list(_media(within, left_out, elsewhere)), within)
            parts[split or inner.get(below, "")] += [
                (path, label, Shown(one.name, os.path.relpath(os.path.join(within, one.path), whole)))
                for path, one in all_shown.items()
            ]
    for part, found in parts.items():
        names = {shown.name for _, _, shown in found}
        for path, label, shown in found:
            # The shortest other name that this one begins with is its source.
            begins = (shown.name[:end] for end in _underscores(shown.name))
            origin = next((name for name in begins if name in names), shown.name)
            yield Source(
                path=path,
                label=label,
                group=f"{name_of_set}/{part}:{origin}" if part else f"{name_of_set}:{origin}",
                source=name_of_set,
                video=shown.path,
                split=part,
            )


def _underscores(stem: str) -> list[int]:
    return [place for place, letter in enumerate(stem) if letter == "_" and place]


def _folders(root: str) -> list[str]:
    try:
        rules = NameRules(WatchSettings())
        return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not rules.ignored(entry.name))
    except OSError as error:
        raise TrainingError("reading the data set", root, error.strerror or error) from error


def _media(root: str, left_out: Counter[str], elsewhere: Collection[str] = ()) -> Iterator[str]:
    """Yield the videos and pictures below a folder, but for those in its subfolders ``elsewhere``.

    Links to folders are followed, into each folder once.
    """
    rules, entered = NameRules(WatchSettings()), {os.path.realpath(os.path.join(root, name)) for name in elsewhere}
    for folder, inner, names in os.walk(root, followlinks=True):
        place = os.path.realpath(folder)
        if place in entered:
            inner.clear()
            continue
        entered.add(place)
        inner[:] = sorted(name for name in inner if not rules.ignored(name))
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() not in VIDEO_SUFFIXES | PICTURE_SUFFIXES:
                continue
            if rules.ignored(name):
                left_out["of names that the service ignores too, such as ._NAME"] += 1
                continue
            yield os.path.join(folder, name)


def _metadata_files(root: str) -> list[str]:
    candidates = [root, *(os.path.join(root, name) for name in _folders(root))]
    paths = (os.path.join(folder, "metadata.json") for folder in candidates)
    return [path for path in paths if os.path.isfile(path)]


def _split_of(name: str) -> str:
    return _SPLIT_FOLDERS.get(name.lower(), "")


def _split(text: str, where: str) -> str:
    word = text.strip().lower()
    if not word or word in SPLITS:
        return word
    if word not in _SPLIT_FOLDERS:
        known = ", ".join((*SPLITS, *(name for name in _SPLIT_FOLDERS if name not in SPLITS)))
        # Dealt by its group, most of what is meant to be held out would be trained on.
        raise TrainingError("reading the split in", where, f"{text!r} is none of {known}, or nothing")
    return _SPLIT_FOLDERS[word]


def _label(text: str, where: str) -> str:
    label = text.strip().upper()
    if label not in {"REAL", "FAKE"}:
        raise TrainingError("reading the label in", where, f"{text!r} is neither REAL nor FAKE")
    return label


def _pixels(text: str, where: str) -> int:
    if not text.strip().isdecimal():
        raise TrainingError("reading face_px in", where, f"{text!r} is no whole number")
    return int(text)


def _json(path: str) -> Any:  # noqa: ANN401 - whatever the file holds
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except (OSError, ValueError) as error:
        raise TrainingError("reading", path, error) from error
