"""The seccomp filter's decisions, on both kinds of machine, by running its instructions; and what is reported."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING

import pytest

from dfwatch.decode import confinement
from dfwatch.decode.confinement import seccomp_filter

if TYPE_CHECKING:
    from collections.abc import Callable

ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL = "allow", "kill"
PID = 4242


def decide(machine: str, number: int, first: int = 0, second: int = 0, arch: int | None = None) -> str:
    """What the filter does with a system call: a classic BPF machine of the six instructions that it uses."""
    head = struct.pack("=IIQ", number, ARCH[machine] if arch is None else arch, 0)
    data = head + struct.pack("=6Q", first, second, *[0] * 4)
    program = list(struct.iter_unpack("=HBBI", seccomp_filter(machine, PID)))
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, value = program[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif code == 0x06:
            return {0x7FFF0000: ALLOW, 0x80000000: KILL}.get(value) or errno.errorcode[value & 0xFFFF]
        else:
            test = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[code]
            at += if_true if test else if_false


@pytest.mark.parametrize("machine", ARCH)
def test_what_a_decoder_needs_is_allowed(machine: str) -> None:
    needed = {
        "x86_64": {"read": 0, "mmap": 9, "munmap": 11, "pread64": 17, "futex": 202, "recvmsg": 47, "sendto": 44,
                   "close": 3, "lseek": 8, "fstat": 5, "exit_group": 231, "getrusage": 98, "poll": 7},
        "aarch64": {"read": 63, "mmap": 222, "munmap": 215, "pread64": 67, "futex": 98, "recvmsg": 212, "sendto": 206,
                    "close": 57, "lseek": 62, "fstat": 80, "exit_group": 94, "getrusage": 165, "ppoll": 73},
    }  # fmt: skip
    assert {name: decide(machine, number) for name, number in needed[machine].items()} == dict.fromkeys(
        needed[machine], ALLOW
    )


@pytest.mark.parametrize("machine", ARCH)
def test_what_it_does_not_need_is_denied(machine: str) -> None:
    denied = {
        "x86_64": {"open": 2, "openat": 257, "socket": 41, "connect": 42, "execve": 59, "fork": 57, "ptrace": 101,
                   "kill": 62, "io_uring_setup": 425, "mount": 165, "bpf": 321},
        "aarch64": {"openat": 56, "socket": 198, "connect": 203, "execve": 221, "ptrace": 117, "kill": 129,
                    "io_uring_setup": 425, "mount": 40, "bpf": 280},
    }  # fmt: skip
    assert set(map(lambda number: decide(machine, number), denied[machine].values())) == {"EPERM"}  # noqa: C417


@pytest.mark.parametrize(("machine", "clone", "clone3"), [("x86_64", 56, 435), ("aarch64", 220, 435)])
def test_threads_but_no_processes(machine: str, clone: int, clone3: int) -> None:
    thread_flags = 0x3D0F00
    assert decide(machine, clone, thread_flags) == ALLOW
    assert decide(machine, clone, 0x01200011) == "EPERM"
    assert decide(machine, clone3) == "ENOSYS"


@pytest.mark.parametrize(("machine", "tgkill", "prlimit"), [("x86_64", 234, 302), ("aarch64", 131, 261)])
def test_only_itself(machine: str, tgkill: int, prlimit: int) -> None:
    assert decide(machine, tgkill, PID) == ALLOW
    assert decide(machine, tgkill, 1) == "EPERM"
    assert decide(machine, prlimit, 0) == ALLOW
    assert decide(machine, prlimit, 1) == "EPERM"


@pytest.mark.parametrize("machine", ARCH)
def test_no_say_in_how_others_run(machine: str) -> None:
    setters = {
        "x86_64": {"sched_setparam": 142, "sched_setscheduler": 144, "sched_setaffinity": 203, "sched_setattr": 314,
                   "setpriority": 141, "ioprio_set": 251},
        "aarch64": {"sched_setparam": 118, "sched_setscheduler": 119, "sched_setaffinity": 122, "sched_setattr": 274,
                    "setpriority": 140, "ioprio_set": 30},
    }  # fmt: skip
    getters = {
        "x86_64": {"sched_yield": 24, "sched_getparam": 143, "sched_getscheduler": 145, "sched_getaffinity": 204,
                   "sched_get_priority_max": 146, "getpriority": 140},
        "aarch64": {"sched_yield": 124, "sched_getparam": 121, "sched_getscheduler": 120, "sched_getaffinity": 123,
                    "sched_get_priority_max": 125, "getpriority": 141},
    }  # fmt: skip
    assert {decide(machine, number) for number in setters[machine].values()} == {"EPERM"}
    assert {decide(machine, number) for number in getters[machine].values()} == {ALLOW}


@pytest.mark.parametrize(("machine", "fcntl", "ioctl"), [("x86_64", 72, 16), ("aarch64", 25, 29)])
def test_nobody_is_reached_through_a_descriptor(machine: str, fcntl: int, ioctl: int) -> None:
    denied = {"F_SETFL": 4, "F_SETOWN": 8, "F_SETSIG": 10, "F_SETOWN_EX": 15, "F_SETLEASE": 1024}
    f_dupfd, f_getfl, f_getown, f_dupfd_cloexec = 0, 3, 9, 1030
    fiosetown, siocspgrp, tcgets, fionread = 0x8901, 0x8902, 0x5401, 0x541B
    assert {decide(machine, fcntl, 5, command) for command in denied.values()} == {"EPERM"}
    assert {decide(machine, ioctl, 5, command) for command in (fiosetown, siocspgrp)} == {"EPERM"}
    needed = (f_dupfd, f_getfl, f_getown, f_dupfd_cloexec)
    assert {decide(machine, fcntl, denied["F_SETOWN"], command) for command in needed} == {ALLOW}
    assert {decide(machine, ioctl, fiosetown, command) for command in (tcgets, fionread)} == {ALLOW}


def test_other_ways_into_the_kernel() -> None:
    assert decide("x86_64", 0, arch=0x40000003) == KILL
    assert decide("x86_64", 0x40000000) == "EPERM"


def test_a_machine_without_a_filter() -> None:
    with pytest.raises(OSError, match="no filter for riscv64"):
        seccomp_filter("riscv64", PID)


def test_what_the_kernel_does_not_have_is_skipped_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    done: list[tuple[int, int]] = []
    steps: dict[str, Callable[..., object]] = {
        "_landlock": refuse,
        "_seccomp": refuse,
        "_prctl": lambda option, value: done.append((option, value)),
    }
    for name, step in steps.items():
        monkeypatch.setattr(confinement, name, step)

    report = confinement.confine()

    assert report.held == ["no_new_privs", "not_dumpable"]
    assert report.skipped == ["landlock: Function not implemented", "seccomp: Function not implemented"]
    assert done == [(38, 1), (4, 0)]
