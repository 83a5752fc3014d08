from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from dfwatch.inbox import filesystems
from dfwatch.inbox.filesystems import Mount, find_mount, inotify_limits, mount_of, parse_mountinfo

if TYPE_CHECKING:
    from pathlib import Path

MOUNTINFO = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:25 / /srv rw,nosuid - tmpfs tmpfs rw
36 22 0:48 / /mnt/news\040desk rw,relatime shared:7 master:2 - nfs4 server:/export/a\040b rw,vers=4.2
37 22 0:49 / /mnt/samba rw - cifs //server/share rw
38 22 0:50 / /mnt/sshfs rw - fuse.sshfs user@host:/x rw
39 22 8:1 / /mnt/stick rw - fuseblk /dev/sda1 rw
40 30 254:1 /sub /srv/dfwatch rw - xfs /dev/vdb rw
41 40 0:60 / /srv/dfwatch rw - ext4 /dev/vdc rw
a line that is out of form
""".strip()


@pytest.mark.parametrize(
    ("path", "kind", "shared"),
    [
        ("/home/x", "ext4", False),
        ("/", "ext4", False),
        ("/srv", "tmpfs", False),
        ("/srvx", "ext4", False),
        ("/srv/dfwatch/inbox", "ext4", False),
        ("/mnt/news desk/inbox", "nfs4", True),
        ("/mnt/samba/a", "cifs", True),
        ("/mnt/sshfs", "fuse.sshfs", True),
        ("/mnt/stick/a", "fuseblk", False),
    ],
)
def test_the_mount_that_holds_a_path(path: str, kind: str, shared: bool) -> None:
    mount = find_mount(parse_mountinfo(MOUNTINFO), path)
    assert (mount.type, mount.is_shared) == (kind, shared)


def test_of_two_mounts_on_one_point_the_upper_counts() -> None:
    assert find_mount(parse_mountinfo(MOUNTINFO), "/srv/dfwatch").source == "/dev/vdc"


def test_escapes_are_undone() -> None:
    mount = find_mount(parse_mountinfo(MOUNTINFO), "/mnt/news desk")
    assert (mount.mount_point, mount.source) == ("/mnt/news desk", "server:/export/a b")


@pytest.mark.parametrize("kind", ["nfs", "smb3", "9p", "ceph", "glusterfs", "virtiofs", "fuse.rclone", "fuse"])
def test_shared_file_systems(kind: str) -> None:
    assert Mount("/", kind, "").is_shared


def test_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc")
    assert mount_of(str(tmp_path / "link")).type == "proc"
    assert os.path.realpath(tmp_path).startswith(mount_of(str(tmp_path)).mount_point)


def test_where_the_kernel_does_not_say_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(filesystems, "MOUNTINFO", str(tmp_path / "missing"))
    assert mount_of("/") == Mount()
    assert not Mount().is_shared


def test_inotify_limits() -> None:
    limits = inotify_limits()
    assert set(limits) == {"max_user_watches", "max_user_instances", "max_queued_events"}
    assert all(limit > 0 for limit in limits.values())
