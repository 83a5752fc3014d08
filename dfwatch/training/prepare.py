"""`dfwatch prepare`: videos or pictures → a pack of face crops, in pieces that survive a kill."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np

from dfwatch.errors import MediaError, ReaderStartError, TrainingError
from dfwatch.training.alone import alone_in
from dfwatch.training.crops import CutSpec, Source, cut_all
from dfwatch.training.frames import is_video
from dfwatch.training.packs import Pack, PackWriter
from dfwatch.training.records import INDEX_NAME, Record, read_index
from dfwatch.training.splits import SPLITS, SplitRule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

CONTACT_SHEET = "contact_sheet.jpg"
_PARTS = "parts"
_CELL_PX, _COLUMNS, _ROWS = 96, 12, 10

Cut = tuple[bytes, Record]
VideoCutter = "Callable[[Source], Iterator[Cut]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareOptions:
    """How a pack is made.

    Attributes:
        folder: Where it goes.
        cut: How faces are cut.
        frames: Frames sampled from each video.
        processes: Processes for pictures; videos have readers of their own.
        chunk: Sources in one piece of work; a killed run repeats at most one piece.
    """

    folder: str
    cut: CutSpec = field(default_factory=CutSpec)
    frames: int = 16
    processes: int = 1
    chunk: int = 500


@dataclass(frozen=True, slots=True)
class Prepared:
    """What came out.

    Attributes:
        records: The index.
        sources: Number of sources.
        without_face: Sources that gave no crop.
        failed: Name of a source to the reason why it could not be read.
    """

    records: list[Record]
    sources: int
    without_face: int
    failed: dict[str, str]


def prepare(
    sources: Sequence[Source],
    options: PrepareOptions,
    *,
    cut_video: Callable[[Source], Iterator[Cut]] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Prepared:
    """Make a pack; a run that was killed goes on with the first piece that was not finished.

    Args:
        sources: What to cut from; the same list in the same order when a run is resumed.
        options: Where and how.
        cut_video: From a video to its crops; needed when there are videos among the sources.
        progress: Called with the number of sources done and the number of all.

    Raises:
        TrainingError: When the folder holds pieces of another data set, another command is at work in it, or nothing
            had a face.
    """
    parts = os.path.join(options.folder, _PARTS)
    with alone_in(options.folder):
        os.makedirs(parts, exist_ok=True)
        _check_same_work(parts, sources, options)
        for start in range(0, len(sources), options.chunk):
            part = os.path.join(parts, f"{start:08d}")
            if not os.path.exists(os.path.join(part, INDEX_NAME)):
                _cut_piece(sources[start : start + options.chunk], part, options, cut_video)
            progress(min(start + options.chunk, len(sources)), len(sources))
        return _join(sources, options)


def _check_same_work(parts: str, sources: Sequence[Source], options: PrepareOptions) -> None:
    path = os.path.join(parts, "work.sha256")
    digest = hashlib.sha256(repr((options.cut, options.frames, options.chunk)).encode())
    for source in sources:
        digest.update(repr(source).encode("utf-8", "surrogateescape"))
    if os.path.exists(path):
        with open(path, encoding="ascii", errors="replace") as stream:
            if stream.read() != digest.hexdigest():
                raise TrainingError(
                    "resuming in",
                    options.folder,
                    "it holds pieces of other work: other sources, labels, groups, splits or options",
                    hint="use a new folder, or delete it",
                )
        return
    if any(name.isdigit() for name in os.listdir(parts)):
        raise TrainingError(
            "resuming in", options.folder, "it holds pieces of unknown work", hint="use a new folder, or delete it"
        )
    with open(f"{path}.part", "w", encoding="ascii") as stream:
        stream.write(digest.hexdigest())
    os.replace(f"{path}.part", path)


def _cut_piece(
    sources: Sequence[Source],
    part: str,
    options: PrepareOptions,
    cut_video: Callable[[Source], Iterator[Cut]] | None,
) -> None:
    pictures = [source for source in sources if not is_video(source.path)]
    empty, failed = 0, {}
    with PackWriter(part) as writer:
        cuts = cut_all(pictures, options.cut, options.processes if len(pictures) > 64 else 1)
        for source, cut in zip(pictures, cuts, strict=True):
            if cut is None:
                empty += 1
            elif isinstance(cut, str):
                failed[source.path] = cut
            else:
                writer.add(*cut)
        for source in sources:
            if not is_video(source.path):
                continue
            if cut_video is None:
                raise TrainingError("cutting faces from", source.path, "no video reader was given")
            try:
                crops = list(cut_video(source))
            except ReaderStartError:
                # No fault of this video: counted as unreadable, it would be missing without need.
                raise
            except MediaError as error:
                failed[source.video] = error.cause
                continue
            empty += not crops
            for crop in crops:
                writer.add(*crop)
        # Before the index appears on leaving the block: a piece with an index is a whole piece.
        with open(os.path.join(part, "counts.json"), "w", encoding="utf-8") as stream:
            json.dump({"without_face": empty, "failed": failed}, stream)


def _join(sources: Sequence[Source], options: PrepareOptions) -> Prepared:
    parts = os.path.join(options.folder, _PARTS)
    empty, failed = 0, {}
    with PackWriter(options.folder) as writer:
        for name in sorted(entry for entry in os.listdir(parts) if entry.isdigit()):
            piece = Pack(os.path.join(parts, name))
            for record in piece.records:
                writer.add(piece.encoded(record), record)
            with open(os.path.join(parts, name, "counts.json"), encoding="utf-8") as stream:
                counts = json.load(stream)
            empty += counts["without_face"]
            failed.update(counts["failed"])
    records = read_index(os.path.join(options.folder, INDEX_NAME))
    if not records:
        causes = "; ".join(sorted(set(failed.values()))[:3])
        unreadable = f", {len(failed)} of them unreadable ({causes})" if failed else ""
        raise TrainingError("preparing", options.folder, f"no face was found in {len(sources)} sources{unreadable}")
    _remove_parts(parts)
    return Prepared(records, len(sources), empty, failed)


def _remove_parts(parts: str) -> None:
    for folder, folders, names in os.walk(parts, topdown=False):
        # The index first: a kill may come between any two, and a piece that has one counts as whole.
        for name in sorted(names, key=lambda one: one != INDEX_NAME):
            os.unlink(os.path.join(folder, name))
        for name in folders:
            os.rmdir(os.path.join(folder, name))
    os.rmdir(parts)


def summary_table(records: Iterable[Record], rule: SplitRule) -> str:
    """Return a table of crops, videos and groups by source, label and split."""
    rows: dict[tuple[str, str, str], tuple[Counter[str], Counter[str]]] = {}
    for record in records:
        key = (record.source, record.label, rule.of_record(record))
        videos, groups = rows.setdefault(key, (Counter(), Counter()))
        videos[record.video] += 1
        groups[record.group] += 1
    lines = [f"{'source':<16} {'label':<6} {'split':<7} {'crops':>8} {'videos':>8} {'groups':>8}"]
    for (source, label, split), (videos, groups) in sorted(
        rows.items(), key=lambda row: (row[0][0], row[0][1], SPLITS.index(row[0][2]))
    ):
        lines.append(f"{source:<16.16} {label:<6} {split:<7} {videos.total():>8} {len(videos):>8} {len(groups):>8}")
    return "\n".join(lines)


def contact_sheet(pack: Pack, path: str, *, seed: int = 0) -> None:
    """Write a JPEG with crops drawn at random: reals above, fakes below, with box and landmarks."""
    rng = np.random.default_rng(seed)
    sheet = np.full((_ROWS * _CELL_PX, _COLUMNS * _CELL_PX, 3), 255, np.uint8)
    half = _ROWS // 2 * _COLUMNS
    for number, label in enumerate(("REAL", "FAKE")):
        records = [record for record in pack.records if record.label == label]
        for place, choice in enumerate(rng.permutation(len(records))[:half]):
            row, column = divmod(number * half + place, _COLUMNS)
            cell = _cell(pack.picture(records[int(choice)]), records[int(choice)])
            sheet[row * _CELL_PX : (row + 1) * _CELL_PX, column * _CELL_PX : (column + 1) * _CELL_PX] = cell
    encoded = cv2.imencode(".jpg", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    encoded.tofile(path)


def _cell(picture: NDArray[np.uint8], record: Record) -> NDArray[np.uint8]:
    cell = np.asarray(cv2.resize(picture, (_CELL_PX, _CELL_PX), interpolation=cv2.INTER_AREA), np.uint8)
    x, y, width, height = (round(value * _CELL_PX) for value in record.box)
    cv2.rectangle(cell, (x, y), (x + width, y + height), (255, 210, 0), 1)
    for px, py in zip(record.landmarks[::2], record.landmarks[1::2], strict=True):
        cv2.circle(cell, (round(px * _CELL_PX), round(py * _CELL_PX)), 1, (0, 255, 120), -1)
    return cell
