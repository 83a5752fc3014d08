"""Folders of a root that are mounts of their own, as volumes of a container may be: nothing can be renamed there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dfwatch.errors import StorageError, UnclaimableError
from dfwatch.inbox.completeness import Fingerprint
from dfwatch.intake import claim
from dfwatch.storage.layout import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(str(tmp_path / "root"))
    made.create()
    return made


@pytest.fixture
def bind(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Mounts a folder of the same file system somewhere; undone at the end."""
    places: list[str] = []

    def mount(place: str) -> None:
        source = tmp_path / f"volume {len(places)}"
        source.mkdir()
        done = subprocess.run(["mount", "--bind", source, place], capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot mount here: {done.stderr.decode().strip()}")
        places.append(place)

    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    yield mount
    for place in places:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("name", ["inbox", "work", "done", "failed", "quarantine"])
def test_a_folder_on_a_mount_of_its_own_is_refused(layout: Layout, bind: Callable[[str], None], name: str) -> None:
    bind(layout.folder(name))
    with pytest.raises(StorageError, match="mount of its own") as raised:
        layout.create()
    assert raised.value.subject == layout.folder(name)
    assert not raised.value.retryable


def test_results_and_state_may_be_mounted_from_elsewhere(layout: Layout, bind: Callable[[str], None]) -> None:
    """Nothing is moved there from other folders."""
    bind(layout.results)
    bind(layout.state)
    layout.create()


def test_a_folder_of_the_inbox_that_is_a_mount_is_named_as_the_cause(
    layout: Layout, bind: Callable[[str], None]
) -> None:
    news = Path(layout.inbox, "news")
    news.mkdir()
    bind(str(news))
    (news / "clip.mp4").write_text("fake")
    with pytest.raises(UnclaimableError) as raised:
        claim(layout, "news/clip.mp4", Fingerprint.from_stat((news / "clip.mp4").lstat()), ())
    assert "mount of its own" in raised.value.hint
