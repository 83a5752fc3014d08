"""In the reader child: give up every power that reading a file does not need.

Each measure is tried; one that this kernel does not have is skipped and reported with its reason.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from dataclasses import dataclass, field

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38
OPEN_FILES = 64


@dataclass(slots=True)
class Report:
    """What was done.

    Attributes:
        held: Measures in force.
        skipped: Measures that are not, each with its reason.
    """

    held: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def tie_to_parent() -> None:
    """Be killed when the thread that started this process ends, so that no crash leaves an orphan."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def limit_resources(memory_bytes: int) -> None:
    """Set the limits that hold for the whole life of the process."""
    for kind, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
    ):
        resource.setrlimit(kind, (value, value))


def limit_cpu_time(seconds: float) -> None:
    """Allow this much more processor time; the kernel sends SIGXCPU when it is used up."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def confine() -> Report:
    """Give up new privileges, then files, network and processes; called once all that is needed is loaded."""
    report = Report()
    for name, option, value in (
        ("no_new_privs", PR_SET_NO_NEW_PRIVS, 1),
        ("not_dumpable", PR_SET_DUMPABLE, 0),
    ):
        try:
            _prctl(option, value)
        except OSError as error:
            report.skipped.append(f"{name}: {error.strerror}")
        else:
            report.held.append(name)
    return report


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
