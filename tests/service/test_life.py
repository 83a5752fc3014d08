"""Start, reload, stop, kill: the daemon's life as its users and systemd see it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dfwatch.cli import main
from dfwatch.console.exits import Exit
from dfwatch.errors import StorageError
from dfwatch.jobs.retrying import retry
from dfwatch.journal import Journal
from dfwatch.reasons import Status
from dfwatch.storage import durable
from dfwatch.storage.crashpoints import NAMES
from dfwatch.storage.layout import Layout
from tests.service.daemon import REPOSITORY, Daemon, wait_for

Make = Callable[..., Daemon]


@pytest.mark.parametrize("point", NAMES)
def test_after_kill_9_anywhere_the_next_start_ends_at_the_same_result(daemon: Daemon, point: str) -> None:
    daemon.drop("clip.mp4", "fake")
    daemon.start(crash_at=point, ready=False)
    assert daemon.wait_until_dead() == -signal.SIGKILL
    before = daemon.sidecars()
    daemon.start()
    after = daemon.settle(1)
    assert list(after) == ["results/clip.mp4.json"]
    assert after["results/clip.mp4.json"]["verdict"] == "FAKE"
    assert daemon.files() == {"done/clip.mp4": "fake"}
    for path, document in before.items():
        assert after[path] == document, "a sidecar that was published was written again"
    assert daemon.stop() == 0
    leftovers = [path for path in daemon.root.rglob("*") if path.name.endswith(".tmp")]
    assert leftovers == []


@pytest.mark.parametrize("point", ["intake.claimed", "job.attempt_raised", "sidecar.renamed", "disposal.moved"])
def test_a_second_crash_at_the_same_step_changes_nothing(daemon: Daemon, point: str) -> None:
    daemon.drop("clip.mp4", "real")
    for _ in range(2):
        daemon.start(crash_at=point, ready=False)
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert daemon.process is not None
            daemon.process.wait(timeout=2)
        daemon.kill()
    daemon.start()
    assert list(daemon.settle(1)) == ["results/clip.mp4.json"]
    assert daemon.files() == {"done/clip.mp4": "real"}


def test_a_file_that_kills_the_service_ends_in_quarantine_and_no_other_does(daemon: Daemon) -> None:
    daemon.drop("killer.mp4", "die")
    for number in range(4):
        daemon.drop(f"innocent{number}.mp4", "fake")
    for _ in range(8):
        daemon.start(ready=False)
        process = daemon.process
        assert process is not None
        wait_for(lambda: process.poll() is not None or len(daemon.sidecars()) == 5, "it dies, or is done")  # noqa: B023
        if process.poll() is None:
            break
    documents = daemon.settle(5)
    outcomes = {document["subject"]["name"]: document["status"] for document in documents.values()}
    assert outcomes == {"killer.mp4": "quarantined"} | {f"innocent{n}.mp4": "done" for n in range(4)}
    assert daemon.sidecar("killer.mp4")["reason"] == "too_many_attempts"


def test_a_file_that_was_dropped_under_a_sidecars_name_ends_no_later_start(daemon: Daemon) -> None:
    """It lies in quarantine, where the sidecar of a recovered job may lie, and is looked into at every start."""
    daemon.drop("clip.mp4.json", "[" * 200_000)
    os.mkfifo(daemon.inbox / "other.mp4.json")
    daemon.start()
    results, quarantine = daemon.root / "results", daemon.root / "quarantine"
    wait_for(lambda: results.exists() and len(list(results.iterdir())) == 2, "both are refused")
    wait_for(lambda: len(list(quarantine.iterdir())) == 2, "both are put away")
    daemon.drop("clip.mp4", "slow 1.0")
    daemon.drop("other.mp4", "slow 1.0")
    wait_for(lambda: len(list((daemon.root / "work").glob("*/source"))) == 2, "both are claimed")
    daemon.kill()
    daemon.start()
    wait_for(lambda: len(list(results.iterdir())) == 4, "both are judged")
    assert daemon.sidecar("clip.mp4")["verdict"] == daemon.sidecar("other.mp4")["verdict"] == "FAKE"


def test_a_job_that_kills_the_service_while_it_is_recovered_is_given_up(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Daemon, "module", "tests.service.dying")
    daemon.configure({"jobs": {"max_attempts": 2}})
    daemon.drop("clip.mp4", "slow 1.0")
    daemon.start()
    wait_for(daemon.reading, "it is being read")
    daemon.kill()
    for _ in range(2):
        daemon.start(ready=False)
        assert daemon.wait_until_dead() == -signal.SIGKILL
    daemon.start()
    document = daemon.sidecar("clip.mp4")
    assert (document["status"], document["reason"]) == ("quarantined", "too_many_attempts")
    daemon.settle(1)


def test_sigterm_finishes_what_is_in_work(daemon: Daemon) -> None:
    daemon.start()
    daemon.drop("clip.mp4", "slow 1.0")
    wait_for(daemon.reading, "it is being read")
    assert daemon.stop() == 0
    assert daemon.sidecars()["results/clip.mp4.json"]["verdict"] == "FAKE"


def test_a_second_sigterm_hurries_and_the_next_start_takes_over(daemon: Daemon) -> None:
    daemon.start()
    daemon.drop("clip.mp4", "slow 8.0")
    wait_for(daemon.reading, "it is being read")
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    began_s = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - began_s < 7.0
    assert daemon.sidecars() == {}
    [job] = daemon.jobs()
    assert (job.state, job.attempts, job.alone) == ("queued", 0, False)
    [source] = (daemon.root / "work").glob("*/source")
    source.write_text("fake")
    daemon.start()
    assert daemon.sidecar("clip.mp4")["verdict"] == "FAKE"


def test_a_lost_device_ends_the_service_and_blames_no_file(daemon: Daemon) -> None:
    daemon.drop("clip.mp4", "lost")
    daemon.start(ready=False)
    assert daemon.wait_until_dead() != 0
    assert daemon.sidecars() == {}
    [job] = daemon.jobs()
    assert (job.state, job.attempts) == ("queued", 0)


@pytest.mark.parametrize("unlocked", [False, True], ids=["", "whose lock was removed"])
def test_a_second_daemon_is_refused_with_the_first_ones_pid(daemon: Daemon, *, unlocked: bool) -> None:
    daemon.start()
    assert daemon.process is not None
    if unlocked:
        (daemon.root / "state" / "daemon.lock").unlink()
    second = subprocess.run(
        [sys.executable, "-m", "tests.service.scripted", str(daemon.config)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode != 0
    assert "another dfwatch daemon runs on it" in second.stderr
    assert unlocked or f"pid {daemon.process.pid}" in second.stderr
    daemon.drop("clip.mp4", "fake")
    daemon.settle(1)


def test_a_stale_lock_is_no_obstacle(daemon: Daemon) -> None:
    daemon.start()
    daemon.kill()
    assert (daemon.root / "state" / "daemon.lock").read_text().strip().isdigit()
    daemon.start()
    daemon.drop("clip.mp4", "fake")
    daemon.settle(1)


def test_a_lost_journal_is_rebuilt_from_the_folders(daemon: Daemon) -> None:
    daemon.drop("sub.mp4", "fake")
    daemon.start(crash_at="job.read", ready=False)
    daemon.wait_until_dead()
    for path in (daemon.root / "state").glob("journal.sqlite3*"):
        path.unlink()
    daemon.start()
    assert daemon.sidecar("sub.mp4")["verdict"] == "FAKE"


@pytest.mark.parametrize("point", ["job.read", "sidecar.renamed"])
def test_a_job_whose_note_is_lost_keeps_the_name_that_the_journal_knows(daemon: Daemon, point: str) -> None:
    """Under another name it would not find the sidecar that it has, and get a second one."""
    (daemon.inbox / "news").mkdir()
    daemon.drop("news/clip.mp4", "fake")
    daemon.start(crash_at=point, ready=False)
    daemon.wait_until_dead()
    [note] = (daemon.root / "work").glob("*/job.json")
    note.write_bytes(b"")
    daemon.start()
    assert list(daemon.settle(1)) == ["results/news/clip.mp4.json"]
    assert daemon.files() == {"done/news/clip.mp4": "fake"}


def test_a_damaged_journal_is_set_aside(daemon: Daemon) -> None:
    daemon.drop("clip.mp4", "fake")
    daemon.start(crash_at="job.read", ready=False)
    daemon.wait_until_dead()
    for path in (daemon.root / "state").glob("journal.sqlite3-*"):
        path.unlink()
    (daemon.root / "state" / "journal.sqlite3").write_bytes(b"this is no database" * 100)
    daemon.start()
    assert daemon.sidecar("clip.mp4")["verdict"] == "FAKE"
    assert list((daemon.root / "state").glob("*.damaged-*"))


@pytest.mark.parametrize("replaced", [False, True])
def test_a_journal_that_is_taken_away_while_it_runs_is_begun_anew(daemon: Daemon, *, replaced: bool) -> None:
    """What the service writes into the one that it has open would be seen by nobody, and end with it."""
    daemon.start()
    daemon.drop("clip.mp4", "nonsense")
    daemon.settle(1)
    state = daemon.root / "state"
    if replaced:
        shutil.copy(state / "journal.sqlite3", daemon.folder)
        os.replace(daemon.folder / "journal.sqlite3", state / "journal.sqlite3")
    else:
        shutil.rmtree(state)
    assert daemon.wait_until_dead() != 0
    assert "removed or replaced" in daemon.log.read_text()
    daemon.start()
    daemon.drop("other.mp4", "more nonsense")
    daemon.settle(2)
    assert main(["retry", "--failed", "--config", str(daemon.config)]) == Exit.OK


def test_reload_takes_a_good_file_and_survives_a_bad_one(daemon: Daemon) -> None:
    daemon.start()
    assert daemon.process is not None
    daemon.config.write_text("root: [this is\n")
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: any("not taken" in event for event in daemon.events()), "the bad file is refused")
    daemon.drop("one.mp4", "real")
    daemon.sidecar("one.mp4")

    daemon.configure({"outcome": {"verdict_folders": True}, "reader": {"processes": 2}})
    daemon.process.send_signal(signal.SIGHUP)
    changes = wait_for(
        lambda: [line for line in daemon.lines() if line["event"] == "setting changed"] or None,
        "the good file is taken",
    )
    wait_for(lambda: len([line for line in daemon.lines() if line["event"] == "setting changed"]) == 2, "both changes")
    changes = {line["setting"]: line["needs_restart"] for line in daemon.lines() if line["event"] == "setting changed"}
    assert changes == {"outcome.verdict_folders": False, "reader.processes": True}
    daemon.drop("two.mp4", "real")
    daemon.sidecar("two.mp4")
    wait_for(lambda: "done/REAL/two.mp4" in daemon.files(), "the new setting is in force")


def test_a_reload_takes_the_level_of_the_log(daemon: Daemon) -> None:
    daemon.start()
    assert daemon.process is not None
    daemon.configure({"log": {"level": "error"}})
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "setting changed" in daemon.events(), "it is taken")
    time.sleep(0.2)
    daemon.drop("quiet.mp4", "real")
    daemon.settle(1)
    daemon.configure({})
    daemon.process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    daemon.drop("told.mp4", "real")
    daemon.settle(2)
    wait_for(lambda: "finished" in daemon.events(), "the log speaks again")
    assert [line["name"] for line in daemon.lines() if line["event"] == "finished"] == ["told.mp4"]


def test_thresholds_that_cross_the_models_are_refused_at_the_reload_and_at_the_start(daemon: Daemon) -> None:
    daemon.configure({"verdict": {"real_threshold": 0.1}})
    daemon.start()
    daemon.configure({"verdict": {"real_threshold": 0.97}})
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: any("not taken" in event for event in daemon.events()), "it is refused")
    daemon.drop("clip.mp4", "fake")
    in_force = daemon.sidecar("clip.mp4")["thresholds"]
    assert (in_force["real"], in_force["fake"]) == (0.1, 0.7)
    assert daemon.stop() == 0

    daemon.start(ready=False)
    assert daemon.wait_until_dead() != 0
    assert "0.97 (verdict.real_threshold), FAKE from 0.7 (the model's own)" in daemon.log.read_text()


def test_settings_with_which_no_reader_comes_up_are_refused_at_the_reload(daemon: Daemon, tmp_path: Path) -> None:
    daemon.start()
    assert daemon.process is not None
    model = tmp_path / "faces.onnx"
    daemon.configure({"faces": {"model": str(model)}})
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: any("not taken" in event for event in daemon.events()), "it is refused")
    daemon.drop("one.mp4", "fake")
    assert daemon.sidecar("one.mp4")["verdict"] == "FAKE"

    model.touch()
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "setting changed" in daemon.events(), "it is taken once the file is there")
    daemon.drop("two.mp4", "fake")
    assert daemon.sidecar("two.mp4")["verdict"] == "FAKE"


def test_systemd_is_told_how_things_are(daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(address))
        listener.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        monkeypatch.setenv("WATCHDOG_USEC", "1000000")
        daemon.start()
        assert daemon.process is not None

        def hear(wanted: str) -> str:
            while True:
                message = listener.recv(4096).decode()
                if wanted in message:
                    return message

        assert "STATUS=" in hear("READY=1")
        hear("WATCHDOG=1")
        daemon.process.send_signal(signal.SIGHUP)
        assert "MONOTONIC_USEC=" in hear("RELOADING=1")
        hear("READY=1")
        daemon.process.send_signal(signal.SIGTERM)
        hear("STOPPING=1")
    assert daemon.wait_until_dead() == 0


def test_systemd_is_told_why_nothing_is_taken_in(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(address))
        listener.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        daemon.configure({"watch": {"min_free_bytes": 2**60}})
        daemon.drop("clip.mp4", "real")
        daemon.start()
        wait_for(
            lambda: re.search("STATUS=intake paused: .* MiB free, .*; 1 in the inbox", listener.recv(4096).decode()),
            "the status says so",
        )


def test_a_nearly_full_disk_pauses_intake_until_there_is_room(daemon: Daemon) -> None:
    daemon.configure({"watch": {"min_free_bytes": 2**60}})
    daemon.drop("clip.mp4", "fake")
    daemon.start()
    wait_for(lambda: any("paused" in event for event in daemon.events()), "intake is paused")
    assert daemon.files() == {"inbox/clip.mp4": "fake"}
    wait_for(lambda: "MiB free" in str(daemon.health().get("paused")), "the health tells of it")
    daemon.configure({})
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    assert daemon.sidecar("clip.mp4")["verdict"] == "FAKE"


def test_of_an_inbox_with_thousands_of_files_all_are_told_as_ready(daemon: Daemon) -> None:
    daemon.configure({"watch": {"min_free_bytes": 2**60}})
    for number in range(1100):
        (daemon.inbox / f"{number}.mp4").write_text("real")
    daemon.start()

    def told() -> tuple[int, int]:
        health = daemon.health()
        return health.get("inbox_ready", 0), health.get("inbox_waiting", 0)

    wait_for(lambda: told() == (1100, 0), "all are ready")


def test_a_machine_that_starts_no_threads_is_waited_out(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Daemon, "module", "tests.service.threadless")
    daemon.configure({"jobs": {"max_attempts": 1}})
    daemon.start()
    trouble = daemon.folder / "no threads"
    trouble.touch()
    daemon.drop("large.mp4", "real".ljust(2 * 1024 * 1024))
    wait_for(lambda: any("disk failed" in event for event in daemon.events()), "the trouble is logged")
    # A new inbox must be listened to anew, and the old one no more.
    daemon.inbox.rename(daemon.folder / "elsewhere")
    daemon.inbox.mkdir()
    for number in range(10):
        daemon.drop(f"small {number}.mp4", "fake")
    for number in range(10):
        assert daemon.sidecar(f"small {number}.mp4")["verdict"] == "FAKE"
    wait_for(lambda: "can't start new thread" in str(daemon.health().get("trouble")), "status can tell of it")
    trouble.unlink()
    document = daemon.sidecar("large.mp4")
    assert (document["verdict"], document["attempt"]) == ("REAL", 1)
    assert daemon.stop() == 0


def test_results_that_cannot_be_written_hold_the_file_until_they_can(daemon: Daemon) -> None:
    daemon.start()
    results = daemon.root / "results"
    results.rmdir()
    results.write_text("in the way")
    daemon.drop("clip.mp4", "fake")
    wait_for(lambda: any("disk failed" in event for event in daemon.events()), "the trouble is logged")
    [held] = [name for name in daemon.files() if name.endswith("source")]
    assert held.startswith("work/")
    results.unlink()
    assert daemon.sidecar("clip.mp4")["verdict"] == "FAKE"
    daemon.settle(1)


def test_retry_hands_a_failed_file_back(daemon: Daemon) -> None:
    daemon.drop("clip.mp4", "nonsense")
    daemon.start()
    [document] = daemon.settle(1).values()
    with contextlib.closing(Journal(str(daemon.root / "state" / "journal.sqlite3"))) as journal:
        (daemon.root / "failed" / "clip.mp4").write_text("real")
        assert retry(Layout(str(daemon.root)), journal, document["job_id"]) == "clip.mp4"
        with pytest.raises(StorageError, match="gone"):
            retry(Layout(str(daemon.root)), journal, document["job_id"])
        with pytest.raises(StorageError, match="no such job"):
            retry(Layout(str(daemon.root)), journal, "nothing")
    documents = daemon.settle(2)
    assert documents["results/clip.mp4.json"]["verdict"] == "REAL"
    assert documents[f"results/clip.mp4.{document['job_id']}.superseded.json"] == document


def test_retry_hands_back_no_other_jobs_file(daemon: Daemon) -> None:
    """The first one's was cleared away by hand, and the second one's got its name."""
    daemon.start()
    with contextlib.closing(Journal(str(daemon.root / "state" / "journal.sqlite3"))) as journal:
        jobs = []
        for text in ("nonsense", "more nonsense"):
            daemon.drop("clip.mp4", text)
            [document] = daemon.settle(1).values()
            jobs.append(document["job_id"])
            wait_for(lambda: len(journal.ended(Status.FAILED)) == len(jobs), "the job is closed")
            if len(jobs) == 1:
                (daemon.root / "failed" / "clip.mp4").unlink()
                (daemon.root / "results" / "clip.mp4.json").unlink()
        with pytest.raises(StorageError, match="another job's"):
            retry(Layout(str(daemon.root)), journal, jobs[0])
        assert daemon.files() == {"failed/clip.mp4": "more nonsense"}
        assert daemon.sidecars() == {"results/clip.mp4.json": document}
        retry(Layout(str(daemon.root)), journal, jobs[1])


def test_retry_sets_no_other_jobs_sidecar_aside(daemon: Daemon) -> None:
    """The first one's was cleared away by hand, and the second one's got its name."""
    daemon.start()
    daemon.drop("clip.mp4", "nonsense")
    [first] = daemon.settle(1).values()
    (daemon.root / "results" / "clip.mp4.json").unlink()
    daemon.drop("clip.mp4", "more nonsense")
    [second] = daemon.settle(1).values()
    with contextlib.closing(Journal(str(daemon.root / "state" / "journal.sqlite3"))) as journal:
        assert retry(Layout(str(daemon.root)), journal, first["job_id"]) == "clip.mp4"
    documents = daemon.settle(2)
    assert documents["results/clip.mp4.json"] == second
    assert not [path for path in documents if "superseded" in path]


def test_retry_marks_a_file_that_is_taken_only_with_its_marker(
    daemons: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = daemons({"watch": {"marker": ".done"}})
    daemon.drop("clip.mp4", "nonsense")
    daemon.drop("clip.mp4.done", "")
    daemon.start()
    [document] = daemon.settle(1).values()
    wait_for(lambda: "finished" in daemon.events(), "the job is closed")
    assert main(["retry", document["job_id"], "--config", str(daemon.config)]) == Exit.OK
    assert "clip.mp4 is back in the inbox" in capsys.readouterr().out
    assert len(daemon.settle(2)) == 2
    wait_for(lambda: list(daemon.inbox.iterdir()) == [], "the marker is gone")


@pytest.mark.parametrize("copied", [False, True])
def test_a_root_that_was_moved_or_copied_is_known_where_it_is_now(daemon: Daemon, *, copied: bool) -> None:
    names = [b"a.mp4", b"b\xff.mp4", b"c.mp4"]
    daemon.start()
    for number, name in enumerate([*names, b"broken.mp4"]):
        daemon.drop(name, "nonsense" if name == b"broken.mp4" else f"real {number}")
        daemon.settle(number + 1)
        wait_for(lambda: daemon.events().count("finished") == number + 1, "it is closed")  # noqa: B023
    assert daemon.stop() == 0

    before, after = daemon.root, daemon.folder / "other disk" / "root"
    after.parent.mkdir()
    if copied:
        shutil.copytree(before, after)
    else:
        before.rename(after)
    daemon.root, daemon.inbox = after, after / "inbox"
    daemon.configure({"retention": {"done_max_files": 1, "results_max_files": 2}})
    daemon.start()
    wait_for(lambda: "pruned" in daemon.events(), "what is too old is removed")
    assert [path.name for path in (after / "done").iterdir()] == ["c.mp4"]
    assert {path.name for path in (after / "results").iterdir()} == {"c.mp4.json", "broken.mp4.json"}
    if copied:
        assert sorted(os.listdir(os.fsencode(before / "done"))) == names
        assert len(list((before / "results").iterdir())) == 4
    assert main(["retry", "--failed", "--config", str(daemon.config)]) == Exit.OK
    wait_for(lambda: daemon.events().count("finished") == 5, "it is judged anew")


def test_retry_follows_no_link_out_of_the_inbox(daemon: Daemon, tmp_path: Path) -> None:
    """Whoever may drop files could lead root, who hands one back, anywhere."""
    (daemon.inbox / "news").mkdir()
    daemon.drop("news/clip.mp4", "nonsense")
    daemon.start()
    [document] = daemon.settle(1).values()
    daemon.stop()
    (daemon.inbox / "news").rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (daemon.inbox / "news").symlink_to(elsewhere)
    with contextlib.closing(Journal(str(daemon.root / "state" / "journal.sqlite3"))) as journal:
        with pytest.raises(StorageError, match="Not a directory"):
            retry(Layout(str(daemon.root)), journal, document["job_id"], marker=".done")
        assert list(elsewhere.iterdir()) == []
        assert daemon.sidecars() == {"results/news/clip.mp4.json": document}
        (daemon.inbox / "news").unlink()
        assert retry(Layout(str(daemon.root)), journal, document["job_id"]) == "news/clip.mp4"
    assert (daemon.inbox / "news" / "clip.mp4").exists()


@pytest.mark.parametrize("long", [False, True])
def test_retry_that_was_cut_short_can_be_completed(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, *, long: bool
) -> None:
    """Once because the inbox has no place for it, and once between the sidecar and the file."""
    renameat2 = durable._libc_renameat2()
    assert renameat2 is not None

    def refusing(source: bytes, target: bytes) -> int:
        if b"/inbox/" in os.path.realpath(target):
            return errno.EIO
        return errno.ENAMETOOLONG if long and len(os.path.basename(target)) > 50 else renameat2(source, target)

    (daemon.inbox / "desk").mkdir()
    daemon.drop("desk/clip.mp4", "nonsense")
    daemon.start()
    [document] = daemon.settle(1).values()
    daemon.stop()
    layout, job_id = Layout(str(daemon.root)), document["job_id"]
    with contextlib.closing(Journal(layout.journal)) as journal:
        (daemon.inbox / "desk").rmdir()
        (daemon.inbox / "desk").touch()
        with pytest.raises(StorageError):
            retry(layout, journal, job_id)
        assert list(daemon.sidecars()) == ["results/desk/clip.mp4.json"]
        (daemon.inbox / "desk").unlink()

        monkeypatch.setattr(durable, "_libc_renameat2", lambda: refusing)
        with pytest.raises(StorageError):
            retry(layout, journal, job_id)
        monkeypatch.undo()
        retry(layout, journal, job_id)
        row = journal.job(job_id)
    name = f"{job_id}.superseded.json" if long else f"clip.mp4.{job_id}.superseded.json"
    assert list(daemon.sidecars()) == [f"results/desk/{name}"]
    assert row is not None
    assert row.sidecar == str(daemon.root / "results" / "desk" / name)
    assert daemon.files() == {"inbox/desk/clip.mp4": "nonsense"}


def test_many_files_from_many_hands(daemon: Daemon) -> None:
    daemon.start()
    words = ["fake", "real", "unsure", "noface", "nonsense", "refused"]
    for number in range(300):
        daemon.drop(f"{number:03d}.mp4", words[number % len(words)])
    documents = daemon.settle(300)
    assert len(documents) == len(daemon.files()) == 300
    assert len({document["job_id"] for document in documents.values()}) == 300
    received = sorted(documents.values(), key=lambda document: document["job_id"])
    assert [document["received_at"] for document in (d["subject"] for d in received)] == sorted(
        d["subject"]["received_at"] for d in received
    )


def test_a_sidecar_is_never_seen_half_written(daemon: Daemon) -> None:
    daemon.start()
    seen: set[str] = set()
    for number in range(60):
        daemon.drop(f"{number}.mp4", "fake")
    results = daemon.root / "results"
    until_s = time.monotonic() + 30
    while len(seen) < 60 and time.monotonic() < until_s:
        for name in os.listdir(results):
            if name.endswith(".json") and name not in seen:
                json.loads((results / name).read_bytes())
                seen.add(name)
    assert len(seen) == 60


def test_the_journal_can_be_read_while_the_daemon_writes(daemon: Daemon) -> None:
    daemon.start()
    daemon.drop("clip.mp4", "fake")
    daemon.settle(1)
    with contextlib.closing(sqlite3.connect(f"file:{daemon.root}/state/journal.sqlite3?mode=ro", uri=True)) as db:
        assert db.execute("SELECT verdict FROM jobs").fetchall() == [("FAKE",)]


def test_a_file_that_cannot_be_moved_holds_up_no_other(daemon: Daemon) -> None:
    """Its folder is immutable, which stops root too; an ordinary user meets the same with a folder of mode 755."""
    stuck = daemon.inbox / "stuck"
    stuck.mkdir()
    (stuck / "clip.mp4").write_text("fake")
    if os.geteuid() == 0:
        if subprocess.run(["chattr", "+i", str(stuck)], capture_output=True, check=False).returncode:
            pytest.skip("this file system knows no immutable folders")
        free = ["chattr", "-i", str(stuck)]
    else:
        stuck.chmod(0o555)
        free = ["chmod", "755", str(stuck)]
    try:
        daemon.start()
        wait_for(lambda: any("cannot be taken in" in event for event in daemon.events()), "it is logged")
        daemon.drop("free.mp4", "real")
        assert daemon.sidecar("free.mp4")["verdict"] == "REAL"
        wait_for(lambda: daemon.health().get("blocked"), "status can tell of it")
        assert sum("cannot be taken in" in event for event in daemon.events()) == 1
    finally:
        subprocess.run(free, check=True)
    assert daemon.sidecar("stuck/clip.mp4")["verdict"] == "FAKE"
