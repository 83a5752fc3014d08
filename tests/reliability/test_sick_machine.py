"""A disk that fails in every way at every step, a machine that refuses: nothing is lost or ends, and all resumes."""

from __future__ import annotations

import errno
import functools
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from dfwatch.inbox.walk import MAX_DEPTH
from tests.reliability.faults import ERRNOS, OPERATIONS
from tests.reliability.served import below
from tests.reliability.world import World
from tests.service.scripted import StarvedReader

Make = Callable[..., World]


def drop(world: World, name: str, text: str) -> None:
    whole = world.folder / "whole"
    whole.write_text(text)
    os.rename(whole, world.inbox / name)


def troubles(world: World) -> str:
    told = world.health()
    return "".join([told.get("paused", ""), told.get("trouble", ""), *told.get("blocked", ())])


@pytest.mark.parametrize("error", sorted(ERRNOS))
def test_whatever_fails_the_service_goes_on_and_loses_nothing(world: World, error: str) -> None:
    """Every operation in turn fails for a while, with files in the inbox and in work; one process sees it through."""
    world.start()
    expected: Counter[str] = Counter()
    for number, operation in enumerate(OPERATIONS):
        contents = [f"{word} {operation} {error}" for word in ("slow 0.1", "real", "refused")]
        expected.update(contents)
        drop(world, f"{number}-early.mp4", contents[0])
        world.wait_for(lambda: not (world.inbox / f"{number}-early.mp4").exists(), "it is claimed")  # noqa: B023
        pid = world.pid
        world.faults.set(operation, number=ERRNOS[error])
        drop(world, f"{number}-late.mp4", contents[1])
        drop(world, f"-{number}.mp4", contents[2])
        time.sleep(0.3)
        world.faults.set()
        world.settle()
        assert world.pid == pid
    assert world.put_away() == expected
    assert len(world.sidecars()) == sum(expected.values())
    assert set(world.rows()) == {"done", "rejected"}
    assert world.stop() == 0
    assert not world.complaints.exists()


@pytest.mark.parametrize(
    ("operation", "error", "where"),
    [
        ("mkdir", "ENOSPC", "paused"),
        ("journal", "EIO", "paused"),
        ("rename", "EACCES", "blocked"),
        ("read", "EIO", "trouble"),
    ],
)
def test_trouble_is_visible_while_it_lasts_and_gone_afterwards(
    world: World, operation: str, error: str, where: str
) -> None:
    world.start()
    world.wait_for(lambda: world.health().get("pid") == world.pid, "it is ready")
    world.faults.set(operation, number=ERRNOS[error])
    drop(world, "clip.mp4", "real")
    told = world.wait_for(lambda: world.health().get(where), f"{where} says so")
    assert os.strerror(ERRNOS[error]) in str(told)
    assert world.sidecars() == {}
    world.faults.set()
    world.settle()
    world.wait_for(lambda: not troubles(world), "nothing is said any more")


def test_trouble_met_by_a_recovered_job_is_gone_when_it_ends_without_being_read(world: World) -> None:
    drop(world, "clip.mp4", "real")
    world.start(crash_at="sidecar.renamed")
    world.wait_for(world.ended_or_none, "it dies")
    world.faults.set("read", number=errno.EIO)
    world.start()
    world.wait_for(lambda: world.health().get("trouble"), "status says so")
    world.faults.set()
    world.settle()
    world.wait_for(lambda: not troubles(world), "nothing is said any more", 10.0)
    assert len(world.sidecars()) == 1


def test_a_file_that_can_be_read_but_not_hashed_is_tried_with_growing_pauses(world: World) -> None:
    world.faults.set("read", number=errno.EIO)
    world.start()
    drop(world, "clip.mp4", "real")

    def pauses_s() -> list[float]:
        lines = [json.loads(line) for line in world.log.read_text().splitlines()] if world.log.exists() else []
        return [line["delay_s"] for line in lines if line["event"] == "the disk failed while a file was read"]

    world.wait_for(lambda: len(pauses_s()) == 3, "it is tried thrice")
    assert pauses_s() == [1.0, 2.0, 4.0]
    world.faults.set()


