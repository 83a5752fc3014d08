"""Calls of the service that are told to fail while it runs, and a clock that jumps."""

from __future__ import annotations

import errno
import mmap
import os
import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from dfwatch.journal import Journal
from dfwatch.storage import durable, stamps

OPERATIONS = ("mkdir", "create", "open", "fsync", "rename", "unlink", "read", "journal")
ERRNOS = {name: getattr(errno, name) for name in ("ENOSPC", "EIO", "EROFS", "EACCES", "EMFILE")}


class Faults:
    """Which operations of the service fail, and with what; in a file that the test and the service both have mapped."""

    _FORMAT = struct.Struct("iid")

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(fd, mmap.PAGESIZE)
            self._memory = mmap.mmap(fd, mmap.PAGESIZE)
        finally:
            os.close(fd)

    def set(self, *operations: str, number: int = 0, clock_s: float = 0.0) -> None:
        mask = sum(1 << OPERATIONS.index(operation) for operation in operations)
        self._memory[: self._FORMAT.size] = self._FORMAT.pack(mask, number, clock_s)

    def state(self) -> tuple[int, int, float]:
        mask, number, clock_s = self._FORMAT.unpack(self._memory[: self._FORMAT.size])
        return mask, number, clock_s

    def number(self, operation: str) -> int:
        mask, number, _ = self.state()
        return number if mask >> OPERATIONS.index(operation) & 1 else 0

    def close(self) -> None:
        self._memory.close()

    def install(self, root: str) -> None:
        """In the service's process: let the calls fail that were told to."""

        def failing(operation: str, real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                which = operation
                if operation == "open" and len(args) > 1 and args[1] & os.O_CREAT:
                    which = "create"
                number = self.number(which)
                within = not isinstance(args[0], str | bytes) or os.fsdecode(args[0]).startswith(root)
                if number and within:
                    raise OSError(number, os.strerror(number), *(a for a in args[:1] if isinstance(a, str)))
                return real(*args, **kwargs)

            return call

        for name, operation in (
            ("mkdir", "mkdir"), ("open", "open"), ("fsync", "fsync"), ("unlink", "unlink"), ("rmdir", "unlink"),
            ("rename", "rename"), ("preadv", "read"),
        ):  # fmt: skip
            setattr(os, name, failing(operation, getattr(os, name)))
        rename = durable._libc_renameat2()
        assert rename is not None

        def renameat2(source: bytes, target: bytes) -> int:
            return self.number("rename") or rename(source, target)

        durable._libc_renameat2 = lambda: renameat2  # type: ignore[assignment]
        real_write = Journal._write

        @contextmanager
        def write(journal: Journal) -> Iterator[sqlite3.Connection]:
            with real_write(journal) as db:
                if number := self.number("journal"):
                    raise sqlite3.OperationalError(os.strerror(number))
                yield db

        Journal._write = write  # type: ignore[method-assign]

        faults = self

        class Jumping(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:
                return datetime.now(tz) + timedelta(seconds=faults.state()[2])

        stamps.datetime = Jumping  # type: ignore[attr-defined]
