"""Parent side of reading: keep one reader child, feed it descriptors, hold it to its limits, replace it.

No decoder runs in this process and nothing here imports one. A file is passed as an open descriptor, never by name.
"""

from __future__ import annotations

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Self

from dfwatch.decode import wire
from dfwatch.decode.process import HungUpError, ReaderProcess, TimedOutError
from dfwatch.decode.wire import ProtocolError
from dfwatch.errors import ReaderCrashError, ReaderStartError, StorageError
from dfwatch.reading import thumbnail_side
from dfwatch.reasons import Reason

if TYPE_CHECKING:
    from types import TracebackType

    from dfwatch.config import FaceSettings, ReaderSettings
    from dfwatch.decode.process import Hello
    from dfwatch.reading import CropSpec, Reading

CHILD_MODULE = "dfwatch.decode.child"
# A read that fails, fails at its first bytes; a later one of them would be the start of another read.
_MOST_READ_AGAIN = 1024 * 1024


def reader_processes(settings: ReaderSettings, cores: int | None = None) -> int:
    """How many reader processes to run: as configured, else one for each core, at most eight.

    One reader leaves cores idle: whenever it waits for its next frame, and between two files. On two cores two of them
    read a folder in four fifths of the time that one needs (docs/performance.md).

    Args:
        settings: The reader's settings.
        cores: Cores that this process may use; None: ask the system.
    """
    return settings.processes or max(1, min(8, cores or _cores()))


def decoder_threads(settings: ReaderSettings, cores: int | None = None) -> int:
    """Threads of one decoder: as configured, else four, or one where there is one core only.

    They are for the single file, which is done sooner with more of them than there are cores, because they wait for
    each other; while every reader is busy they cost nothing that could be measured (docs/performance.md).
    """
    return settings.decoder_threads or (1 if (cores or _cores()) == 1 else 4)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


