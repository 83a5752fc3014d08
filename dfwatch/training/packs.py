"""Packs: face crops as JPEG or WebP in plain tar files of limited size, with an index that gives each picture's place.

A pack is a folder: ``index.csv`` and ``shard-000.tar``, ``shard-001.tar`` … Any tar tool can look inside (the layout is
that of WebDataset); our reader jumps straight to a picture by its offset. Shards are kept under 60 MiB so that they
travel to another machine in small pieces.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import mmap
import os
import re
import tarfile
from typing import TYPE_CHECKING, Self

import cv2
import numpy as np

from dfwatch.errors import TrainingError
from dfwatch.training.records import INDEX_NAME, Record, read_index, write_index

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

SHARD_LIMIT_BYTES = 60 * 1024**2
_BLOCK_BYTES = tarfile.BLOCKSIZE
_SHARD = re.compile(r"shard-\d+\.tar")


class PackWriter:
    """Append crops to a pack; the index comes last, so an unfinished pack is never mistaken for a whole one."""

    def __init__(self, folder: str, shard_limit_bytes: int = SHARD_LIMIT_BYTES) -> None:
        self._folder = folder
        self._limit_bytes = shard_limit_bytes
        self._records: list[Record] = []
        self._tar: tarfile.TarFile | None = None
        self._shards = 0
        os.makedirs(folder, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            # Of an earlier pack; its places are not those of the shards to come.
            os.unlink(os.path.join(folder, INDEX_NAME))
        # Not written over: a run that has them mapped would be killed by the kernel.
        for name in filter(_SHARD.fullmatch, os.listdir(folder)):
            os.unlink(os.path.join(folder, name))

    def add(self, encoded: bytes, record: Record) -> None:
        """Store one encoded picture; ``shard``, ``offset`` and ``length`` of ``record`` are filled in here."""
        if self._tar is not None and _closed_bytes(self._tar.offset, len(encoded)) > self._limit_bytes:
            self._tar.close()
            self._tar = None
        if self._tar is None:
            self._tar = tarfile.open(  # noqa: SIM115 - stays open over many calls
                os.path.join(self._folder, f"shard-{self._shards:03d}.tar"), "w", format=tarfile.USTAR_FORMAT
            )
            self._shards += 1
        member = tarfile.TarInfo(record.name)
        member.size = len(encoded)
        offset = self._tar.offset + _BLOCK_BYTES
        self._tar.addfile(member, io.BytesIO(encoded))
        shard = f"shard-{self._shards - 1:03d}.tar"
        self._records.append(dataclasses.replace(record, shard=shard, offset=offset, length=len(encoded)))

    def close(self) -> list[Record]:
        """Finish the pack and return its index."""
        if self._tar is not None:
            self._tar.close()
            self._tar = None
        write_index(os.path.join(self._folder, INDEX_NAME), self._records)
        return self._records

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._tar is not None:
            self._tar.close()


def member_name(name: str, place: str, suffix: str) -> str:
    """Name of a picture inside a shard: ASCII and short enough for every tar, whatever the file was called.

    Args:
        name: Of the picture or video it was cut from.
        place: What tells pictures of one name apart; may be empty.
        suffix: The ending, with its dot.
    """
    plain = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-.") else "_" for letter in name)
    return f"{plain[-70:]}{place}{suffix}"


def _closed_bytes(offset: int, length: int) -> int:
    """Return the size of a tar file that is closed after one more member of ``length`` bytes at ``offset``."""
    end = offset + _BLOCK_BYTES + -(-length // _BLOCK_BYTES) * _BLOCK_BYTES + 2 * _BLOCK_BYTES
    return -(-end // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


class Pack:
    """Read a pack: records, and pictures by record. Cheap to open; shards are mapped when first used, per process."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.records = read_index(os.path.join(folder, INDEX_NAME))
        self._maps: dict[str, mmap.mmap] = {}

    def __getstate__(self) -> dict[str, object]:
        return {"folder": self.folder, "records": self.records, "_maps": {}}

    def encoded(self, record: Record) -> bytes:
        """Return the encoded picture of one record."""
        shard = self._maps.get(record.shard)
        if shard is None:
            path = os.path.join(self.folder, record.shard)
            try:
                with open(path, "rb") as stream:
                    shard = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise TrainingError("opening a shard", path, error, hint="prepare the data set again") from error
            self._maps[record.shard] = shard
        return shard[record.offset : record.offset + record.length]

    def picture(self, record: Record) -> NDArray[np.uint8]:
        """Return one picture as uint8 RGB of shape (height, width, 3)."""
        encoded = np.frombuffer(self.encoded(record), np.uint8)
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB) if encoded.size else None
        if image is None:
            raise TrainingError(
                "decoding a crop", f"{self.folder}/{record.name}", "not a picture", hint="prepare the data set again"
            )
        return np.asarray(image, np.uint8)
