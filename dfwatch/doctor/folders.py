"""The root's folders: permissions, renaming, file system, what lies in the inbox, space, leases."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from typing import TYPE_CHECKING

from dfwatch.doctor.finding import Finding, fail, ok, warn
from dfwatch.inbox.completeness import Writer
from dfwatch.inbox.filesystems import mount_of
from dfwatch.inbox.lease import LeaseProbe
from dfwatch.printable import printable
from dfwatch.storage.layout import FOLDERS, Layout

if TYPE_CHECKING:
    from collections.abc import Iterator

_CAP_LEASE = 28
_LOOKED_AT = 20_000
_PREFIX = ".dfwatch-doctor-"
_CASE_BLIND = frozenset({"vfat", "exfat", "msdos", "ntfs", "ntfs3", "hfs", "hfsplus"})
_RUN_AS_SERVICE = "run it as the service's user: sudo -u dfwatch dfwatch doctor"


def permissions(layout: Layout) -> Finding:
    """Whether this user can work in every folder."""
    name = "folders"
    if obstacle := next(filter(None, map(_no_folder_on, (layout.root, *map(layout.folder, FOLDERS)))), ""):
        advice = "move it out of the way, or name another root in the configuration"
        return fail(name, f"{printable(obstacle)} is no folder", advice)
    if not os.path.isdir(layout.root):
        above = _nearest_existing(layout.root)
        if not _may(above, os.W_OK | os.X_OK):
            advice = f"make {layout.root} and give it to the service's user, or name another root in the configuration"
            return fail(name, f"{layout.root} is not there, and {above} is not writable for {_who()}", advice)
        return ok(name, f"{layout.root} is not there yet; the first start makes it")
    closed, missing = [], []
    for folder in FOLDERS:
        path = layout.folder(folder)
        if not os.path.isdir(path):
            missing.append(folder)
        elif not _may(path, os.R_OK | os.W_OK | os.X_OK):
            closed.append(f"{folder}/ ({_owner(path)})")
    if closed:
        return fail(name, f"not readable and writable for {_who()}: {', '.join(closed)}", _RUN_AS_SERVICE)
    if missing and not _may(layout.root, os.W_OK | os.X_OK):
        return fail(
            name,
            f"{', '.join(missing)} missing, and {layout.root} ({_owner(layout.root)}) is not writable for {_who()}",
            _RUN_AS_SERVICE,
        )
    owner = os.stat(layout.root).st_uid
    if os.geteuid() == 0 and owner != 0:
        return warn(
            name,
            f"{layout.root} belongs to uid {owner}, and root may do everything, so nothing is proved",
            _RUN_AS_SERVICE,
        )
    missing_text = f"; {', '.join(missing)} will be made at the start" if missing else ""
    return ok(name, f"{layout.root} ({_owner(layout.root)}), checked as {_who()}{missing_text}")


def renaming(layout: Layout) -> Finding:
    """Whether files can be renamed between the folders, which is how none is ever lost."""
    name = "renaming"
    present = [folder for folder in FOLDERS if os.path.isdir(layout.folder(folder))]
    if len(present) < len(FOLDERS):
        return ok(name, "not tried: the folders are made at the first start")
    try:
        with _probe(layout.work) as path:
            current = path
            for folder in (*(folder for folder in present if folder != "work"), "work"):
                target = os.path.join(layout.folder(folder), os.path.basename(path))
                os.rename(current, target)
                current = target
    except OSError as error:
        with contextlib.suppress(OSError, UnboundLocalError):
            os.unlink(current)
        advice = "one file system must be mounted at the root, not several below it; and the folders must be writable"
        return fail(name, f"{error.filename} → {error.filename2 or '?'}: {error.strerror}", advice)
    return ok(name, "a file went through every folder")


def file_system(layout: Layout) -> Finding:
    """On which kind of file system the root lies."""
    name = "file system"
    where = _nearest_existing(layout.root)
    mount = mount_of(where)
    found = f"{mount.type or 'unknown'}, mounted at {printable(mount.mount_point)}"
    if mount.is_shared:
        advice = (
            "senders on other machines cannot be noticed by events or leases: files are found by scanning, and "
            "watch.quiet_s should be longer than the longest pause of a sender"
        )
        return warn(name, f"{found}, a network or shared file system", advice)
    if mount.type in _CASE_BLIND:
        return warn(
            name, f"{found}, which does not tell upper from lower case", "use ext4, XFS or another file system of Linux"
        )
    if mount.type == "tmpfs":
        return warn(name, f"{found}: everything is lost when the machine stops", "put the root onto a disk")
    return ok(name, found)


def inbox_contents(layout: Layout) -> Finding:
    """Whether what lies in the inbox can be read and taken away."""
    name = "inbox"
    if not os.path.isdir(layout.inbox):
        return ok(name, "not there yet")
    stuck, unreadable, files = [], [], 0
    for path, entry in _below(layout.inbox):
        if stat.S_ISDIR(entry.st_mode) and not _may(path, os.R_OK | os.W_OK | os.X_OK):
            stuck.append(path)
        elif stat.S_ISREG(entry.st_mode):
            files += 1
            if not _may(path, os.R_OK):
                unreadable.append(path)
    if stuck:
        return fail(
            name,
            f"{_some(stuck)}: files cannot be taken out of it as {_who()}",
            "let the senders' folders be writable for the service's group: chmod -R g+rwX on them, or see "
            "docs/operations.md on senders that set permissions themselves",
        )
    if unreadable:
        return warn(
            name, f"{_some(unreadable)}: not readable as {_who()}, will be refused", "chmod g+r before it is moved in"
        )
    return ok(name, f"{files} file{'' if files == 1 else 's'} waiting")


def disk(layout: Layout, min_free_bytes: int) -> Finding:
    """Free space and free inodes, against the limit at which intake pauses."""
    name = "disk"
    where = _nearest_existing(layout.root)
    usage = shutil.disk_usage(where)
    status = os.statvfs(where)
    found = f"{_size(usage.free)} free of {_size(usage.total)}"
    if usage.free < min_free_bytes:
        return fail(
            name,
            f"{found}: intake pauses below {_size(min_free_bytes)} (watch.min_free_bytes)",
            "make room, for instance in done/",
        )
    if status.f_files and status.f_favail < 1000:
        return fail(
            name, f"{found}, but only {status.f_favail} inodes", "remove files; a new file system needs more inodes"
        )
    if usage.free < 4 * min_free_bytes or (status.f_files and status.f_favail < status.f_files * 0.02):
        return warn(name, f"{found}; intake pauses below {_size(min_free_bytes)}", "make room before that")
    return ok(name, found)


def leases(layout: Layout, setting: str) -> Finding:
    """Whether the kernel tells who still writes a file."""
    name = "leases"
    if setting == "off":
        return ok(name, "switched off (watch.lease)")
    where = layout.state if _may(layout.state, os.W_OK) else tempfile.gettempdir()
    probe = LeaseProbe()
    with _probe(where) as path:
        writer = os.open(path, os.O_WRONLY)
        reader = os.open(path, os.O_RDONLY)
        try:
            while_written = probe.writer(reader)
            os.close(writer)
            writer = -1
            afterwards = probe.writer(reader)
        finally:
            os.close(reader)
            if writer >= 0:
                os.close(writer)
    if (while_written, afterwards) != (Writer.PRESENT, Writer.NONE):
        why = "; ".join(probe.impossible.values()) or "its answers are wrong"
        return warn(
            name,
            f"not to be had in {where}: {why}",
            "completeness is judged by watch.quiet_s alone; make it long enough",
        )
    if not _has_capability(_CAP_LEASE):
        return warn(
            name,
            f"only for files that belong to {_who()}",
            "other users' files are judged by watch.quiet_s alone; the unit of `dfwatch install-units` gives the "
            "service CAP_LEASE, or let all senders write as the service's user",
        )
    return ok(name, "the kernel tells who still writes a file, whoever it belongs to")


@contextlib.contextmanager
def _probe(folder: str) -> Iterator[str]:
    descriptor, path = tempfile.mkstemp(prefix=_PREFIX, dir=folder)
    os.close(descriptor)
    try:
        yield path
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _below(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Entries below a folder and their status, links not followed; at most as many as can be looked at in a moment."""
    seen = 0
    for base, folders, names in os.walk(folder):
        for entry in (*folders, *names):
            seen += 1
            if seen > _LOOKED_AT:
                return
            path = os.path.join(base, entry)
            with contextlib.suppress(OSError):
                yield path, os.lstat(path)


def _may(path: str, wanted: int) -> bool:
    return os.access(path, wanted, effective_ids=True)


def _has_capability(number: int) -> bool:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        held = next((line.split()[1] for line in file if line.startswith("CapEff:")), "0")
    return bool(int(held, 16) >> number & 1)


def _nearest_existing(path: str) -> str:
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _no_folder_on(path: str) -> str:
    """What lies on a path where a folder must be; empty where nothing does."""
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        if os.path.lexists(path):
            return path
        path = os.path.dirname(path)
    return ""


def _some(paths: list[str]) -> str:
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"{printable(paths[0])}{more}"


def _who() -> str:
    return f"uid {os.geteuid()}"


def _owner(path: str) -> str:
    status = os.stat(path)
    return f"uid {status.st_uid}, gid {status.st_gid}, mode {status.st_mode & 0o7777:o}"


def _size(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"
