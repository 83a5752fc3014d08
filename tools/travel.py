"""Pack what a GPU session needs into files small enough to travel; the other side unpacks them with cat and tar.

    python -m tools.travel travel packs/dfdc packs/lfw --exclude exclude.txt --first recipes/efficientnet_lite2.yaml
    cat travel/room-* | tar xz -C room                                                      # over there

In the room lie then `packs/`, `packs/exclude.txt`, and in `first/` the recipe's first weights in half precision, so
that the other machine needs no package that carries them.
"""

from __future__ import annotations

import argparse
import gzip
import io
import sys
import tarfile
import tempfile
from pathlib import Path

from dfwatch.models import architectures
from dfwatch.training.pretrained import load_initial
from dfwatch.training.recipe import load_recipe
from dfwatch.training.weights_files import save_parts

LIMIT_MIB = 54


class Pieces(io.RawIOBase):
    """A file that goes on in the next one whenever one is full."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes
        self._room = 0
        self._file: io.BufferedWriter | None = None
        self.paths: list[Path] = []

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:  # type: ignore[no-untyped-def]  # noqa: ANN001 - any buffer
        rest = memoryview(data).cast("B")
        count = len(rest)
        while len(rest):
            if not self._room:
                self._next()
            assert self._file is not None
            self._file.write(rest[: self._room])
            taken = min(self._room, len(rest))
            self._room -= taken
            rest = rest[taken:]
        return count

    def _next(self) -> None:
        if self._file is not None:
            self._file.close()
        path = self._folder / f"room-{len(self.paths):03d}"
        self._file = path.open("wb")
        self.paths.append(path)
        self._room = self._limit_bytes

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


def pack(out: Path, packs: list[Path], exclude: Path | None, first: Path | None, limit_bytes: int) -> list[Path]:
    """Write the files; a folder that holds some already is refused."""
    out.mkdir(parents=True, exist_ok=True)
    if any(out.glob("room-*")):
        raise SystemExit(f"{out} holds a room already: take another folder, or empty it")
    pieces = Pieces(out, limit_bytes)
    with gzip.GzipFile("", "wb", 6, pieces) as packed, tarfile.open(fileobj=packed, mode="w|") as room:
        for folder in packs:
            for path in [folder / "index.csv", *sorted(folder.glob("shard-*.tar"))]:
                room.add(path, f"packs/{folder.resolve().name}/{path.name}")
        if exclude is not None:
            room.add(exclude, "packs/exclude.txt")
        if first is not None:
            with tempfile.TemporaryDirectory() as weights:
                for name in _first_weights(first, weights):
                    room.add(Path(weights) / name, f"first/{name}")
    pieces.close()
    return pieces.paths


def _first_weights(recipe_path: Path, folder: str) -> list[str]:
    recipe = load_recipe(str(recipe_path))
    network = architectures.build(recipe.architecture.name, recipe.architecture.options)
    load_initial(network, recipe)
    return save_parts(folder, network.state_dict())


def main(arguments: list[str]) -> int:
    """Write the files and name them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the files")
    parser.add_argument("packs", type=Path, nargs="+", help="folders of packs")
    parser.add_argument("--exclude", type=Path, help="videos or groups never to be used")
    parser.add_argument("--first", type=Path, help="recipe whose first weights come along")
    parser.add_argument("--limit-mib", type=int, default=LIMIT_MIB, help=f"largest file ({LIMIT_MIB})")
    told = parser.parse_args(arguments)
    for path in pack(told.out, told.packs, told.exclude, told.first, told.limit_mib * 1024**2):
        print(f"{path.stat().st_size / 1024**2:6.1f} MiB  {path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
