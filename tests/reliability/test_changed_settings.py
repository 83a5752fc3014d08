"""A crash, and a start under other settings: what was published under the old ones is found, not done again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from dfwatch.config import OutcomeSettings
from tests.reliability.world import World

RESULTS = OutcomeSettings()
BESIDE = OutcomeSettings(sidecar="beside", verdict_folders=True)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@pytest.mark.parametrize("point", ["sidecar.renamed", "job.published", "disposal.moved"])
@pytest.mark.parametrize(("before", "after"), [(RESULTS, BESIDE), (BESIDE, RESULTS)], ids=["to beside", "to results"])
def test_a_crash_and_another_outcome_setting_make_no_second_sidecar(
    world: World, point: str, before: OutcomeSettings, after: OutcomeSettings
) -> None:
    world.settings = dataclasses.replace(world.settings, outcome=before)
    (world.inbox / "a.mp4").write_text("fake number 1")
    world.start(f"{point}:1")
    world.wait_for(lambda: world.ended() is not None, f"the service dies at {point}")
    (sidecar,) = world.sidecars()

    world.settings = dataclasses.replace(world.settings, outcome=after)
    world.start()
    world.settle()
    world.wait_for(lambda: set(world.rows()) == {"done"}, "the job is closed")

    assert list(world.sidecars()) == [sidecar]
    assert sum(world.put_away().values()) == 1
    assert not world.complaints.exists()


@pytest.mark.parametrize("text", ["", "fake"], ids=["refused at its opening", "refused by other settings"])
@pytest.mark.parametrize("point", ["sidecar.renamed", "job.published"])
def test_a_refused_file_gets_no_second_sidecar_either(world: World, point: str, text: str) -> None:
    (world.inbox / "a.mp4").write_text(text)
    world.start(f"{point}:1")
    world.wait_for(lambda: world.ended() is not None, f"the service dies at {point}")
    (sidecar,) = world.sidecars()

    watch = dataclasses.replace(world.settings.watch, extensions=("mkv",))
    world.settings = dataclasses.replace(world.settings, outcome=BESIDE, watch=watch)
    world.start()
    world.settle()
    world.wait_for(lambda: sum(world.rows().values()) == 1, "the job is closed")

    assert list(world.sidecars()) == [sidecar]
    assert world.contents("done" if text else "quarantine") == {text: 1}
    assert not world.complaints.exists()
