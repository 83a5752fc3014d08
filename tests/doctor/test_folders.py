from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dfwatch.doctor import folders
from dfwatch.doctor.finding import Health
from dfwatch.inbox.filesystems import Mount
from dfwatch.storage.layout import FOLDERS, Layout
from tests.users import NOBODY, somebody_else

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def layout() -> Iterator[Layout]:
    """A complete root, in a place that other users can reach too."""
    top = tempfile.mkdtemp(prefix="dfwatch-test-")
    os.chmod(top, 0o755)
    made = Layout(os.path.join(top, "root"))
    os.mkdir(made.root)
    made.create()
    yield made
    for base, names, _ in os.walk(top):
        for name in names:
            os.chmod(os.path.join(base, name), 0o700)
    shutil.rmtree(top)


def entries(layout: Layout) -> list[str]:
    return sorted(name for folder in FOLDERS for name in os.listdir(layout.folder(folder)))


def test_permissions_of_a_root_that_is_fine(layout: Layout) -> None:
    finding = folders.permissions(layout)
    assert finding.health is Health.OK
    assert layout.root in finding.found


def test_permissions_of_folders_that_are_closed(layout: Layout) -> None:
    os.chmod(layout.results, 0o555)
    for folder in FOLDERS:
        if folder != "results":
            os.chmod(layout.folder(folder), 0o777)
    with somebody_else():
        finding = folders.permissions(layout)
    assert finding.health is Health.FAIL
    assert "results/ (uid" in finding.found
    assert "inbox" not in finding.found
    assert "sudo -u dfwatch" in finding.advice


def test_permissions_before_the_first_start(layout: Layout) -> None:
    new = Layout(os.path.join(layout.root, "deep", "new"))
    assert folders.permissions(new).health is Health.OK
    os.chmod(layout.root, 0o555)
    with somebody_else():
        finding = folders.permissions(new)
    assert finding.health is Health.FAIL
    assert f"{layout.root} is not writable" in finding.found


@pytest.mark.parametrize("below", ["", "deep/er"])
def test_permissions_where_something_else_is_in_the_way(layout: Layout, below: str) -> None:
    obstacle = os.path.join(layout.root, "file")
    Path(obstacle).touch()
    finding = folders.permissions(Layout(os.path.join(obstacle, below).rstrip("/")))
    assert (finding.health, finding.found) == (Health.FAIL, f"{obstacle} is no folder")
    os.rmdir(layout.results)
    os.symlink("nowhere", layout.results)
    assert folders.permissions(layout).found == f"{layout.results} is no folder"


def test_permissions_where_missing_folders_cannot_be_made(layout: Layout) -> None:
    os.rmdir(layout.state)
    assert "state will be made" in folders.permissions(layout).found
    for folder in FOLDERS:
        with contextlib.suppress(FileNotFoundError):
            os.chmod(layout.folder(folder), 0o777)
    os.chmod(layout.root, 0o555)
    with somebody_else():
        finding = folders.permissions(layout)
    assert finding.health is Health.FAIL
    assert "state missing" in finding.found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look at another user's root as root")
def test_permissions_looked_at_by_root_prove_nothing(layout: Layout) -> None:
    os.chown(layout.root, NOBODY, NOBODY)
    finding = folders.permissions(layout)
    assert finding.health is Health.WARN
    assert f"belongs to uid {NOBODY}" in finding.found


def test_renaming_visits_every_folder_and_leaves_nothing(layout: Layout) -> None:
    assert folders.renaming(layout).health is Health.OK
    assert entries(layout) == []


def test_renaming_fails_where_a_folder_takes_nothing(layout: Layout) -> None:
    for folder in FOLDERS:
        os.chmod(layout.folder(folder), 0o777)
    os.chmod(layout.folder("quarantine"), 0o555)
    with somebody_else():
        finding = folders.renaming(layout)
    assert finding.health is Health.FAIL
    assert "quarantine" in finding.found
    assert "Permission denied" in finding.found
    assert entries(layout) == []


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second file system at hand")
def test_renaming_fails_across_file_systems(layout: Layout) -> None:
    elsewhere = tempfile.mkdtemp(dir="/dev/shm")
    try:
        if os.stat(elsewhere).st_dev == os.stat(layout.root).st_dev:
            pytest.skip("/dev/shm lies on the same file system")
        os.rmdir(layout.folder("done"))
        os.symlink(elsewhere, layout.folder("done"))
        finding = folders.renaming(layout)
        assert finding.health is Health.FAIL
        assert "cross-device" in finding.found
        assert "one file system" in finding.advice
        assert entries(layout) == []
    finally:
        shutil.rmtree(elsewhere)


