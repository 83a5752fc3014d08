"""In the reader child: give up every power that reading a file does not need.

Each measure is tried; one that this kernel does not have is skipped and reported with its reason. None needs root.

* resource limits: address space, open files, no file may grow, no core dump; processor time anew for each file
* ``PR_SET_NO_NEW_PRIVS``, ``PR_SET_DUMPABLE`` 0: no set-user-id program helps, no equal user may look into the process
* Landlock (kernel 5.13 and later): no file can be opened, no TCP port used, no process outside signalled
* seccomp: no opening of files, no sockets, no programs, no processes, no signals to others (a descriptor's owner gets
  them too), no say in how others are scheduled, no kernel interfaces that decoders never use

What is left: reading the descriptors that the parent sends, memory, threads and time.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38
OPEN_FILES = 64

_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_RESTRICT_SELF = 446
# Number of file rights that each version of Landlock knows (linux/landlock.h); index 0 is version 1.
_LANDLOCK_FILE_RIGHTS = (13, 14, 15, 15, 16)

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SECCOMP_SET_MODE_FILTER = 1
_SECCOMP_FILTER_FLAG_TSYNC = 1
_RET_ALLOW = 0x7FFF0000
_RET_ERRNO = 0x00050000
_RET_KILL_PROCESS = 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24
_X32_BIT = 0x40000000
_CLONE_THREAD = 0x00010000

# System calls that fail with EPERM: (x86_64, aarch64), None where the machine has no such call (asm/unistd.h).
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # files
    "open": (2, None), "openat": (257, 56), "openat2": (437, 437), "creat": (85, None), "truncate": (76, 45),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "link": (86, None), "linkat": (265, 37),
    "symlink": (88, None), "symlinkat": (266, 36), "unlink": (87, None), "unlinkat": (263, 35), "mkdir": (83, None),
    "mkdirat": (258, 34), "rmdir": (84, None), "mknod": (133, None), "mknodat": (259, 33), "chmod": (90, None),
    "fchmodat": (268, 53), "chown": (92, None), "lchown": (94, None), "fchownat": (260, 54), "chdir": (80, 49),
    "chroot": (161, 51), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "memfd_create": (319, 279),
    # network and other ways to talk
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "io_uring_setup": (425, 425), "shmget": (29, 194),
    "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    # programs, processes, other processes
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kill": (62, 129), "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438), "unshare": (272, 97), "setns": (308, 268),
    # how other processes run; of itself a decoder asks, but sets nothing
    "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274), "setpriority": (141, 140), "ioprio_set": (251, 30), "migrate_pages": (256, 238),
    "move_pages": (279, 239), "process_madvise": (440, 440),
    # the kernel itself
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "init_module": (175, 105), "finit_module": (313, 273),
    "kexec_load": (246, 104), "reboot": (169, 142), "syslog": (103, 116), "personality": (135, 92),
    "clock_settime": (227, 112), "settimeofday": (164, 170),
}  # fmt: skip
_CLONE = (56, 220)
_CLONE3 = (435, 435)
_TGKILL = (234, 131)
_PRLIMIT64 = (302, 261)
_FCNTL = (72, 25)
_IOCTL = (16, 29)
# What reaches others through a descriptor. Its owner gets a signal of any number once it can be read (F_SETOWN,
# F_SETSIG, F_SETOWN_EX; FIOSETOWN, SIOCSPGRP); who opens a leased file for writing waits for the holder (F_SETLEASE);
# and the parent, which shares the file's flags, could read no more of it once they hold O_DIRECT (F_SETFL).
_DENIED_FCNTLS = (4, 8, 10, 15, 1024)
_DENIED_IOCTLS = (0x8901, 0x8902)


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
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)  # noqa: PLW2901 - never above a limit
        resource.setrlimit(kind, (value, value))


def limit_cpu_time(seconds: float) -> None:
    """Allow this much more processor time; the kernel sends SIGXCPU when it is used up."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def confine() -> Report:
    """Give up new privileges, then files, network and processes; called once all that is needed is loaded.

    The calling thread must be the only one: Landlock holds for the thread that asks and for those it starts.
    """
    report = Report()
    measures: tuple[tuple[str, Callable[[], None]], ...] = (
        ("no_new_privs", lambda: _prctl(PR_SET_NO_NEW_PRIVS, 1)),
        ("not_dumpable", lambda: _prctl(PR_SET_DUMPABLE, 0)),
        ("landlock", _landlock),
        ("seccomp", _seccomp),
    )
    for name, measure in measures:
        try:
            measure()
        except OSError as error:
            report.skipped.append(f"{name}: {error.strerror}")
        else:
            report.held.append(name)
    return report


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    _checked(_libc().prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero))


