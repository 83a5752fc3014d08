"""The benchmark's way to start, feed and stop a daemon, on the real service with a scripted reader and model."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from benchmarks.daemon import Daemon

SCRIPTED = ("tests.service.scripted",)


def test_a_file_and_a_folder_are_judged_and_timed(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"fake")
    many = tmp_path / "many"
    many.mkdir()
    for number in range(5):
        (many / f"{number}.mp4").write_bytes(b"real")
    with Daemon(tmp_path / "daemon", module=SCRIPTED) as daemon:
        assert daemon.ready_s > 0
        seconds, document = daemon.judge(clip)
        assert seconds > 0
        assert document["verdict"] == "FAKE"
        assert daemon.judge(clip, copied=True)[1]["verdict"] == "FAKE"
        assert daemon.judge_folder(many) > 0
        assert daemon.cpu_s() > 0
        assert daemon.peak_bytes() > 1 << 20
        processes = psutil.Process().children(recursive=True)
    assert len(daemon.documents()) == 7
    assert clip.read_bytes() == b"fake"
    assert not [process for process in processes if process.is_running() and "scripted" in " ".join(process.cmdline())]


def test_a_clip_that_cannot_be_judged_is_no_measurement(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"corrupt")
    with Daemon(tmp_path / "daemon", module=SCRIPTED) as daemon, pytest.raises(RuntimeError, match="failed"):
        daemon.judge(clip)


def test_a_daemon_that_does_not_start_is_told_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no_such_setting"):
        Daemon(tmp_path / "daemon", {"watch": {"no_such_setting": 1}}, module=SCRIPTED).start()
