"""Tensor names of a checkpoint file, without torch and without running anything that the file holds."""

from __future__ import annotations

import json
import pickletools
import struct
import zipfile
from typing import IO, TYPE_CHECKING, BinaryIO

from dfwatch.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

MAX_HEADER_BYTES = 64 * 1024**2
_ACTION = "reading the checkpoint"
_PICKLE_TEXT = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"}


def common_prefix(names: Collection[str], wanted: Collection[str]) -> str | None:
    """What stands before every one of ``wanted`` in ``names``: "", "module.", "net." …; None when one is missing.

    DataParallel, torch.compile and training frameworks put such a prefix before a network's own names.
    """
    first = min(wanted, key=len)
    for prefix in sorted((name.removesuffix(first) for name in names if name.endswith(first)), key=len):
        if (not prefix or prefix.endswith(".")) and all(prefix + name in names for name in wanted):
            return prefix
    return None


def tensor_names(path: Path) -> frozenset[str]:
    """Names in a safetensors or torch file; of a torch file, every other word in it too.

    Raises:
        CheckpointError: The file is empty, truncated, unreadable, or neither kind of file.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(8)
            stream.seek(0)
            if start.startswith(b"PK"):
                names = _names_in_zip(path)
            elif start.startswith(b"\x80"):
                names = _names_in_pickles(stream, pickles=4)
            else:
                names = _names_in_safetensors(stream, path)
    except OSError as exc:
        raise CheckpointError(_ACTION, path, exc) from exc
    return frozenset(names)


def _names_in_zip(path: Path) -> set[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            member = next((info for info in archive.infolist() if info.filename.endswith("/data.pkl")), None)
            if member is None or member.file_size > MAX_HEADER_BYTES:
                raise CheckpointError(_ACTION, path, "it is a zip archive, but not one that torch wrote")
            with archive.open(member) as stream:
                return _names_in_pickles(stream, pickles=1)
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as exc:
        raise CheckpointError(
            _ACTION, path, "it is truncated or damaged", hint="copy it again and compare sizes or sha256 sums"
        ) from exc


def _names_in_pickles(stream: IO[bytes], *, pickles: int) -> set[str]:
    """Every text in a run of pickles; opcodes are only looked at, never executed."""
    names: set[str] = set()
    for _ in range(pickles):
        try:
            names.update(
                argument
                for opcode, argument, _ in pickletools.genops(stream)
                if opcode.name in _PICKLE_TEXT and isinstance(argument, str)
            )
        except ValueError:  # the end, or the raw numbers after the pickles of torch's old format
            break
    return names


def _names_in_safetensors(stream: BinaryIO, path: Path) -> set[str]:
    refusal = CheckpointError(
        _ACTION,
        path,
        "it is neither a safetensors nor a torch checkpoint, or it is truncated",
        hint="copy it again and compare sizes or sha256 sums",
    )
    head = stream.read(8)
    if len(head) < 8:
        raise refusal
    (length,) = struct.unpack("<Q", head)
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise refusal
    try:
        header = json.loads(stream.read(length))
    except ValueError as exc:
        raise refusal from exc
    if not isinstance(header, dict):
        raise refusal
    return {name for name in header if name != "__metadata__"}