@pytest.mark.parametrize("beside", ["", "/".join(["deep"] * MAX_DEPTH)], ids=["alone", "a folder that is not entered"])
def test_a_file_that_cannot_be_claimed_and_is_taken_away_is_told_no_longer(world: World, beside: str) -> None:
    (world.inbox / beside).mkdir(parents=True, exist_ok=True)
    world.start()
    world.wait_for(lambda: world.health().get("pid") == world.pid, "it is ready")
    world.faults.set("rename", number=errno.EACCES)
    drop(world, "clip.mp4", "real")
    world.wait_for(lambda: world.health().get("blocked"), "it is told")
    (world.inbox / "clip.mp4").unlink()
    world.wait_for(lambda: not troubles(world), "nothing is said any more", 10.0)


def test_folders_that_vanish_are_made_again(world: World) -> None:
    world.start()
    drop(world, "first.mp4", "real first")
    world.settle()
    for name in ("results", "done", "failed", "quarantine", "work"):
        shutil.rmtree(world.root / name)
    drop(world, "second.mp4", "real second")
    world.wait_for((world.root / "work").is_dir, "it is taken in")
    world.settle()
    assert world.put_away() == Counter(["real second"])
    assert len(world.sidecars()) == 1


def test_a_disk_that_is_really_full(worlds: Make, tmp_path: Path) -> None:
    """A file system of 1 MiB, filled by somebody else to the last block."""
    world = worlds()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=1m none {world.root} 2>/dev/null"):
        pytest.skip("mounting a small file system needs root and CAP_SYS_ADMIN")
    try:
        world.layout.create()
        world.start()
        for number in range(3):
            drop_across(world, f"{number}.mp4", f"real {number}")
        world.settle()
        ballast = os.open(world.root / "ballast", os.O_WRONLY | os.O_CREAT)
        with pytest.raises(OSError, match="No space"):  # noqa: PT012 - the last write of many
            while True:
                os.write(ballast, bytes(4096))
        os.close(ballast)
        for number in range(3):
            # Names need no blocks on tmpfs, so that empty files still come in; their content would not.
            (world.inbox / f"full {number}.mp4").touch()
        world.wait_for(lambda: troubles(world) or "fail" in world.log.read_text(), "it is told")
        pid = world.pid
        (world.root / "ballast").unlink()
        world.settle()
        assert world.pid == pid
        assert len(world.sidecars()) == 6
        assert len(below(world.root / "done")) + len(below(world.root / "quarantine")) == 6
        assert world.stop() == 0
    finally:
        world.kill()
        os.system(f"umount -l {world.root}")


def drop_across(world: World, name: str, text: str) -> None:
    whole = world.root / "state" / "whole"
    whole.write_text(text)
    os.rename(whole, world.inbox / name)


def test_a_full_disk_at_the_start_costs_no_journal(world: World) -> None:
    """A journal that cannot be opened for the moment is not a damaged one."""
    world.start()
    drop(world, "clip.mp4", "real")
    world.settle()
    world.stop()
    world.faults.set("create", "open", "mkdir", number=errno.ENOSPC)
    world.start()
    world.wait_for(world.ended_or_none, "the start fails")
    world.faults.set()
    world.start()
    drop(world, "clip 2.mp4", "real too")
    world.settle()
    assert world.rows() == {"done": 2}
    assert not list((world.root / "state").glob("*damaged*"))


def test_a_journal_that_breaks_while_it_runs_is_built_anew_by_the_next_start(world: World) -> None:
    world.start()
    for number in range(40):
        drop(world, f"{number}.mp4", f"real {number}")
    world.settle()
    world.stop()
    journal = Path(world.layout.journal)
    data = bytearray(journal.read_bytes())
    # The header stays good; what follows it does not.
    data[4096:] = bytes(len(data) - 4096)
    journal.write_bytes(bytes(data))
    drop(world, "after.mp4", "real after")
    world.start()
    world.settle()
    assert len(world.put_away()) == len(world.sidecars()) == 41
    assert list((world.root / "state").glob("*damaged*"))


def test_a_bug_that_one_file_brings_to_light_ends_with_that_file(worlds: Make) -> None:
    """Whatever the service did not foresee: it ends, starts again, and the file that it stumbles over is put aside."""
    world = worlds(jobs={"max_attempts": 2})
    drop(world, "guilty.mp4", "defect")
    for number in range(3):
        drop(world, f"innocent {number}.mp4", f"real {number}")
    for _ in range(12):
        world.start()
        world.wait_for(lambda: not world.waiting() or world.ended() is not None, "it ends or is done")
        if world.pid:
            break
    world.settle()
    statuses = Counter(document["status"] for document in world.sidecars().values())
    assert statuses == {"done": 3, "quarantined": 1}
    assert [path.name for path in below(world.root / "quarantine")] == ["guilty.mp4"]


