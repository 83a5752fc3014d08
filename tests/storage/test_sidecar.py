"""What lies where a sidecar may lie: the job's own, or anything that somebody dropped under its name."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dfwatch.errors import StorageError
from dfwatch.sinks import sidecar
from dfwatch.storage.layout import DroppedName

JOB = "20260101T000000.000000Z-00000000"


@pytest.fixture
def place(tmp_path: Path) -> sidecar.Place:
    return sidecar.Place(str(tmp_path / "quarantine"), DroppedName("", "clip.mp4"), "ab" * 32, JOB)


def link(path: Path) -> None:
    target = path.parent.parent / "elsewhere.json"
    target.write_text(json.dumps({"job_id": JOB}))
    path.symlink_to(target)


def huge(path: Path) -> None:
    path.write_text(json.dumps({"job_id": JOB}))
    os.truncate(path, 2**32)


HOSTILE: dict[str, Callable[[Path], object]] = {
    "nested": lambda path: path.write_text("[" * 200_000 + JOB),
    "pipe": os.mkfifo,
    "link": link,
    "folder": Path.mkdir,
    "huge": huge,
    "not UTF-8": lambda path: path.write_bytes(b"\xff" + JOB.encode()),
    "a list": lambda path: path.write_text(json.dumps([JOB])),
    "another job's": lambda path: path.write_text(json.dumps({"job_id": "another", "name": JOB})),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_whatever_has_a_sidecars_name_is_no_obstacle(place: sidecar.Place, kind: str) -> None:
    path = Path(place.base, "clip.mp4.json")
    path.parent.mkdir()
    HOSTILE[kind](path)
    before = path.lstat()
    found: list[object] = []

    def look() -> None:
        found.append(sidecar.find(place))
        found.append(sidecar.publish(place, {"job_id": JOB}))
        found.append(sidecar.find(place))

    # A thread of its own, for where it would wait for ever.
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(30.0)
    assert len(found) == 3
    own = str(path.with_name("clip.mp4.abababababab.json"))
    assert found == [None, (own, {"job_id": JOB}), (own, {"job_id": JOB})]
    assert path.lstat() == before


def test_what_was_published_before_holds(place: sidecar.Place) -> None:
    path, document = sidecar.publish(place, {"job_id": JOB, "verdict": "REAL"})
    assert sidecar.publish(place, {"job_id": JOB, "verdict": None}) == (path, document)
    assert document["verdict"] == "REAL"


@pytest.mark.parametrize("error", [errno.EMFILE, errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_sidecar_that_cannot_be_read_for_the_moment_is_not_written_again(
    place: sidecar.Place, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    path, document = sidecar.publish(place, {"job_id": JOB})
    real = os.open

    def failing(wanted: str, flags: int, *args: int) -> int:
        if wanted == path:
            raise OSError(error, os.strerror(error), path)
        return real(wanted, flags, *args)

    monkeypatch.setattr(os, "open", failing)
    for call in (sidecar.find, lambda place: sidecar.publish(place, document)):
        with pytest.raises(StorageError) as raised:
            call(place)
        assert raised.value.retryable
    monkeypatch.undo()
    assert sidecar.publish(place, document) == sidecar.find(place) == (path, document)
    assert os.listdir(place.base) == [os.path.basename(path)]


@pytest.mark.parametrize("mode", [0o000, 0o644])
def test_somebody_elses_file_that_may_not_be_read_is_no_sidecar(
    place: sidecar.Place, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    path = Path(place.base, "clip.mp4.json")
    path.parent.mkdir()
    path.write_text(json.dumps({"job_id": JOB}))
    path.chmod(mode)
    real = os.open

    def refusing(wanted: str, flags: int, *args: int) -> int:
        if wanted == str(path):
            raise PermissionError(errno.EACCES, "Permission denied", wanted)
        return real(wanted, flags, *args)

    monkeypatch.setattr(os, "open", refusing)
    if mode:
        monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    assert sidecar.find(place) is None
    assert sidecar.publish(place, {"job_id": JOB})[0] != str(path)
