"""Opens a settled file for a moment: is it still the same, is a writer there, what does its header declare?"""

from __future__ import annotations

import errno
import os

from dfwatch.inbox.beneath import open_file
from dfwatch.inbox.completeness import Fingerprint, Inspection, Kind, Length, Tracked, Writer
from dfwatch.inbox.containers import declared_length
from dfwatch.inbox.lease import LeaseProbe

_BUSY_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.EIO, errno.ESTALE})
_GONE_ERRORS = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class Inspector:
    """Looks into settled files; remembers what it learnt about leases."""

    def __init__(self) -> None:
        self.leases = LeaseProbe()

    def inspect(
        self, inbox_fd: int, tracked: Tracked, *, ask_for_lease: bool, problems: dict[str, str]
    ) -> Inspection | None:
        """What there is to know of a settled entry; None where that cannot be told now and may be told later.

        Args:
            inbox_fd: Descriptor of the inbox.
            tracked: The entry.
            ask_for_lease: Whether to ask the kernel for writers.
            problems: Takes path → cause for what went wrong.
        """
        if tracked.fingerprint.kind is not Kind.FILE:
            return Inspection()
        try:
            descriptor = open_file(inbox_fd, tracked.name)
        except BlockingIOError:
            # Another process holds a lease on it (Samba's oplocks, for one) and was asked to give it back.
            return Inspection(Writer.PRESENT, tracked.length)
        except OSError as error:
            if error.errno in _BUSY_ERRORS:
                problems[tracked.name] = error.strerror or str(error)
                return None
            # A file that may not be read is passed on: intake refuses it with a reason.
            return Inspection(changed=error.errno in _GONE_ERRORS)
        try:
            # On a network file system lstat may be answered from a cache; opening asks the server.
            if Fingerprint.from_stat(os.fstat(descriptor)) != tracked.fingerprint:
                return Inspection(changed=True)
            writer = self.leases.writer(descriptor) if ask_for_lease else Writer.UNKNOWN
            if tracked.inspected or writer is Writer.PRESENT:
                return Inspection(writer, tracked.length)
            return Inspection(writer, _length(descriptor, tracked.fingerprint.size_bytes))
        except OSError as error:
            # Its bytes cannot be read; the reader says so in a sidecar.
            problems[tracked.name] = error.strerror or str(error)
            return Inspection()
        finally:
            os.close(descriptor)


def _length(descriptor: int, size_bytes: int) -> Length:
    """How the file's length compares with what its header declares."""

    def read_at(offset: int, count: int) -> bytes:
        return os.pread(descriptor, count, offset) if offset < size_bytes else b""

    return declared_length(read_at, size_bytes).compare(size_bytes)
