"""Ask the kernel whether any process of this machine has a file open for writing (fcntl(2), F_SETLEASE).

A read lease is granted only while nobody can write to the file, so asking for one answers the question. It is given
back at once: a process that opens the file for writing in the microseconds between waits for exactly that long.
"""

from __future__ import annotations

import errno
import fcntl
import signal

from dfwatch.inbox.completeness import Writer


class LeaseProbe:
    """Asks for leases and remembers why it could not."""

    def __init__(self) -> None:
        self.impossible: dict[int, str] = {}
        self.worked = False

    def writer(self, descriptor: int) -> Writer:
        """Whether a local process can write to the file; ``descriptor`` is open for reading only.

        Unknown where this process may not ask (the file is another user's and CAP_LEASE is missing) or the file system
        does not know leases.
        """
        try:
            # The kernel tells a lease holder of a writer by SIGIO, which would end the process. SIGURG is ignored
            # unless somebody asks for it, in every thread, and nothing has to be set up for it.
            fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                self.worked = True
                return Writer.PRESENT
            self.impossible.setdefault(error.errno or 0, error.strerror or "")
            return Writer.UNKNOWN
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        self.worked = True
        return Writer.NONE
