from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfwatch.errors import TrainingError
from dfwatch.training.splits import SPLITS, SplitRule, check_disjoint, read_exclusions, take
from tests.training.made import record


def test_a_group_never_changes_its_part() -> None:
    # Written down: another answer would move groups that a shipped model was trained on into the held-out parts.
    rule = SplitRule()
    assert [rule.of_group(name) for name in ("xnojggkrxt.mp4", "hqqmtxvbjj.mp4", "xjzkfqddyk.mp4", "utkface:a")] == [
        "test",
        "train",
        "train",
        "train",
    ]


def test_shares_are_those_of_the_rule() -> None:
    rule = SplitRule(select=0.2, test=0.1)
    counts = Counter(rule.of_group(f"group {number}") for number in range(20_000))
    assert counts["test"] / 20_000 == pytest.approx(0.1, abs=0.01)
    assert counts["select"] / 20_000 == pytest.approx(0.2, abs=0.01)


@given(st.lists(st.tuples(st.text(min_size=1, max_size=5), st.sampled_from(["REAL", "FAKE"])), max_size=60))
def test_no_group_crosses_a_split_and_nothing_is_lost(pairs: list[tuple[str, str]]) -> None:
    records = [record(f"video{number}", label, group) for number, (group, label) in enumerate(pairs)]
    parts = [take(records, split, SplitRule(), frozenset()) for split in SPLITS]
    check_disjoint(parts)
    assert sum(len(part) for part in parts) == len(records)


def test_parts_that_share_a_group_are_refused() -> None:
    one, other = record("a", "REAL", "same", split="train"), record("b", "FAKE", "same", split="test")
    parts = [take([one, other], split, SplitRule(), frozenset()) for split in SPLITS]
    with pytest.raises(TrainingError, match="same: this group is in two parts"):
        check_disjoint(parts)


def test_excluded_videos_and_all_of_an_excluded_source_are_left_out() -> None:
    records = [
        record("a.mp4", "REAL", "a.mp4"),
        record("fake_of_a.mp4", "FAKE", "a.mp4"),
        record("b.mp4", "REAL", "b.mp4"),
    ]
    kept = [r.video for split in SPLITS for r in take(records, split, SplitRule(), frozenset({"a.mp4"}))]
    assert kept == ["b.mp4"]


def test_the_exclusion_list_may_have_comments_and_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "exclude.txt"
    path.write_text("# kept for the final check\na.mp4\n\n b.mp4  # a real one\n")
    assert read_exclusions(str(path)) == {"a.mp4", "b.mp4"}


def test_an_exclusion_list_from_another_system_excludes_its_first_name_too(tmp_path: Path) -> None:
    path = tmp_path / "exclude.txt"
    path.write_bytes(b"\xef\xbb\xbfa.mp4\r\ncaf\xe9.mp4\r\n")
    assert read_exclusions(str(path)) == {"a.mp4", "caf\udce9.mp4"}
    path.write_bytes("a.mp4\r\n".encode("utf-16"))
    with pytest.raises(TrainingError, match="save it as UTF-8"):
        read_exclusions(str(path))


def test_a_missing_exclusion_list_is_an_error_and_not_an_empty_list(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="exclusion list"):
        read_exclusions(str(tmp_path / "nowhere.txt"))
