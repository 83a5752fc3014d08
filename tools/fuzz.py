"""Mutated real videos through the real reader process: ``python -m tools.fuzz --cases 5000 --seed 1``.

Every case is made from a seed of its own, so that ``--first N --cases 1`` makes case N again. A case may be read or
refused; a decoder that crashes or hangs in its child is counted, and kept with ``--keep``. What must not happen, and
ends the run with status 1: an exception of another kind, an answer outside the protocol, a case that outlives its
limits, a good video that is read differently afterwards.
"""

from __future__ import annotations

import argparse
import os
import random
import struct
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dfwatch.config import FaceSettings, ReaderSettings
from dfwatch.errors import MediaError, ReaderCrashError
from dfwatch.reader import Reader
from dfwatch.reading import CropSpec
from dfwatch.reasons import Reason
from tests.clips import make_clip, make_still

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dfwatch.reading import Reading

CROP = CropSpec(size_px=96)
TIME_LIMIT_S = 10.0
CHECK_EVERY = 100
# Values at which sizes, counts and offsets go wrong.
_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@dataclass
class Report:
    """What came of a run."""

    outcomes: Counter[str] = field(default_factory=Counter)
    crashed: list[tuple[int, str]] = field(default_factory=list)
    defects: list[tuple[int, str]] = field(default_factory=list)
    slowest_s: float = 0.0


def seeds(folder: Path) -> list[Path]:
    """One small real file of each kind."""
    size = (160, 128)
    return [
        make_clip(folder / "a.mp4", seconds=1.0, size=size),
        make_clip(folder / "b.mp4", codec="libx265", seconds=0.5, size=size),
        make_clip(folder / "c.mov", seconds=0.5, size=size, rotation=90),
        make_clip(folder / "d.mkv", seconds=1.0, size=size, b_frames=2),
        make_clip(folder / "e.webm", codec="libvpx-vp9", seconds=0.5, size=size),
        make_clip(folder / "f.avi", codec="mpeg4", seconds=1.0, size=size),
        make_clip(folder / "g.ts", codec="mpeg2video", seconds=0.5, size=size),
        make_clip(folder / "h.mpg", codec="mpeg2video", seconds=0.5, size=size),
        make_clip(folder / "i.mp4", seconds=1.0, size=size, container_options={"movflags": "frag_keyframe+empty_moov"}),
        make_clip(folder / "j.mov", codec="mjpeg", seconds=0.3, size=size),
        make_still(folder / "k.jpg", size=size),
        make_still(folder / "l.png", size=size),
        make_still(folder / "m.webp", size=size),
    ]