class Reader:
    """One reader child, started when first needed (or ahead, with ``start``), replaced after a crash or many files.

    ``read`` is for one thread at a time; ``close`` may be called from any thread and ends a read in progress.

    Args:
        settings: Sampling, formats and limits.
        faces: Face search.
        child_module: Module that runs as the child; tests put a faulty one in its place.
        thumbnail_side_px: Longer side of a thumbnail to bring of each sampled frame; 0 brings none.
    """

    def __init__(
        self,
        settings: ReaderSettings,
        faces: FaceSettings,
        *,
        child_module: str = CHILD_MODULE,
        thumbnail_side_px: int = 0,
    ) -> None:
        self._thumbnail_side_px = thumbnail_side(thumbnail_side_px, settings.frames)
        self._settings = replace(settings, decoder_threads=decoder_threads(settings))
        self._faces = faces
        self._module = child_module
        self._child: ReaderProcess | None = None
        self._jobs = 0
        self._closed = False
        self._lock = threading.Lock()
        # The kernel kills a child when the thread that started it ends, so one thread, as long-lived as this object,
        # starts them all.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="reader-start")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process id of the child; None while there is none."""
        child = self._child
        return None if child is None else child.process.pid

    def start(self) -> Hello:
        """Have a child ready; returns what it says of itself.

        Raises:
            ReaderStartError: It did not come up.
        """
        return self._ready_child().hello

    def read(self, fd: int, crop: CropSpec, *, subject: str = "") -> Reading:
        """Read one open regular file; its descriptor's position is neither used nor moved.

        Args:
            fd: Descriptor, open for reading; stays the caller's.
            crop: How faces are cut out.
            subject: How errors name the file.

        Raises:
            RefusedError: Kind of file, format, codec or a limit.
            UndecodableError: Nothing, or too little, could be decoded.
            ReaderStartError: No child could be started; the file is not to blame.
            ReaderCrashError: The child died, hung or broke a limit; the next call starts a new one.
            StorageError: The disk under the file failed; the file is not to blame.
        """
        child = self._ready_child()
        self._jobs += 1
        limit = self._settings.time_limit_s
        deadline = time.monotonic() + limit
        try:
            child.send(wire.encode_request(crop), fd, deadline)
            message, blob = child.receive(deadline, self._max_blob(crop))
            return self._understand(message, blob, crop, fd, subject)
        except TimedOutError:
            cause, reason = f"no answer within {limit:g} s", Reason.READER_TIMEOUT
            hint = "see reader.time_limit_s in the configuration"
        except (HungUpError, OSError):
            if self._closed:
                raise _closed_error() from None
            cause, reason = child.cause_of_death(self._settings)
            hint = ""
        except ProtocolError as error:
            cause, reason, hint = f"its answer is not one: {error}", Reason.READER_PROTOCOL, ""
        except BaseException:
            if child.dirty:
                self._drop(child)
            raise
        self._drop(child)
        raise ReaderCrashError("reading", subject, cause, reason=reason, hint=hint)

    def close(self) -> None:
        """End the child and wait for its end; further reads raise ReaderCrashError."""
        with self._lock:
            self._closed = True
            child, self._child = self._child, None
        if child is not None:
            child.kill()
        self._starter.shutdown(wait=True)

    def _max_blob(self, crop: CropSpec) -> int:
        faces = self._faces.max_per_frame * crop.size_px * crop.size_px
        return self._settings.frames * 3 * (faces + self._thumbnail_side_px**2)

    def _understand(self, message: dict[str, Any], blob: bytes, crop: CropSpec, fd: int, subject: str) -> Reading:
        if "ok" in message:
            return wire.decode_reading(
                message["ok"],
                blob,
                crop,
                self._settings.frames,
                self._faces.max_per_frame,
                thumbnail_side_px=self._thumbnail_side_px,
            )
        kind, reason, cause, hint = wire.decode_error(message.get("error"))
        if kind in {"refused", "undecodable"}:
            raise wire.media_error(kind, reason, cause, hint, subject)
        # What is left in a process that ran out of memory, or met a defect or a sick disk (whose error PyAV keeps for
        # later), is not to be trusted with the next file.
        self._drop(self._child)
        if kind == "disk":
            raise _disk_error(fd, message["error"], cause, subject)
        if kind == "memory":
            limit = self._settings.memory_limit_bytes
            cause, reason = f"it needed more than the {limit} bytes of memory allowed", Reason.READER_OUT_OF_MEMORY
            hint = "see reader.memory_limit_bytes in the configuration"
        raise ReaderCrashError("reading", subject, cause, reason=reason, hint=hint)

    def _ready_child(self) -> ReaderProcess:
        child = self._child
        if child is not None and (self._jobs >= self._settings.jobs_per_process or not child.is_alive()):
            self._drop(child)
            child = None
        if child is not None:
            return child
        if self._closed:
            raise _closed_error()
        options = json.dumps(
            {
                "reader": asdict(self._settings),
                "faces": asdict(self._faces),
                "thumbnail_side_px": self._thumbnail_side_px,
            }
        )
        try:
            child = self._starter.submit(ReaderProcess, self._module, options).result()
        except (RuntimeError, OSError) as error:
            raise ReaderStartError("starting", "the reader process", error, reason=Reason.READER_CRASHED) from error
        self._jobs = 0
        with self._lock:
            if not self._closed:
                self._child = child
                return child
        child.kill()
        raise _closed_error()

    def _drop(self, child: ReaderProcess | None) -> None:
        with self._lock:
            if child is self._child:
                self._child = None
        if child is not None:
            child.kill()


def _disk_error(fd: int, fields: object, cause: str, subject: str) -> StorageError | ReaderCrashError:
    """What to make of a child that says that the disk fails.

    A file is tried again for ever while its disk fails, so that a child which was taken over could keep it, and a
    reader, busy for good. What the child could not read is therefore read here, where it has no say.
    """
    offset, count = wire.decode_unreadable(fields)
    try:
        # Behind the file's end there are places that no disk can read.
        if offset < os.fstat(fd).st_size:
            os.pread(fd, min(count, _MOST_READ_AGAIN), offset)
    except OSError as error:
        return StorageError("reading", subject, error.strerror or error)
    return ReaderCrashError(
        "reading",
        subject,
        f"it says that the disk failed ({cause}), but the bytes at {offset} can be read",
        reason=Reason.READER_PROTOCOL,
        hint="look for errors of the disk in the kernel's log; if there are none, the file misled the reader",
    )


def _closed_error() -> ReaderCrashError:
    return ReaderCrashError("reading", "", "the reader is closed", reason=Reason.READER_CRASHED)