def test_renaming_is_not_tried_before_the_first_start(layout: Layout) -> None:
    os.rmdir(layout.results)
    assert folders.renaming(layout).health is Health.OK
    assert "not tried" in folders.renaming(layout).found


@pytest.mark.parametrize(
    ("kind", "health", "word"),
    [
        ("ext4", Health.OK, "ext4"),
        ("xfs", Health.OK, "xfs"),
        ("nfs4", Health.WARN, "network"),
        ("cifs", Health.WARN, "network"),
        ("fuse.sshfs", Health.WARN, "network"),
        ("exfat", Health.WARN, "upper"),
        ("tmpfs", Health.WARN, "lost"),
    ],
)
def test_file_system(layout: Layout, monkeypatch: pytest.MonkeyPatch, kind: str, health: Health, word: str) -> None:
    monkeypatch.setattr(folders, "mount_of", lambda path: Mount("/m\n", kind, "server"))
    finding = folders.file_system(layout)
    assert finding.health is health
    assert word in finding.found
    assert "/m\\n" in finding.found


def test_file_system_of_this_machine_is_found(layout: Layout) -> None:
    assert "mounted at /" in folders.file_system(Layout(layout.root + "/not/there/yet")).found


def test_inbox_counts_what_waits(layout: Layout) -> None:
    Path(layout.inbox, "sub").mkdir()
    for name in ("a.mp4", "sub/b.mp4"):
        Path(layout.inbox, name).touch()
    finding = folders.inbox_contents(layout)
    assert (finding.health, finding.found) == (Health.OK, "2 files waiting")


def test_inbox_with_a_folder_that_nothing_can_be_taken_out_of(layout: Layout) -> None:
    folder = Path(layout.inbox, "sub\n")
    folder.mkdir()
    (folder / "b.mp4").touch()
    folder.chmod(0o555)
    os.chmod(layout.inbox, 0o777)
    with somebody_else():
        finding = folders.inbox_contents(layout)
    assert finding.health is Health.FAIL
    assert r"sub\n: files cannot be taken out" in finding.found


def test_inbox_with_files_that_cannot_be_read(layout: Layout) -> None:
    for name in ("a.mp4", "b.mp4"):
        Path(layout.inbox, name).touch()
        Path(layout.inbox, name).chmod(0)
    os.chmod(layout.inbox, 0o777)
    with somebody_else():
        finding = folders.inbox_contents(layout)
    assert finding.health is Health.WARN
    assert "and 1 more: not readable" in finding.found


def test_inbox_that_is_not_there(layout: Layout) -> None:
    os.rmdir(layout.inbox)
    assert folders.inbox_contents(layout).health is Health.OK


def test_disk(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 1024**3
    usage = shutil._ntuple_diskusage(100 * gib, 90 * gib, 10 * gib)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert folders.disk(layout, gib).health is Health.OK
    assert "10.0 GiB free of 100.0 GiB" in folders.disk(layout, gib).found
    assert folders.disk(layout, 5 * gib).health is Health.WARN
    assert folders.disk(layout, 11 * gib).health is Health.FAIL


def test_disk_without_inodes(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(layout.root)
    few = os.statvfs_result((*real[:5], 1_000_000, 999, 999, *real[8:]))
    monkeypatch.setattr(os, "statvfs", lambda path: few)
    finding = folders.disk(layout, 0)
    assert finding.health is Health.FAIL
    assert "999 inodes" in finding.found


def test_leases(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folders.leases(layout, "off").health is Health.OK
    monkeypatch.setattr(folders, "_has_capability", lambda number: True)
    assert folders.leases(layout, "auto").health is Health.OK
    monkeypatch.setattr(folders, "_has_capability", lambda number: False)
    finding = folders.leases(layout, "auto")
    assert finding.health is Health.WARN
    assert "CAP_LEASE" in finding.advice
    assert entries(layout) == []


def test_leases_of_a_file_system_that_has_none(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, command: int, argument: int = 0) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr("fcntl.fcntl", refuse)
    finding = folders.leases(layout, "auto")
    assert finding.health is Health.WARN
    assert "Invalid argument" in finding.found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to look for")
def test_own_capabilities_are_those_of_the_kernel() -> None:
    setuid = 7
    assert folders._has_capability(setuid)
    with somebody_else():
        assert not folders._has_capability(setuid)


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * 1024**3, "5.0 GiB"), (3 * 1024**4, "3.0 TiB")],
)
def test_sizes(number: int, shown: str) -> None:
    assert folders._size(number) == shown
