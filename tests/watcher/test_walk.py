"""One look at the inbox, whatever lies there and whatever happens meanwhile."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dfwatch.config import WatchSettings
from dfwatch.inbox.beneath import open_file, parent_folder
from dfwatch.inbox.completeness import Kind
from dfwatch.inbox.names import NameRules
from dfwatch.inbox.walk import MAX_DEPTH, Snapshot, take_snapshot
from tests.watcher.conftest import unprivileged

if TYPE_CHECKING:
    from collections.abc import Iterator


def look(folder: Path, *, recursive: bool = True, **settings: object) -> Snapshot:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return take_snapshot(descriptor, NameRules(WatchSettings(**settings)), recursive=recursive)  # type: ignore[arg-type]
    finally:
        os.close(descriptor)


def test_everything_that_is_no_folder_is_an_entry_of_its_kind(inbox: Path, tmp_path: Path) -> None:
    (inbox / "clip.mp4").write_bytes(b"x")
    (inbox / "folder.mp4").mkdir()
    (inbox / "folder.mp4/inner.mp4").write_bytes(b"y")
    (inbox / "link.mp4").symlink_to("/etc/passwd")
    (inbox / "dangling.mp4").symlink_to("/nowhere")
    (inbox / "to_folder").symlink_to(tmp_path)
    os.mkfifo(inbox / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        # A relative name, because socket addresses are short and folders of tests are not.
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(inbox)
            server.bind("socket.mp4")
        kinds = {name: fingerprint.kind for name, fingerprint in look(inbox).entries.items()}
    assert kinds == {
        "clip.mp4": Kind.FILE,
        "folder.mp4/inner.mp4": Kind.FILE,
        "link.mp4": Kind.SYMLINK,
        "dangling.mp4": Kind.SYMLINK,
        "to_folder": Kind.SYMLINK,
        "pipe.mp4": Kind.FIFO,
        "socket.mp4": Kind.SOCKET,
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make devices")
def test_devices(inbox: Path) -> None:
    try:
        os.mknod(inbox / "null.mp4", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("devices cannot be made here")
    assert look(inbox).entries["null.mp4"].kind is Kind.CHARACTER_DEVICE


@pytest.mark.parametrize(
    "name",
    [b"-rf.mp4", b"a\nb.mp4", b"\xff\xfe.mp4", b"quote'\".mp4", b"\x1b[31mred.mp4", b"x" * 251 + b".mp4", b" .mp4"],
)
def test_any_name_that_the_file_system_takes(inbox: Path, name: bytes) -> None:
    Path(os.fsdecode(os.path.join(os.fsencode(inbox), name))).write_bytes(b"x")
    (found,) = look(inbox).entries
    assert os.fsencode(found) == name


def test_ignored_names_anywhere_in_the_path(inbox: Path) -> None:
    for path in ("a.part", ".hidden", "@eaDir/x.mp4", "sub/.rsync/x.mp4", "sub/x.mp4", "sub/x.mp4.tmp"):
        (inbox / path).parent.mkdir(parents=True, exist_ok=True)
        (inbox / path).write_bytes(b"x")
    snapshot = look(inbox)
    assert set(snapshot.entries) == {"sub/x.mp4"}
    assert snapshot.ignored == 5


def test_subfolders_are_left_alone_where_so_configured(inbox: Path) -> None:
    (inbox / "sub").mkdir()
    (inbox / "sub/x.mp4").write_bytes(b"x")
    snapshot = look(inbox, recursive=False)
    assert (snapshot.entries, snapshot.folders, snapshot.ignored) == ({}, 1, 1)


def test_a_marker_must_be_a_file(inbox: Path) -> None:
    (inbox / "a.mp4.done").touch()
    (inbox / "b.mp4.done").symlink_to("a.mp4.done")
    (inbox / "c.mp4.done").mkdir()
    (inbox / "c.mp4.done/inner.mp4").touch()
    snapshot = look(inbox, marker=".done")
    assert snapshot.markers == {"a.mp4"}
    assert set(snapshot.entries) == {"c.mp4.done/inner.mp4"}


def test_folders_nested_too_deep_are_reported_and_cost_no_descriptors(inbox: Path) -> None:
    deep = inbox
    for _ in range(MAX_DEPTH + 5):
        deep /= "d"
        deep.mkdir()
    (deep / "x.mp4").touch()
    snapshot = look(inbox)
    assert snapshot.folders == MAX_DEPTH
    assert list(snapshot.problems.values()) == [f"nested deeper than {MAX_DEPTH} folders"]


@pytest.fixture
def open_inbox() -> Iterator[Path]:
    """An inbox that other users can reach: pytest's own folders belong to one user."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_an_unreadable_subfolder_is_reported_and_the_rest_is_found(open_inbox: Path) -> None:
    (open_inbox / "secret").mkdir(mode=0o000)
    (open_inbox / "a").mkdir(mode=0o755)
    (open_inbox / "a/x.mp4").touch()
    with unprivileged():
        snapshot = look(open_inbox)
    (open_inbox / "secret").chmod(0o700)
    assert snapshot.problems == {"secret": "Permission denied"}
    assert set(snapshot.entries) == {"a/x.mp4"}


