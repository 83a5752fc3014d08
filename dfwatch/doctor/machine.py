"""The machine: inotify, memory, limits of this process, the clock."""

from __future__ import annotations

import ctypes
import os
import resource
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dfwatch.doctor.finding import Finding, fail, ok, warn
from dfwatch.inbox.filesystems import inotify_limits, mount_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dfwatch.config import ReaderSettings, WatchSettings
    from dfwatch.storage.layout import Layout

_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_TIMEX_BYTES = 256  # more than struct timex has on any machine


def inotify(layout: Layout, settings: WatchSettings, limits: Mapping[str, int] | None = None) -> Finding:
    """Whether file events can be had for every folder of the inbox."""
    name = "inotify"
    if settings.events == "off":
        return ok(name, "switched off (watch.events); files are found by scanning")
    if settings.events == "auto" and mount_of(layout.inbox).is_shared:
        return ok(name, "not used on a network file system; files are found by scanning")
    limits = inotify_limits() if limits is None else limits
    watches, instances = limits.get("max_user_watches", 0), limits.get("max_user_instances", 0)
    folders = sum(1 for _ in os.walk(layout.inbox)) if settings.recursive else 1
    found = f"{watches} watches, {instances} instances, {limits.get('max_queued_events', 0)} queued events"
    if not watches or not instances:
        return warn(name, f"{found}: this kernel gives none", "files are found by scanning (watch.scan_interval_s)")
    if folders > watches // 2 or watches < 8192:
        advice = "echo fs.inotify.max_user_watches=524288 >/etc/sysctl.d/60-dfwatch.conf && sysctl --system"
        return warn(name, f"{found}; the inbox has {folders} folder(s), and each needs a watch", advice)
    if instances < 128:
        advice = "echo fs.inotify.max_user_instances=512 >/etc/sysctl.d/60-dfwatch.conf && sysctl --system"
        return warn(name, f"{found}; all programs of a user share the instances", advice)
    return ok(name, found)


def memory(settings: ReaderSettings, meminfo: str = "/proc/meminfo") -> Finding:
    """Whether there is memory for a model and a reader."""
    name = "memory"
    with open(meminfo, encoding="ascii", errors="replace") as file:
        rows = dict(line.split(":", 1) for line in file if ":" in line)
    total, available = (int(rows[key].split()[0]) / 1024**2 for key in ("MemTotal", "MemAvailable"))
    found = f"{available:.1f} GiB available of {total:.1f} GiB"
    if total < 2:
        return fail(
            name, found, "2 GiB are the least: a ResNeXt50 with batches of 32 takes 1.2 GiB, a reader 0.1 GiB and more"
        )
    if available < 1.5:
        return warn(
            name,
            found,
            "a ResNeXt50 with batches of 32 takes 1.2 GiB, a reader 0.1 GiB and more: end what else uses memory",
        )
    limit = settings.memory_limit_bytes / 1024**3
    if limit > total:
        return warn(
            name,
            f"{found}; reader.memory_limit_bytes ({limit:.1f} GiB) is more than there is",
            "a hostile video could use up the machine's memory: lower reader.memory_limit_bytes",
        )
    return ok(name, found)


def limits() -> Finding:
    """Resource limits that this process was started with."""
    name = "limits"
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= files < 512:
        return warn(name, f"{files} open files", "ulimit -n 1024, or LimitNOFILE= in the unit")
    tight = [
        label
        for label, kind in (
            ("address space (-v)", resource.RLIMIT_AS),
            ("file size (-f)", resource.RLIMIT_FSIZE),
            ("processor time (-t)", resource.RLIMIT_CPU),
        )
        if resource.getrlimit(kind)[0] != resource.RLIM_INFINITY
    ]
    if tight:
        return warn(name, f"limited: {', '.join(tight)}", "take the limit away where the service is started (ulimit)")
    return ok(name, f"{files} open files" if files >= 0 else "unlimited open files")


def clock(now_s: float | None = None, *, synchronised: bool | None = None) -> Finding:
    """Whether the wall clock can be right; verdicts carry its times. Waiting times do not depend on it."""
    name = "clock"
    now_s = time.time() if now_s is None else now_s
    shown = datetime.fromtimestamp(now_s, UTC).isoformat(timespec="seconds")
    if now_s < os.stat(__file__).st_mtime - 86400:
        return fail(name, f"{shown}, which is before dfwatch was installed", "set the clock: timedatectl set-ntp true")
    synchronised = _is_synchronised() if synchronised is None else synchronised
    if not synchronised:
        return warn(
            name, f"{shown}, not synchronised", "timedatectl set-ntp true, so that verdicts carry the right time"
        )
    return ok(name, f"{shown}, synchronised")


def _is_synchronised() -> bool:
    # adjtimex with modes = 0 changes nothing and needs no privilege; its result tells the state of the clock.
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))) != _TIME_ERROR
