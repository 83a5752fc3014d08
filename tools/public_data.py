"""Turn the folders of public face data sets into the CSV files that `dfwatch prepare` takes.

    python tools/public_data.py dfdc    DeepFake-Detection   dfdc.csv       # faces_224/*.jpg and metadata.csv
    python tools/public_data.py utkface UTKFace              utkface.csv    # any tree of .jpg files
    python tools/public_data.py udacity P1_Facial_Keypoints  udacity.csv    # frames of YouTube videos, NAME_12.jpg
    python tools/public_data.py lfw     lfw-deepfunneled     lfw.csv --leave-out udacity.csv   # one folder a person

Paths in the CSV are relative to it. Groups (what must not cross a split) are: in DFDC the name of the source video with
its `.mp4`, for a fake and for the source itself; in LFW and the frames the person; in UTKFace the picture. All people
of the frames are in LFW too, under the same names: `--leave-out` leaves them to the set that is held out.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COLUMNS = ("path", "label", "group", "video", "face_px", "manipulation")
Row = tuple[Path, str, str, str, str, str]


def dfdc(root: Path) -> Iterator[Row]:
    """One face crop of each video of the DFDC training set."""
    with (root / "metadata.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            video = row["videoname"]
            picture = root / "faces_224" / f"{Path(video).stem}.jpg"
            if not picture.is_file():
                continue
            if row["label"] == "REAL":
                yield picture, "REAL", video, video, row["original_width"], ""
            elif row["label"] == "FAKE" and row["original"].endswith(".mp4"):
                yield picture, "FAKE", row["original"], video, row["original_width"], "dfdc"
            else:
                raise SystemExit(f"{root}/metadata.csv: {video} is neither a real nor a fake with its source")


def _reals(
    root: Path, group: Callable[[Path], str], video: Callable[[Path], str] = lambda picture: picture.name
) -> Iterator[Row]:
    for picture in sorted(root.rglob("*.jpg")):
        yield picture, "REAL", group(picture), video(picture), "", ""


def utkface(root: Path) -> Iterator[Row]:
    """Pictures of faces; nobody is said to be in two of them."""
    return _reals(root, lambda picture: picture.name)


def lfw(root: Path) -> Iterator[Row]:
    """Pictures in a folder for each person."""
    return _reals(root, lambda picture: picture.parent.name)


def udacity(root: Path) -> Iterator[Row]:
    """Frames of YouTube videos, named by the person and two digits: which video, which of its frames."""
    return _reals(root, lambda picture: picture.stem.rpartition("_")[0], lambda picture: picture.stem[:-1])


SETS: dict[str, Callable[[Path], Iterator[Row]]] = {"dfdc": dfdc, "utkface": utkface, "lfw": lfw, "udacity": udacity}


def _groups(table: Path) -> frozenset[str]:
    with table.open(newline="", encoding="utf-8") as stream:
        return frozenset(row["group"] for row in csv.DictReader(stream))


def main(arguments: list[str]) -> int:
    """Write the table; it appears under its name only when it is whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=sorted(SETS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("--leave-out", type=Path, metavar="TABLE", help="without the groups of this earlier table")
    told = parser.parse_args(arguments)
    part = told.table.with_name(f"{told.table.name}.part")
    base = told.table.resolve().parent
    left_out = _groups(told.leave_out) if told.leave_out else frozenset()
    with part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        count = 0
        for picture, *rest in SETS[told.set](told.folder):
            if rest[1] in left_out:
                continue
            writer.writerow([os.path.relpath(picture.resolve(), base), *rest])
            count += 1
    if not count:
        part.unlink()
        raise SystemExit(f"{told.folder}: no pictures of {told.set} there")
    part.replace(told.table)
    print(f"{count} pictures in {told.table}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
