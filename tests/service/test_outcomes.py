"""Every way in which a file can end, by the real service with a scripted reader and model."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from dfwatch.pipeline import PUBLISHERS
from tests.service.daemon import Daemon, wait_for

Make = Callable[..., Daemon]


@pytest.mark.parametrize(
    ("text", "status", "verdict", "reason", "folder"),
    [
        ("fake", "done", "FAKE", None, "done"),
        ("real", "done", "REAL", None, "done"),
        ("unsure", "done", "INCONCLUSIVE", None, "done"),
        ("noface", "done", "NO_FACE", None, "done"),
        ("nonsense", "failed", None, "corrupt", "failed"),
        ("poison", "failed", None, "internal_error", "failed"),
        ("refused", "rejected", None, "format_not_allowed", "quarantine"),
        ("crash", "quarantined", None, "reader_crashed", "quarantine"),
    ],
)
def test_a_file_ends_in_its_place_with_one_sidecar(
    daemon: Daemon, text: str, status: str, verdict: str | None, reason: str | None, folder: str
) -> None:
    daemon.drop("clip.mp4", text)
    daemon.start()
    [(path, document)] = daemon.settle(1).items()
    assert path == "results/clip.mp4.json"
    assert (document["status"], document["verdict"], document["reason"]) == (status, verdict, reason)
    assert daemon.files() == {f"{folder}/clip.mp4": text}
    assert document["attempt"] == (3 if text == "crash" else 1)
    assert daemon.stop() == 0


def test_a_model_failure_is_no_other_videos_failure(daemon: Daemon) -> None:
    for number in range(6):
        daemon.drop(f"{number}.mp4", "poison" if number == 3 else "fake")
    daemon.start()
    daemon.settle(6)
    assert {name: daemon.sidecar(name)["status"] for name in (f"{n}.mp4" for n in range(6))} == {
        f"{n}.mp4": "failed" if n == 3 else "done" for n in range(6)
    }


def test_same_name_twice_gets_two_sidecars_and_two_files(daemon: Daemon) -> None:
    daemon.start()
    daemon.drop("clip.mp4", "fake")
    daemon.settle(1)
    daemon.drop("clip.mp4", "real")
    documents = daemon.settle(2)
    digest = daemon.sidecar("clip.mp4")["subject"]["sha256"]
    second = next(document for document in documents.values() if document["verdict"] == "REAL")
    assert f"results/clip.mp4.{second['subject']['sha256'][:12]}.json" in documents
    assert second["subject"]["sha256"] != digest
    assert sorted(daemon.files().values()) == ["fake", "real"]
    assert all(name.endswith(".mp4") for name in daemon.files())

    daemon.drop("clip.mp4", "real")
    assert len(daemon.settle(3)) == 3


def test_a_large_file_is_hashed_once_and_while_it_waits_to_be_claimed(daemons: Make) -> None:
    size = 300 * 1024 * 1024
    daemon = daemons({"watch": {"quiet_s": 4.0}}).start()
    assert daemon.process is not None
    counters = Path(f"/proc/{daemon.process.pid}/io")

    def bytes_read() -> int:
        return int(counters.read_text().split()[1])

    before = bytes_read()
    whole = daemon.folder / "being-sent"
    whole.write_text("fake \n")
    os.truncate(whole, size)
    with whole.open("rb") as stream:
        expected = hashlib.file_digest(stream, "sha256").hexdigest()
    whole.rename(daemon.inbox / "clip.mp4")
    wait_for(lambda: bytes_read() > before + size, "the file was read to its end")
    assert (daemon.inbox / "clip.mp4").exists()
    document = daemon.sidecar("clip.mp4")
    assert document["subject"]["sha256"] == expected
    assert document["verdict"] == "FAKE"
    assert bytes_read() < before + 1.5 * size


def test_subfolders_are_kept_in_the_outcomes_path(daemon: Daemon) -> None:
    (daemon.inbox / "desk" / "tuesday").mkdir(parents=True)
    daemon.drop("desk/tuesday/clip.mp4", "real")
    daemon.start()
    document = daemon.sidecar("desk/tuesday/clip.mp4")
    assert document["subject"]["folder"] == "desk/tuesday"
    daemon.settle(1)
    assert daemon.files() == {"done/desk/tuesday/clip.mp4": "real"}


def test_what_is_no_video_is_refused_with_a_sidecar(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("fake")
    (daemon.inbox / "link.mp4").symlink_to(tmp_path / "secret")
    os.mkfifo(daemon.inbox / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(daemon.inbox / "socket.mp4"))
        (daemon.inbox / "empty.mp4").touch()
        daemon.drop("notes.txt", "fake")
        daemon.start()
        documents = daemon.settle(5)
    assert {document["subject"]["name"]: document["reason"] for document in documents.values()} == {
        "link.mp4": "symlink",
        "pipe.mp4": "not_a_regular_file",
        "socket.mp4": "not_a_regular_file",
        "empty.mp4": "empty",
        "notes.txt": "unsupported_type",
    }
    assert {document["status"] for document in documents.values()} == {"rejected"}
    quarantine = daemon.root / "quarantine"
    assert (quarantine / "link.mp4").is_symlink()
    assert (tmp_path / "secret").read_text() == "fake"
    assert sorted(path.name for path in quarantine.iterdir()) == sorted(
        ["link.mp4", "pipe.mp4", "socket.mp4", "empty.mp4", "notes.txt"]
    )


@pytest.mark.parametrize(
    "name",
    [
        b"caf\xe9.mp4",
        b"-rf.mp4",
        b"two\nlines \"quoted\" 'twice'.mp4",
        b"\x1b[31mred\x1b[0m.mp4",
        b"n" * 251 + b".mp4",
        "Füße 🎬.mp4".encode(),
    ],
)
def test_strange_names_are_kept(daemon: Daemon, name: bytes) -> None:
    daemon.drop(name, "fake")
    daemon.start()
    [document] = daemon.settle(1).values()
    assert document["verdict"] == "FAKE"
    assert os.listdir(os.fsencode(daemon.root / "done")) == [name]
    assert b"\x1b" not in daemon.log.read_bytes()
    assert len([line for line in daemon.lines() if line["event"] == "finished"]) == 1


def test_a_long_name_that_is_taken_and_has_its_only_dot_early(daemon: Daemon) -> None:
    """All of it but "Vol" would be its ending, and leave no room for a digest or an id in front of it."""
    name = "Vol. " + "я" * 115
    daemon.start()
    for number in range(3):
        daemon.drop(name, "no video")
        daemon.settle(number + 1)
    assert sorted(daemon.files().values()) == ["no video"] * 3
    daemon.drop("clip.mp4", "real")
    assert daemon.sidecar("clip.mp4")["verdict"] == "REAL"


def test_a_file_where_a_folder_is_needed_is_no_obstacle(daemon: Daemon) -> None:
    daemon.drop("a.mp4", "fake")
    daemon.start()
    daemon.settle(1)
    (daemon.inbox / "a.mp4").mkdir()
    daemon.drop("a.mp4/b.mp4", "real")
    documents = daemon.settle(2)
    assert {document["verdict"] for document in documents.values()} == {"FAKE", "REAL"}
    assert sorted(daemon.files().values()) == ["fake", "real"]


def test_delete_leaves_the_sidecar_only(daemons: Make) -> None:
    daemon = daemons({"outcome": {"real": "delete"}})
    daemon.drop("r.mp4", "real")
    daemon.drop("f.mp4", "fake")
    daemon.start()
    daemon.settle(2)
    assert daemon.files() == {"done/f.mp4": "fake"}


def test_kept_files_go_back_and_are_judged_once(daemons: Make) -> None:
    daemon = daemons({"outcome": {"real": "keep"}})
    daemon.drop("r.mp4", "real")
    daemon.start()
    daemon.sidecar("r.mp4")
    wait_for(lambda: daemon.files() == {"inbox/r.mp4": "real"}, "the file is back in the inbox")
    daemon.drop("later.mp4", "fake")
    daemon.sidecar("later.mp4")
    daemon.stop()
    daemon.start()
    daemon.drop("last.mp4", "fake")
    daemon.sidecar("last.mp4")
    assert len(daemon.sidecars()) == 3
    assert daemon.files()["inbox/r.mp4"] == "real"

    (daemon.inbox / "r.mp4").unlink()
    daemon.drop("r.mp4", "fake")
    wait_for(lambda: len(daemon.sidecars()) == 4, "the file that took a kept one's name is judged")


@pytest.mark.parametrize("quiet_s", [0.0, 0.15])
def test_a_kept_file_is_judged_once_though_its_ending_cannot_be_noted(
    daemons: Make, monkeypatch: pytest.MonkeyPatch, quiet_s: float
) -> None:
    """It is back in the inbox before its job is closed, and that may take its time."""
    monkeypatch.setattr(Daemon, "module", "tests.service.unclosing")
    daemon = daemons({"outcome": {"real": "keep"}, "watch": {"quiet_s": quiet_s}})
    daemon.drop("r.mp4", "real")
    daemon.start()
    wait_for(lambda: "finished" in daemon.events(), "its ending is noted")
    daemon.drop("later.mp4", "fake")
    daemon.sidecar("later.mp4")
    assert sorted(daemon.sidecars()) == ["results/later.mp4.json", "results/r.mp4.json"]


def test_of_two_kept_files_of_one_name_each_is_judged_once(daemons: Make) -> None:
    """Both are in work when the first one goes back, so that the second one cannot."""
    daemon = daemons({"outcome": {"fake": "keep"}, "reader": {"processes": 2}}).start()
    for text in ("slow 1.0 the first", "slow 2.0 the second"):
        daemon.drop("clip.mp4", text)
        wait_for(lambda: not (daemon.inbox / "clip.mp4").exists(), "it is claimed")
    wait_for(lambda: daemon.events().count("finished") == 2, "both come to their end")
    daemon.drop("later.mp4", "real")
    daemon.sidecar("later.mp4")
    assert len(daemon.sidecars()) == 3
    assert daemon.files()["inbox/clip.mp4"] == "slow 1.0 the first"
    assert daemon.files()["done/clip.mp4"] == "slow 2.0 the second"


def test_verdict_folders_and_sidecars_beside(daemons: Make) -> None:
    daemon = daemons({"outcome": {"verdict_folders": True, "sidecar": "beside"}})
    for name in ("fake", "real", "noface", "nonsense"):
        daemon.drop(f"{name}.mp4", name)
    daemon.start()
    documents = daemon.settle(4)
    assert sorted(documents) == [
        "done/FAKE/fake.mp4.json",
        "done/NO_FACE/noface.mp4.json",
        "done/REAL/real.mp4.json",
        "failed/nonsense.mp4.json",
    ]
    assert sorted(daemon.files()) == sorted(path.removesuffix(".json") for path in documents)


def test_sidecars_beside_go_to_the_results_where_their_own_folder_is_closed(daemons: Make) -> None:
    """It is immutable, which stops root too; an ordinary user meets the same where somebody took the folder over."""
    daemon = daemons({"outcome": {"verdict_folders": True, "sidecar": "beside"}})
    closed = daemon.root / "done" / "REAL"
    closed.mkdir(parents=True)
    if os.geteuid() == 0:
        if subprocess.run(["chattr", "+i", closed], capture_output=True, check=False).returncode:
            pytest.skip("this file system knows no immutable folders")
        free = ["chattr", "-i", closed]
    else:
        closed.chmod(0o555)
        free = ["chmod", "755", closed]
    try:
        (daemon.inbox / "news").mkdir()
        for number in range(PUBLISHERS):
            daemon.drop(f"news/real{number}.mp4", "real")
        daemon.start()
        daemon.settle(PUBLISHERS)
        daemon.drop("fake.mp4", "fake")
        documents = daemon.settle(PUBLISHERS + 1)
        assert {os.path.dirname(path) for path in documents} == {"results/news", "done/FAKE"}
        assert Counter(daemon.files().values()) == {"real": PUBLISHERS, "fake": 1}
    finally:
        subprocess.run(free, check=True)


def test_a_file_that_changes_while_it_is_read_is_judged_for_what_it_becomes(daemon: Daemon) -> None:
    daemon.start()
    daemon.drop("clip.mp4", "slow 1.0 and then")
    wait_for(daemon.reading, "it is being read")
    [source] = (daemon.root / "work").glob("*/source")
    with source.open("r+") as stream:
        stream.write("real             ")
    document = daemon.sidecar("clip.mp4")
    assert document["verdict"] == "REAL"
    assert document["attempt"] == 1
    assert any("changed" in event for event in daemon.events())
    daemon.settle(1)


def test_a_file_that_grows_without_end_while_it_is_hashed_keeps_no_publisher(daemons: Make) -> None:
    """Whoever dropped it kept a second name of it, and needs no right but that to drop files."""
    daemon = daemons({"reader": {"processes": 2}})
    daemon.start()
    for number in range(10):
        sent = daemon.folder / "sent"
        sent.write_text("slow 1.0 x")
        os.truncate(sent, 256 * 1024 * 1024)
        os.link(sent, daemon.inbox / f".own{number}.mp4")
        sent.rename(daemon.inbox / f"clip{number}.mp4")
    left = set(range(10))

    def grown() -> bool:
        reading = {job.dropped.name for job in daemon.reading()}
        for number in [number for number in left if f"clip{number}.mp4" in reading]:
            os.truncate(daemon.inbox / f".own{number}.mp4", 1 << 43)
            left.discard(number)
        return not left

    wait_for(grown, "all of them have grown")
    daemon.drop("good.mp4", "real")
    assert daemon.sidecar("good.mp4")["verdict"] == "REAL"


def test_markers(daemons: Make) -> None:
    daemon = daemons({"watch": {"marker": ".done"}})
    daemon.drop("clip.mp4", "fake")
    daemon.drop("other.mp4", "fake")
    (daemon.inbox / "clip.mp4.done").touch()
    daemon.start()
    daemon.sidecar("clip.mp4")
    wait_for(lambda: not (daemon.inbox / "clip.mp4.done").exists(), "the marker is gone")
    assert (daemon.inbox / "other.mp4").exists()


@pytest.mark.parametrize("again", [False, True])
def test_markers_of_files_that_were_claimed_when_the_service_died(daemons: Make, *, again: bool) -> None:
    """Of the claimed file's marker nothing is left; that of a file sent since under the same name is its own."""
    daemon = daemons({"watch": {"marker": ".done"}})
    marker = daemon.inbox / "clip.mp4.done"
    daemon.drop("clip.mp4", "fake")
    marker.touch()
    daemon.start(crash_at="intake.claimed", ready=False)
    daemon.wait_until_dead()
    assert marker.exists()
    if again:
        daemon.drop("clip.mp4", "real")
    daemon.start()
    daemon.settle(1 + again)
    verdicts = [document["verdict"] for document in daemon.sidecars().values()]
    assert sorted(verdicts) == (["FAKE", "REAL"] if again else ["FAKE"])
    assert not marker.exists()
