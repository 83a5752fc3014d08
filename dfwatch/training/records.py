"""The index of a data set: one row for each face crop, kept as a CSV file that a person can read and edit."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from dfwatch.errors import TrainingError
from dfwatch.training.splits import SPLITS

if TYPE_CHECKING:
    from collections.abc import Iterable

INDEX_NAME = "index.csv"
LABELS = ("REAL", "FAKE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One face crop of a pack.

    Attributes:
        shard: Name of the tar file that holds the picture, beside the index.
        offset: Where the encoded picture begins in the shard, in bytes.
        length: Length of the encoded picture, in bytes.
        name: Name of the picture inside the shard.
        source: Data set it comes from.
        label: ``REAL`` or ``FAKE``.
        group: What must not cross a split: the source video or the identity.
        video: The file it was cut from; crops of one video share it.
        manipulation: Kind of fake, where known.
        split: ``train``, ``select`` or ``test`` where the data set fixes it; empty: decided by the group's hash.
        time_s: Presentation time of the frame; 0 for pictures.
        box: Face box (x, y, width, height) as fractions of the stored crop; (0, 0, 1, 1) where none was found.
        landmarks: Right eye, left eye, nose tip, right and left mouth corner as x, y fractions of the stored crop (ten
            numbers); empty where no face was found.
        face_px: Longer side of the face in the original frame, in pixels; 0 where unknown.
    """

    shard: str
    offset: int
    length: int
    name: str
    source: str
    label: str
    group: str
    video: str
    manipulation: str = ""
    split: str = ""
    time_s: float = 0.0
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    landmarks: tuple[float, ...] = ()
    face_px: int = 0

    @property
    def is_fake(self) -> bool:
        """Whether the label is FAKE."""
        return self.label == "FAKE"


_COLUMNS = tuple(f.name for f in fields(Record))


def write_index(path: str, records: Iterable[Record]) -> None:
    """Write an index; it appears under its name only when it is whole."""
    temporary = f"{path}.part"
    # Not every file name is text.
    with open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        writer = csv.writer(stream)
        writer.writerow(_COLUMNS)
        for record in records:
            writer.writerow([_to_text(getattr(record, column)) for column in _COLUMNS])
    os.replace(temporary, path)


def read_index(path: str) -> list[Record]:
    """Read an index.

    Raises:
        TrainingError: When it is missing, lacks a column or holds an unknown label or split.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            return [_from_row(row) for row in csv.DictReader(stream, restval="")]
    except OSError as error:
        raise TrainingError(
            "reading the index", path, error.strerror or error, hint="run `dfwatch prepare` first"
        ) from error
    except (KeyError, ValueError, csv.Error) as error:
        raise TrainingError("reading the index", path, f"a row is not usable: {error!r}") from error


def _to_text(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(f"{number:.4f}" for number in value)
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _from_row(row: dict[str, str]) -> Record:
    if row["label"] not in LABELS:
        raise ValueError(f"label {row['label']!r}")
    if row["split"] and row["split"] not in SPLITS:
        raise ValueError(f"split {row['split']!r}")
    x, y, width, height = (float(part) for part in row["box"].split())
    return Record(
        shard=row["shard"],
        offset=int(row["offset"]),
        length=int(row["length"]),
        name=row["name"],
        source=row["source"],
        label=row["label"],
        group=row["group"],
        video=row["video"],
        manipulation=row["manipulation"],
        split=row["split"],
        time_s=float(row["time_s"]),
        box=(x, y, width, height),
        landmarks=tuple(float(part) for part in row["landmarks"].split()),
        face_px=int(row["face_px"]),
    )