def mutate(originals: Sequence[bytes], draw: random.Random) -> bytes:
    """One or several random changes to one of the files."""
    data = bytearray(draw.choice(originals))
    for _ in range(draw.choice((1, 1, 1, 2, 4, 8))):
        if len(data) < 16:
            break
        # Structure sits at both ends more often than in the middle.
        where = draw.choice((draw.randrange(len(data)), draw.randrange(min(len(data), 2048)),
                             len(data) - 1 - draw.randrange(min(len(data), 2048))))  # fmt: skip
        length = draw.choice((1, 4, 16, 256, 4096))
        kind = draw.randrange(9)
        if kind == 0:
            data[where] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[where : where + length] = draw.randbytes(len(data[where : where + length]))
        elif kind == 2:
            data[where : where + length] = bytes(len(data[where : where + length]))
        elif kind == 3:
            del data[where : where + length]
        elif kind == 4:
            data[where:where] = data[where : where + length]
        elif kind == 5:
            del data[where:]
        elif kind == 6:
            width = draw.choice((1, 2, 4, 8))
            value = draw.choice(_EDGES) & (1 << 8 * width) - 1
            data[where : where + width] = value.to_bytes(width, draw.choice(("big", "little")))
        elif kind == 7:
            other = draw.choice(originals)
            cut = draw.randrange(len(other))
            data[where:] = other[cut:]
        else:
            step = struct.pack(">i", draw.choice((-65536, -256, -1, 1, 256, 65536)))
            number = int.from_bytes(data[where : where + 4], "big") + int.from_bytes(step, "big", signed=True)
            data[where : where + 4] = (number & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(data)


def run(
    cases: int,
    seed: int,
    *,
    first: int = 0,
    keep: Path | None = None,
    tell: Callable[[int, Report], None] | None = None,
) -> Report:
    """Read so many mutated files with one reader, checking now and then that a good one is read as before."""
    report = Report()
    settings = ReaderSettings(
        processes=1, time_limit_s=TIME_LIMIT_S, memory_limit_bytes=2 << 30, decoder_threads=1, frames=8
    )
    with (
        tempfile.TemporaryDirectory(prefix="dfwatch-fuzz-") as name,
        Reader(settings, FaceSettings(detect_side_px=160)) as reader,
    ):
        folder = Path(name)
        files = seeds(folder)
        originals = [path.read_bytes() for path in files]
        good = _shape(_read(reader, files[0]))
        case_path = folder / "case"
        for number in range(first, first + cases):
            data = mutate(originals, random.Random(f"{seed}/{number}"))
            case_path.write_bytes(data)
            began_s = time.monotonic()
            outcome = _outcome(reader, case_path, number, report)
            report.slowest_s = max(report.slowest_s, time.monotonic() - began_s)
            report.outcomes[outcome] += 1
            if keep is not None and (report.crashed or report.defects):
                last = max(entry[0] for entry in (*report.crashed[-1:], *report.defects[-1:]))
                if last == number:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{seed}-{number}").write_bytes(data)
            if (number - first) % CHECK_EVERY == CHECK_EVERY - 1 or number == first + cases - 1:
                if _shape(_read(reader, files[0])) != good:
                    report.defects.append((number, "a good video is read differently afterwards"))
                if tell is not None:
                    tell(number - first + 1, report)
    if report.slowest_s > TIME_LIMIT_S + 5.0:
        report.defects.append((-1, f"a case took {report.slowest_s:.1f} s, the limit is {TIME_LIMIT_S} s"))
    return report


def _read(reader: Reader, path: Path) -> Reading:
    fd = os.open(path, os.O_RDONLY)
    try:
        return reader.read(fd, CROP)
    finally:
        os.close(fd)


def _shape(reading: Reading) -> tuple[int, int, bytes]:
    return len(reading.tracks), reading.sampling.decoded, reading.crops.tobytes()


def _outcome(reader: Reader, path: Path, number: int, report: Report) -> str:
    try:
        _read(reader, path)
    except ReaderCrashError as error:
        words = f"{error.reason}: {error.cause}"
        (report.defects if error.reason is Reason.READER_PROTOCOL else report.crashed).append((number, words))
        return str(error.reason)
    except MediaError as error:
        return str(error.reason)
    except Exception as error:  # noqa: BLE001 - any other exception is what is looked for
        report.defects.append((number, f"{type(error).__name__}: {error}"))
        return "defect"
    return "read"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=5000, help="how many files (default: 5000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--keep", type=Path, help="folder for the cases that crashed the decoder")
    arguments = parser.parse_args()
    began_s = time.monotonic()
    report = run(
        arguments.cases,
        arguments.seed,
        first=arguments.first,
        keep=arguments.keep,
        tell=lambda done, so_far: print(f"{done} cases, {len(so_far.crashed)} crashes", file=sys.stderr),
    )
    took_s = time.monotonic() - began_s
    print(f"{arguments.cases} cases in {took_s:.0f} s, the slowest {report.slowest_s:.2f} s")
    for outcome, count in report.outcomes.most_common():
        print(f"{count:7} {outcome}")
    for number, words in report.crashed:
        print(f"contained crash, case {number}: {words}")
    for number, words in report.defects:
        print(f"DEFECT, case {number}: {words}")
    return 1 if report.defects else 0


if __name__ == "__main__":
    sys.exit(main())