def _syscall(number: int, *arguments: object) -> int:
    return _checked(_libc().syscall(ctypes.c_long(number), *arguments))


def _landlock() -> None:
    """Handle every right that this kernel knows and allow none."""
    nothing, version_flag = ctypes.c_void_p(None), ctypes.c_uint32(1)
    version = _syscall(_LANDLOCK_CREATE_RULESET, nothing, ctypes.c_size_t(0), version_flag)
    rights = _LANDLOCK_FILE_RIGHTS[min(version, len(_LANDLOCK_FILE_RIGHTS)) - 1]
    handled = struct.pack("=Q", (1 << rights) - 1)
    if version >= 4:
        handled += struct.pack("=Q", 0b11)  # binding and connecting of TCP ports
    if version >= 6:
        handled += struct.pack("=Q", 0b11)  # abstract sockets of, and signals to, processes outside
    attributes = ctypes.create_string_buffer(handled, len(handled))
    ruleset = _syscall(
        _LANDLOCK_CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(len(handled)), ctypes.c_uint32(0)
    )
    try:
        _syscall(_LANDLOCK_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def seccomp_filter(machine: str, pid: int) -> bytes:
    """The filter's instructions for ``x86_64`` or ``aarch64``; ``pid`` may send signals to its own threads (abort).

    Raises:
        OSError: There is none for this machine.
    """
    if machine not in _AUDIT_ARCH:
        raise OSError(errno.ENOSYS, f"no filter for {machine}")
    column = 0 if machine == "x86_64" else 1

    def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("=HBBI", code, if_true, if_false, value)

    deny = instruction(_RETURN, _RET_ERRNO | errno.EPERM)
    allow = instruction(_RETURN, _RET_ALLOW)
    number = instruction(_LOAD, _NUMBER)
    program = [
        instruction(_LOAD, _ARCH),
        instruction(_EQUAL, _AUDIT_ARCH[machine], 1, 0),
        instruction(_RETURN, _RET_KILL_PROCESS),
        number,
    ]
    if machine == "x86_64":
        program += [instruction(_AT_LEAST, _X32_BIT, 0, 1), deny]
    # glibc falls back from clone3, whose flags a filter cannot see, to clone.
    program += [instruction(_EQUAL, _CLONE3[column], 0, 1), instruction(_RETURN, _RET_ERRNO | errno.ENOSYS)]
    first = instruction(_LOAD, _FIRST_ARGUMENT)
    for call, test in (
        (_CLONE, instruction(_ANY_BIT, _CLONE_THREAD, 0, 1)),
        (_TGKILL, instruction(_EQUAL, pid, 0, 1)),
        (_PRLIMIT64, instruction(_EQUAL, 0, 0, 1)),
    ):
        # Not this call: skip the four that follow.
        program += [instruction(_EQUAL, call[column], 0, 4), first, test, allow, deny]
    second = instruction(_LOAD, _SECOND_ARGUMENT)
    for call, commands in ((_FCNTL, _DENIED_FCNTLS), (_IOCTL, _DENIED_IOCTLS)):
        tests = [instruction(_EQUAL, command, len(commands) - at, 0) for at, command in enumerate(commands)]
        program += [instruction(_EQUAL, call[column], 0, len(tests) + 3), second, *tests, allow, deny]
    for numbers in _DENIED.values():
        if (denied := numbers[column]) is not None:
            program += [instruction(_EQUAL, denied, 0, 1), deny]
    return b"".join([*program, allow])


def _seccomp() -> None:
    machine = platform.machine()
    instructions = seccomp_filter(machine, os.getpid())
    buffer = ctypes.create_string_buffer(instructions, len(instructions))
    program = _Program(len(instructions) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    _syscall(
        _SECCOMP[machine],
        ctypes.c_uint(_SECCOMP_SET_MODE_FILTER),
        ctypes.c_uint(_SECCOMP_FILTER_FLAG_TSYNC),
        ctypes.byref(program),
    )
