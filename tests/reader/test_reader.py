"""The parent's side with real child processes: good files, crashes, limits, lies, and nobody left behind."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from dfwatch.config import FaceSettings, ReaderSettings
from dfwatch.errors import MediaError, ReaderCrashError, RefusedError, StorageError, UndecodableError
from dfwatch.reader import Reader, decoder_threads, reader_processes
from dfwatch.reading import CropSpec
from dfwatch.reasons import Reason
from tests.clips import make_clip, make_still
from tests.reader.faulty_child import LIES, UNREADABLE
from tests.reader.helpers import FACES, read
from tests.reader.test_sick_disk import SickDisk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CROP = CropSpec(size_px=96)
FAULTY = "tests.reader.faulty_child"
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@contextmanager
def faulty(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[Reader]:
    monkeypatch.setenv("PYTHONPATH", ROOT)
    with Reader(ReaderSettings(**settings), FaceSettings(), child_module=FAULTY) as reader:
        yield reader


def ask(reader: Reader, tmp_path: Path, order: str) -> str:
    path = tmp_path / "order"
    path.write_text(order + "\n")
    fd = os.open(path, os.O_RDONLY)
    try:
        return " ".join(reader.read(fd, CROP, subject="order").warnings)
    finally:
        os.close(fd)


def crash(reader: Reader, tmp_path: Path, order: str) -> ReaderCrashError:
    with pytest.raises(ReaderCrashError) as caught:
        ask(reader, tmp_path, order)
    return caught.value


@pytest.fixture(scope="module")
def real() -> Iterator[Reader]:
    with Reader(ReaderSettings(), FACES) as reader:
        yield reader


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "a.mp4", rotation=90)


def test_a_child_reads_as_this_process_does(real: Reader, clip: Path) -> None:
    fd = os.open(clip, os.O_RDONLY)
    os.lseek(fd, 17, os.SEEK_SET)
    there, here = real.read(fd, CROP), read(clip)

    assert os.lseek(fd, 0, os.SEEK_CUR) == 17
    os.close(fd)
    assert there.tracks == here.tracks
    assert there.sampling == here.sampling
    assert there.video == here.video
    assert (there.crops == here.crops).all()
    assert there.crops.shape == (20, 96, 96, 3)
    assert set(there.timings_ms) == {"probe", "decode", "faces"}


def test_the_highest_limits_that_may_be_set_are_kept_by_the_machine(clip: Path) -> None:
    names = ("time_limit_s", "cpu_limit_s", "max_pixels", "decoder_threads")
    highest = {item.name: item.metadata["maximum"] for item in dataclasses.fields(ReaderSettings) if item.name in names}
    with Reader(ReaderSettings(**highest), FACES) as reader, clip.open("rb") as stream:
        assert reader.read(stream.fileno(), CROP).sampling.decoded == 20


@pytest.mark.parametrize(
    ("processes", "threads", "cores", "expected"),
    [(0, 0, 1, (1, 1)), (0, 0, 2, (2, 4)), (0, 0, 8, (8, 4)), (0, 0, 64, (8, 4)), (4, 0, 2, (4, 4)), (3, 5, 2, (3, 5))],
)
def test_cores_are_shared_out(processes: int, threads: int, cores: int, expected: tuple[int, int]) -> None:
    settings = ReaderSettings(processes=processes, decoder_threads=threads)
    assert (reader_processes(settings, cores), decoder_threads(settings, cores)) == expected


def test_hello_says_what_holds(real: Reader) -> None:
    hello = real.start()
    assert "PyAV" in hello.decoder
    assert {"no_new_privs", "not_dumpable"} <= set(hello.confinement)
    measures = {"no_new_privs", "not_dumpable", "landlock", "seccomp"}
    assert measures == {*hello.confinement, *(text.split(":")[0] for text in hello.skipped)}


def test_refusals_cross_over(real: Reader, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"")
    fd = os.open(path, os.O_RDONLY)
    with pytest.raises(RefusedError, match="a video") as caught:
        real.read(fd, CROP, subject="a video")
    os.close(fd)
    assert caught.value.reason is Reason.EMPTY
    assert not caught.value.retryable


def test_no_torch_in_the_child(real: Reader) -> None:
    real.start()
    assert not any("torch" in region.path for region in psutil.Process(real.pid).memory_maps())


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("jpg", lambda path: make_still(path.with_suffix(".jpg"))),
        ("webp", lambda path: make_still(path.with_suffix(".webp"), exif_orientation=6)),
        ("avi", lambda path: make_clip(path.with_suffix(".avi"), codec="mpeg4", seconds=1)),
        ("mkv", lambda path: make_clip(path.with_suffix(".mkv"), codec="libx265", pixel_format="yuv420p10le")),
        ("webm", lambda path: make_clip(path.with_suffix(".webm"), codec="libvpx-vp9", seconds=1)),
        ("av1", lambda path: make_clip(path.with_suffix(".mp4"), codec="libsvtav1", seconds=1)),
        ("mov", lambda path: make_clip(path.with_suffix(".mov"), codec="prores_ks", pixel_format="yuv422p10le")),
        ("ts", lambda path: make_clip(path.with_suffix(".ts"), codec="mpeg2video", seconds=1)),
        ("hdr", lambda path: make_clip(path.with_suffix(".mp4"), codec="libx265", pixel_format="yuv420p10le",
                                       color=(9, 16, 9, 1))),
    ],
)  # fmt: skip
def test_confinement_breaks_no_decoder(real: Reader, tmp_path: Path, kind: str, make: Any) -> None:
    path = make(tmp_path / kind)
    fd = os.open(path, os.O_RDONLY)
    reading = real.read(fd, CROP)
    os.close(fd)
    assert len(reading.tracks) == 1, kind


@pytest.mark.parametrize(
    ("order", "reason", "words"),
    [
        ("segfault", Reason.READER_CRASHED, "SIGSEGV"),
        ("mourn", Reason.READER_CRASHED, "SIGABRT: the last line"),
        ("abort", Reason.READER_CRASHED, "SIGABRT"),
        ("exit", Reason.READER_CRASHED, "status 3"),
        ("eat", Reason.READER_OUT_OF_MEMORY, "memory"),
        ("hang", Reason.READER_TIMEOUT, "within 1 s"),
        ("defect", Reason.INTERNAL_ERROR, "KeyError"),
    ],
)
def test_a_fault_is_told_apart_and_the_next_file_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, order: str, reason: Reason, words: str
) -> None:
    limits = {"time_limit_s": 1.0} if order == "hang" else {"time_limit_s": 60.0}
    with faulty(monkeypatch, memory_limit_bytes=1 << 30, **limits) as reader:
        before = ask(reader, tmp_path, "count").split()[-1]
        error = crash(reader, tmp_path, order)
        after = ask(reader, tmp_path, "count")

    assert error.reason is reason
    assert words in error.cause
    assert error.retryable
    assert error.subject == "order"
    assert after.startswith("job 1 in")
    assert not after.endswith(before)
    assert not psutil.pid_exists(int(before))


def test_processor_time_is_limited_for_each_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with faulty(monkeypatch, cpu_limit_s=1.0, time_limit_s=60.0) as reader:
        error = crash(reader, tmp_path, "spin")
    assert error.reason is Reason.READER_TIMEOUT
    assert "processor time" in error.cause


def test_killed_by_the_kernel_is_taken_for_want_of_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with faulty(monkeypatch) as reader:
        reader.start()
        threading.Timer(0.5, os.kill, (reader.pid, signal.SIGKILL)).start()
        assert crash(reader, tmp_path, "killed").reason is Reason.READER_OUT_OF_MEMORY


def test_a_child_that_died_between_files_is_replaced_unnoticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with faulty(monkeypatch) as reader:
        reader.start()
        assert reader.pid is not None
        os.kill(reader.pid, signal.SIGKILL)
        time.sleep(0.2)
        assert ask(reader, tmp_path, "count").startswith("job 1")


def test_a_child_is_replaced_after_so_many_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with faulty(monkeypatch, jobs_per_process=3) as reader:
        counts = [ask(reader, tmp_path, "count").split()[1] for _ in range(7)]
    assert counts == ["1", "2", "3", "1", "2", "3", "1"]


def test_an_undecodable_file_keeps_its_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with faulty(monkeypatch) as reader:
        with pytest.raises(UndecodableError) as caught:
            ask(reader, tmp_path, "undecodable")
        assert (caught.value.reason, caught.value.hint) == (Reason.CORRUPT, "try another")
        assert ask(reader, tmp_path, "count").startswith("job 2")


def test_a_sick_disk_is_not_the_files_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    disk = SickDisk(0, 10, errno.ESTALE)
    monkeypatch.setattr("dfwatch.reader.os", disk)
    with faulty(monkeypatch) as reader:
        with pytest.raises(StorageError, match=f"reading order: {os.strerror(errno.ESTALE)}") as caught:
            ask(reader, tmp_path, "sick_disk")
        assert caught.value.retryable
        assert disk.failed == 1
        assert ask(reader, tmp_path, "count").startswith("job 1")


def test_a_disk_is_not_sick_because_a_child_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Else a file could have itself read for ever.
    with faulty(monkeypatch) as reader:
        error = crash(reader, tmp_path, "sick_disk")
        assert error.reason is Reason.READER_PROTOCOL
        assert error.cause == "it says that the disk failed (Input/output error), but the bytes at 5 can be read"
        assert ask(reader, tmp_path, "count").startswith("job 1")


@pytest.mark.parametrize(
    "name", [*LIES, *UNREADABLE, "garbage", "endless", "not-json", "deep", "short-blob", "unknown-error"]
)
def test_a_child_that_lies_is_not_believed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    with faulty(monkeypatch) as reader:
        error = crash(reader, tmp_path, f"lie {name}")
        assert error.reason is Reason.READER_PROTOCOL
        assert ask(reader, tmp_path, "count").startswith("job 1")


@pytest.mark.parametrize(
    "power",
    ["read", "write", "list", "remove", "tcp", "udp", "unix", "netlink", "fork", "execute", "signal", "memory-file",
     "affinity", "scheduler", "priority", "owner", "owner-by-ioctl", "lease", "flags", "signal-number"],
)  # fmt: skip
def test_a_confined_child_can_do_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, power: str) -> None:
    with faulty(monkeypatch) as reader:
        if (missing := [text for text in reader.start().skipped if text.startswith("seccomp")]) != []:
            pytest.skip(missing[0])
        said = ask(reader, tmp_path, f"try {power}")
        if power == "signal" and "worked" in said:
            pytest.fail(said)
    assert said in {f"{power}: Operation not permitted", f"{power}: Permission denied"}


def test_a_confined_child_can_start_threads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with faulty(monkeypatch) as reader:
        assert ask(reader, tmp_path, "threads") == "4 threads"


def test_limits_and_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("A_SECRET", "x")
    with faulty(monkeypatch, memory_limit_bytes=1 << 30) as reader:
        assert ask(reader, tmp_path, "limits") == f"{1 << 30} 0 0 64"
        assert "A_SECRET" not in ask(reader, tmp_path, "environment")


def test_close_ends_a_read_in_another_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with faulty(monkeypatch) as reader:
        reader.start()
        pid = reader.pid
        errors: list[MediaError] = []

        def hang() -> None:
            try:
                ask(reader, tmp_path, "hang")
            except MediaError as error:
                errors.append(error)

        thread = threading.Thread(target=hang)
        thread.start()
        time.sleep(0.3)
        reader.close()
        thread.join(10)

        assert [error.reason for error in errors] == [Reason.READER_CRASHED]
        assert not psutil.pid_exists(pid or 0)
        with pytest.raises(ReaderCrashError, match="closed"):
            ask(reader, tmp_path, "count")


def test_a_child_outlives_the_thread_that_asked_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with faulty(monkeypatch) as reader:
        thread = threading.Thread(target=reader.start)
        thread.start()
        thread.join()
        pid = reader.pid
        time.sleep(0.2)
        assert ask(reader, tmp_path, "count") == f"job 1 in {pid}"


def test_no_orphan_when_the_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "order").write_text("hang\n")
    script = (
        "import os, sys\n"
        "from dfwatch.config import FaceSettings, ReaderSettings\n"
        "from dfwatch.reader import Reader\n"
        "from dfwatch.reading import CropSpec\n"
        f"reader = Reader(ReaderSettings(), FaceSettings(), child_module={FAULTY!r})\n"
        "reader.start()\n"
        "print(reader.pid, flush=True)\n"
        f"reader.read(os.open({str(tmp_path / 'order')!r}, os.O_RDONLY), CropSpec(8))\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": ROOT}, text=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
        assert psutil.wait_procs([child], timeout=10)[1] == []


def test_a_child_that_cannot_start_says_why() -> None:
    with (
        Reader(ReaderSettings(), FaceSettings(model="/nowhere/model.onnx")) as reader,
        pytest.raises(ReaderCrashError) as caught,
    ):
        reader.start()
    words = "loading the face detector /nowhere/model.onnx: No such file or directory (see faces.model"
    assert caught.value.cause.startswith(words)


def test_a_child_that_meets_a_defect_at_its_start_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    with faulty(monkeypatch, memory_limit_bytes=1 << 63) as reader, pytest.raises(ReaderCrashError) as caught:
        reader.start()
    assert caught.value.cause == "OverflowError: Python int too large to convert to C long"


def test_memory_stays_flat_over_many_files(real: Reader, clip: Path) -> None:
    fd = os.open(clip, os.O_RDONLY)
    for _ in range(5):
        real.read(fd, CROP)
    process = psutil.Process(real.pid)
    before, open_before = process.memory_info().rss, process.num_fds()
    for _ in range(25):
        real.read(fd, CROP)
    os.close(fd)
    assert process.memory_info().rss < before + 8 * 1024 * 1024
    assert process.num_fds() == open_before
