"""What kind of file system a folder lies on, and what inotify may use on this machine (Linux: ``/proc``)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

MOUNTINFO = "/proc/self/mountinfo"
_INOTIFY_LIMITS = "/proc/sys/fs/inotify"

# Other machines (or the host of this virtual one) change files there without this kernel's knowledge: no event comes,
# and a lease says nothing about a remote writer.
_SHARED_TYPES = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "drvfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs",
    "nfs", "nfs4", "ocfs2", "orangefs", "prl_fs", "pvfs2", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted file system.

    Attributes:
        mount_point: Where it is mounted, as ``os.fsdecode`` gives it.
        type: The kernel's name of the file system (``ext4``, ``nfs4``, ``fuse.sshfs``); empty where unknown.
        source: The device or server; empty where unknown.
    """

    mount_point: str = ""
    type: str = ""
    source: str = ""

    @property
    def is_shared(self) -> bool:
        """Whether others than this kernel may change files (network, cluster and host-shared file systems).

        Every FUSE file system except those on a block device (``fuseblk``) counts: what its server does is unknown.
        """
        return self.type in _SHARED_TYPES or self.type.startswith("fuse.") or self.type == "fuse"


def _unescape(field: str) -> str:
    raw = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8) & 0xFF]), os.fsencode(field))
    return os.fsdecode(raw)


def parse_mountinfo(text: str) -> list[Mount]:
    """The mounts in the text of ``/proc/self/mountinfo`` (proc_pid_mountinfo(5)); lines out of form are left out."""
    mounts: list[Mount] = []
    for line in text.splitlines():
        left, separator, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if separator and len(fields) >= 6 and len(tail) >= 2:
            mounts.append(Mount(_unescape(fields[4]), tail[0], _unescape(tail[1])))
    return mounts


def find_mount(mounts: list[Mount], path: str) -> Mount:
    """The mount that holds ``path`` (absolute, symbolic links resolved); of several on one point the last, the top."""
    best = Mount()
    for mount in mounts:
        point = mount.mount_point
        inside = path == point or path.startswith(point if point.endswith("/") else point + "/")
        if inside and len(point) >= len(best.mount_point):
            best = mount
    return best


def mount_of(path: str) -> Mount:
    """The mount that holds ``path``; an unknown one (empty type) where the kernel does not say."""
    try:
        with open(MOUNTINFO, encoding="utf-8", errors="surrogateescape") as file:
            mounts = parse_mountinfo(file.read())
        return find_mount(mounts, os.path.realpath(path))
    except OSError:
        return Mount()


def mount_id(path: str) -> str:
    """What tells the mount that holds a folder from all others; empty where the kernel does not say.

    Nothing can be renamed from one mount to another, though both may be of one file system (bind mounts).
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            return next((line.split()[1].decode() for line in file if line.startswith(b"mnt_id:")), "")
    except OSError:
        return ""
    finally:
        os.close(fd)


def inotify_limits() -> dict[str, int]:
    """``max_user_watches``, ``max_user_instances`` and ``max_queued_events`` of this machine, as far as known."""
    limits: dict[str, int] = {}
    for name in ("max_user_watches", "max_user_instances", "max_queued_events"):
        try:
            with open(f"{_INOTIFY_LIMITS}/{name}", encoding="ascii") as file:
                limits[name] = int(file.read())
        except (OSError, ValueError):
            continue
    return limits