def test_a_folder_without_search_permission_names_what_it_could_not_look_at(open_inbox: Path) -> None:
    (open_inbox / "half").mkdir()
    (open_inbox / "half/x.mp4").touch()
    (open_inbox / "half").chmod(0o444)
    with unprivileged():
        snapshot = look(open_inbox)
    assert snapshot.problems == {"half/x.mp4": "Permission denied"}
    assert snapshot.empty_folders == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_another_file_system_below_the_inbox_is_not_entered_but_reported(inbox: Path) -> None:
    other = inbox / "other"
    other.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", other], capture_output=True, check=False).returncode:
        pytest.skip("cannot mount here")
    try:
        (other / "x.mp4").touch()
        snapshot = look(inbox)
    finally:
        subprocess.run(["umount", other], check=True)
    assert snapshot.entries == {}
    assert "another file system" in snapshot.problems["other"]


def test_a_descriptor_that_fails_is_a_problem_and_no_exception(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    os.close(descriptor)
    assert take_snapshot(descriptor, NameRules(WatchSettings()), recursive=True).problems == {
        ".": "Bad file descriptor"
    }


def test_no_descriptor_is_left_open(inbox: Path) -> None:
    (inbox / "a/b/c").mkdir(parents=True)
    before = set(os.listdir("/proc/self/fd"))
    look(inbox)
    assert set(os.listdir("/proc/self/fd")) == before


def test_looking_while_everything_moves(inbox: Path) -> None:
    """Files and folders come, go and turn into links all the time; what stays is found in every look."""
    (inbox / "stays").mkdir()
    for number in range(20):
        (inbox / f"stays/{number}.mp4").touch()
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            folder = inbox / "moves"
            folder.mkdir()
            (folder / "x.mp4").touch()
            folder.rename(inbox / "moved")
            (inbox / "moves").symlink_to("stays")
            (inbox / "moved/x.mp4").unlink()
            (inbox / "moved").rmdir()
            (inbox / "moves").unlink()

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        expected = {f"stays/{number}.mp4" for number in range(20)}
        for _ in range(200):
            snapshot = look(inbox)
            found = set(snapshot.entries)
            assert expected <= found
            # Never through the link: that would show the same files under another name.
            assert found - expected <= {"moves", "moves/x.mp4", "moved/x.mp4"}
            assert snapshot.problems == {}
    finally:
        stop.set()
        thread.join()


def test_files_are_opened_beneath_the_inbox_only(inbox: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.mp4").write_bytes(b"secret")
    (inbox / "link").symlink_to(outside)
    (inbox / "file").symlink_to(outside / "x.mp4")
    (inbox / "sub").mkdir()
    (inbox / "sub/y.mp4").write_bytes(b"fine")
    root = os.open(inbox, os.O_RDONLY)
    try:
        descriptor = open_file(root, "sub/y.mp4")
        assert os.read(descriptor, 10) == b"fine"
        os.close(descriptor)
        with pytest.raises(NotADirectoryError):
            open_file(root, "link/x.mp4")
        with pytest.raises(OSError, match="symbolic links"):
            open_file(root, "file")
        with pytest.raises(FileNotFoundError), parent_folder(root, "nowhere/x.mp4"):
            pass
    finally:
        os.close(root)
