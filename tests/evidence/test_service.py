"""Evidence beside the sidecars of a real daemon: published first, whole, and once."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.service.daemon import Daemon, wait_for

Make = Callable[..., Daemon]
ON: dict[str, Any] = {"evidence": {"enabled": True}}


def folders(daemon: Daemon) -> list[Path]:
    return sorted(path for path in daemon.root.rglob("*.evidence") if path.is_dir())


def test_it_is_off_by_default(daemon: Daemon) -> None:
    daemon.start()
    daemon.drop("clip.mp4", "fake")
    assert daemon.sidecar("clip.mp4")["evidence"] is None
    assert folders(daemon) == []


def test_every_file_that_the_sidecar_names_is_there(daemons: Make) -> None:
    daemon = daemons(ON).start()
    daemon.drop("clip.mp4", "fake")
    daemon.drop("none.mp4", "noface")
    daemon.drop("broken.mp4", "corrupt")
    daemon.settle(3)
    told = daemon.sidecar("clip.mp4")["evidence"]
    folder = daemon.root / "results" / told["folder"]
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "timeline.svg"]
    assert "clip.mp4" in (folder / told["report"]).read_text()
    assert daemon.sidecar("none.mp4")["evidence"]["timeline"] is None
    assert daemon.sidecar("broken.mp4")["evidence"] is None
    assert len(folders(daemon)) == 2
    timings = daemon.sidecar("clip.mp4")["timings_ms"]
    assert timings["total"] == pytest.approx(sum(timings.values()) - timings["total"], abs=0.5)


def test_only_for_the_verdicts_that_are_wanted(daemons: Make) -> None:
    daemon = daemons({"evidence": {"enabled": True, "verdicts": ["FAKE"]}, "outcome": {"sidecar": "beside"}}).start()
    daemon.drop("a.mp4", "fake")
    daemon.drop("b.mp4", "real")
    documents = daemon.settle(2)
    assert documents["done/b.mp4.json"]["evidence"] is None
    [folder] = folders(daemon)
    assert folder == daemon.root / "done" / documents["done/a.mp4.json"]["evidence"]["folder"]


@pytest.mark.parametrize("point", ["sidecar.written", "sidecar.renamed", "job.published"])
def test_after_kill_9_there_is_one_folder_and_the_sidecar_names_it(daemons: Make, point: str) -> None:
    daemon = daemons(ON)
    daemon.drop("clip.mp4", "fake")
    daemon.start(crash_at=point, ready=False)
    assert daemon.wait_until_dead() == -signal.SIGKILL
    assert len(folders(daemon)) == 1, "it is there before the sidecar"
    daemon.start()
    document = daemon.settle(1)["results/clip.mp4.json"]
    [folder] = folders(daemon)
    assert folder.name == document["evidence"]["folder"]
    assert (folder / "report.html").stat().st_size > 1000
    assert not list(daemon.root.rglob("*.tmp"))


def test_retention_takes_the_sidecar_and_its_evidence(daemons: Make) -> None:
    daemon = daemons(ON | {"retention": {"results_max_files": 1}})
    daemon.drop("a.mp4", "fake")
    daemon.start()
    daemon.settle(1)
    daemon.drop("b.mp4", "fake")
    daemon.settle(2)
    assert len(folders(daemon)) == 2
    assert daemon.stop() == 0
    # The first sweep comes with the start, the next ones by the minute.
    daemon.start()
    wait_for(lambda: "pruned" in daemon.events(), "the sweep is over")
    assert list(daemon.sidecars()) == ["results/b.mp4.json"]
    assert [folder.name for folder in folders(daemon)] == [daemon.sidecar("b.mp4")["evidence"]["folder"]]
