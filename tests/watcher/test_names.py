from __future__ import annotations

import fnmatch

import hypothesis.strategies as st
import pytest
from hypothesis import given

from dfwatch.config import IGNORED_NAMES, WatchSettings
from dfwatch.inbox.names import NameRules


@pytest.mark.parametrize(
    "name",
    [".clip.mp4.Xy12Ab", "clip.mp4~", "clip.mp4.part", "CLIP.MP4.PART", "clip.crdownload", "a.tmp", "thumbs.db",
     "Desktop.ini", "@eaDir", "lost+found", "~$clip.mp4", "#recycle", "clip.!qB"],
)  # fmt: skip
def test_temporary_names_are_ignored(name: str) -> None:
    assert NameRules(WatchSettings()).ignored(name)


@pytest.mark.parametrize(
    "name", ["clip.mp4", "part", "clip.part.mp4", "-clip.mp4", "a\nb.mp4", "\udcff.mp4", "clip", "~"]
)
def test_other_names_are_not(name: str) -> None:
    rules = NameRules(WatchSettings(ignore=[pattern for pattern in IGNORED_NAMES if pattern != "*~"]))
    assert not rules.ignored(name)


@given(
    patterns=st.lists(st.text("ab.*?[]!~", max_size=5), max_size=4),
    name=st.text("abAB.*?[]!~", min_size=1, max_size=6),
)
def test_patterns_mean_what_shell_patterns_mean(patterns: list[str], name: str) -> None:
    expected = any(fnmatch.fnmatchcase(name.lower(), pattern.lower()) for pattern in patterns)
    assert NameRules(WatchSettings(ignore=patterns)).ignored(name) == expected


def test_the_ending_of_the_rename_protocol_is_taken_literally() -> None:
    rules = NameRules(WatchSettings(ignore=[], rename_from=".[up]*"))
    assert rules.ignored("clip.mp4.[up]*")
    assert not rules.ignored("clip.mp4.u")


def test_markers() -> None:
    rules = NameRules(WatchSettings(marker=".done"))
    assert rules.marker_for("clip.mp4.done") == "clip.mp4"
    assert rules.marker_for("clip.mp4") is None
    assert rules.marker_for(".done") is None
    assert NameRules(WatchSettings()).marker_for("clip.mp4.done") is None
