"""Half files, by the whole service and real sending programs: no verdict is ever published on part of a file."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import programs
from tests.reliability.world import World, digest

# Both the whole and every beginning of it are "videos" to the scripted reader, with another answer.
WHOLE = "fake and whole" + " " * 300_000


@pytest.fixture
def world(worlds: Callable[..., World]) -> World:
    world = worlds(watch={"quiet_s": 0.4})
    world.start()
    return world


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.mp4"
    path.write_text(WHOLE)
    return path


def check(world: World, name: str = "clip.mp4") -> None:
    world.wait_for(lambda: world.sidecar_paths() and not world.waiting(), "it is judged")
    [document] = world.sidecars().values()
    assert document["subject"]["name"] == name
    assert document["subject"]["sha256"] == digest(WHOLE), "a verdict on part of the file"
    assert document["verdict"] == "FAKE"


def python(script: str, *arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-S", "-c", textwrap.dedent(script), *arguments], check=True)


RSYNC = {
    "rsync": [],
    "rsync in place": ["--inplace"],
    "rsync with partial": ["--partial", "-t"],
    "rsync delaying updates": ["--delay-updates"],
}


@pytest.mark.parametrize("way", RSYNC)
def test_rsync(world: World, source: Path, way: str) -> None:
    programs.require("rsync")
    subprocess.run(["rsync", *RSYNC[way], "--bwlimit=250", source, world.inbox / "clip.mp4"], check=True)
    check(world)


def test_rsync_in_place_that_breaks_off_and_goes_on(world: World, source: Path) -> None:
    """The sender dies with the file half there, and comes back before the quiet window is over."""
    programs.require("rsync")
    command = ["rsync", "--inplace", source, world.inbox / "clip.mp4"]
    with subprocess.Popen([*command[:2], "--bwlimit=100", *command[2:]]) as child:
        time.sleep(0.8)
        child.send_signal(signal.SIGKILL)
    subprocess.run(command, check=True)
    check(world)


def test_preallocated_and_stalled(world: World, source: Path) -> None:
    script = """
        import os, sys, time
        data = open(sys.argv[1], "rb").read()
        with open(sys.argv[2], "wb", 0) as file:
            os.posix_fallocate(file.fileno(), 0, len(data))
            time.sleep(1.2)
            for start in range(0, len(data), 100_000):
                file.write(data[start:start + 100_000])
                time.sleep(0.6)
            os.utime(sys.argv[2], (0, 0))
    """
    python(script, source, world.inbox / "clip.mp4")
    check(world)


def test_opened_anew_for_every_chunk(world: World, source: Path) -> None:
    """SFTP clients and SMB do so; between two chunks nobody has the file open."""
    script = """
        import sys, time
        data = open(sys.argv[1], "rb").read()
        for start in range(0, len(data), 50_000):
            with open(sys.argv[2], "ab") as file:
                file.write(data[start:start + 50_000])
            time.sleep(0.1)
    """
    python(script, source, world.inbox / "clip.mp4")
    check(world)


def test_a_reader_that_catches_the_file_before_its_end_publishes_nothing(world: World, source: Path) -> None:
    """A sender that pauses for longer than the quiet window with the file closed: nobody can tell that more will come.

    What was claimed by then is part of a file, by every sign a whole one. The sender goes on writing into that file,
    and what is published in the end is the verdict on all of it.
    """
    data = source.read_bytes()
    beginning = b"slow 1.5 and half" + bytes(100)
    path = world.inbox / "clip.mp4"
    path.write_bytes(beginning)
    world.wait_for(lambda: not path.exists(), "it is claimed")
    [claimed] = (world.root / "work").glob("*/source")
    with claimed.open("r+b") as file:
        file.write(data)
    check(world)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """A server on loopback, and the options with which its clients reach it."""
    program, _ = programs.require("sshd"), programs.require("scp")
    folder = tmp_path_factory.mktemp("sshd")
    folder.chmod(0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        f"PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen([program, "-D", "-f", folder / "config"], stderr=subprocess.PIPE)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
            if server.poll() is not None:
                pytest.skip(f"sshd does not start: {server.stderr.read().decode() if server.stderr else ''}")
        yield [
            "-P", str(port), "-i", str(folder / "user"), "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR",
            "-o", f"UserKnownHostsFile={folder}/known", "-o", "BatchMode=yes",
        ]  # fmt: skip
    finally:
        server.kill()
        server.wait()
        if server.stderr:
            server.stderr.close()


@pytest.mark.parametrize("protocol", [["scp"], ["scp", "-O"], ["sftp"]])
def test_scp_and_sftp(world: World, source: Path, sshd: list[str], protocol: list[str]) -> None:
    target = world.inbox / "clip.mp4"
    if protocol == ["sftp"]:
        command = ["sftp", "-l", "1200", "-B", "16384", *sshd, "-b", "-", "127.0.0.1"]
        done = subprocess.run(command, input=f"put {source} {target}\n", text=True, capture_output=True, check=False)
    else:
        done = subprocess.run(
            [*protocol, "-l", "1200", *sshd, str(source), f"127.0.0.1:{target}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode and "ermission denied" in done.stderr:
        pytest.skip(f"sshd lets nobody in here: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    check(world)