def test_files_that_cannot_be_renamed_without_replacing_are_linked(world: World) -> None:
    """NFS and others know no RENAME_NOREPLACE; a claim cut short there leaves two names, and is still one file."""
    drop(world, "clip.mp4", "real")
    job = world.root / "work" / "20260101T000000.000000Z-00000000"
    job.mkdir()
    os.link(world.inbox / "clip.mp4", job / "source")
    (job / "job.json").write_text(
        '{"folder_b64": "", "name_b64": "Y2xpcC5tcDQ=", "received_at": "2026-01-01T00:00:00.000Z", "evidence": []}'
    )
    world.start()
    world.settle()
    assert world.put_away() == Counter(["real"])
    assert len(world.sidecars()) == 1


@pytest.mark.parametrize("sick_disk", [False, True])
def test_a_reader_that_cannot_be_started_or_read_is_no_files_fault(worlds: Make, *, sick_disk: bool) -> None:
    """No memory, no processes, no bytes: the machine's trouble, told and waited out, and no attempt of any file."""
    world = worlds(jobs={"max_attempts": 1})
    trouble = world.folder / "no memory"
    trouble.touch()

    world.make_reader = functools.partial(StarvedReader, trouble, sick_disk=sick_disk)
    world.start()
    drop(world, "clip.mp4", "real")
    told = world.wait_for(lambda: world.health().get("trouble"), "status says so")
    assert ("Input/output error" if sick_disk else "cannot allocate memory") in told
    time.sleep(1.2)
    assert world.sidecars() == {}
    trouble.unlink()
    world.settle()
    [document] = world.sidecars().values()
    assert (document["verdict"], document["attempt"]) == ("REAL", 1)
    world.wait_for(lambda: not troubles(world), "nothing is said any more")


def test_a_machine_that_can_read_nothing_leaves_the_inbox_where_it_is(world: World) -> None:
    trouble = world.folder / "no memory"
    trouble.touch()
    world.make_reader = functools.partial(StarvedReader, trouble)
    for number in range(100):
        drop(world, f"{number}.mp4", f"real {number}")
    world.start()
    world.wait_for(lambda: world.health().get("delayed"), "it is met")
    time.sleep(3.0)
    # Two readers have 22 places, and every now and then it is tried whether another file fares better.
    assert len(os.listdir(world.root / "work")) < 50
    trouble.unlink()
    world.settle()
    assert len(world.sidecars()) == 100


def test_sick_files_keep_no_other_out_however_many_they_are(world: World) -> None:
    for number in range(25):
        drop(world, f"{number}.mp4", f"sick {number}")
    world.start()
    world.wait_for(lambda: len(os.listdir(world.root / "work")) == 25, "they have all places")
    for number in range(5):
        drop(world, f"good {number}.mp4", f"real {number}")
    world.wait_for(lambda: len(world.sidecars()) == 5, "the others are judged")
    assert world.rows()["done"] == 5


def test_a_device_that_is_lost_makes_no_wrong_verdict(world: World) -> None:
    """The service ends, blames nobody, and the next start judges what was in work, the file that met it too."""
    for number in range(3):
        drop(world, f"{number}.mp4", f"real {number}")
    drop(world, "lost.mp4", "lost")
    world.start()
    [status] = world.wait_for(world.ended_or_none, "it ends")
    assert status != 0
    assert not [path for path in world.sidecars() if "lost" in path]
    for path in (world.root / "work").glob("*/source"):
        if path.read_text() == "lost":
            path.write_text("fake")
    world.start()
    world.settle()
    documents = {document["subject"]["name"]: document for document in world.sidecars().values()}
    assert {name: document["verdict"] for name, document in documents.items()} == {
        "0.mp4": "REAL", "1.mp4": "REAL", "2.mp4": "REAL", "lost.mp4": "FAKE",
    }  # fmt: skip
    assert {document["attempt"] for document in documents.values()} == {1}
