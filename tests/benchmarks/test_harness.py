from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import machine, report, tables
from benchmarks.cases import quality
from benchmarks.clips import Clip, ClipStore
from benchmarks.results import Plot, Report, Result, Table, Target

REPOSITORY = Path(__file__).parents[2]

RESULT = Result(
    [Table("Seconds", ("clip", "older", "ratio"), [["a|b", 12.3456, 1234.5], ["c", None, 7]], ("A note.",))],
    [Target("faster", "≥ 5", "4.2", False), Target("light", "< 0.3 s", "0.1 s", True)],
    [Plot("performance-made", "Made", "x", "y", {"one": [(1, 2), (10, 3)]}, logarithmic=True)],
)


@pytest.fixture
def made() -> Report:
    return Report(
        {"processor": "made"}, {"older": RESULT}, {"older": 2.0}, {"cuda": "no CUDA device"}, {"start": "OSError: no"}
    )


def test_a_table_shows_three_digits_and_no_cell_can_break_its_grid() -> None:
    lines = tables.table(RESULT.tables[0]).splitlines()
    assert lines[0] == "**Seconds**"
    assert lines[2:6] == [
        "| clip | older | ratio |",
        "| ---- | ----: | ----: |",
        "| a\\|b |  12.3 |  1234 |",
        "| c    |       |     7 |",
    ]
    assert lines[-1] == "A note."


def test_targets_are_told_as_met_missed_or_open() -> None:
    text = tables.targets([*RESULT.targets, Target("rate", "≥ 1", "-", None)])
    assert [line.rsplit("|", 2)[1].strip() for line in text.splitlines()[2:]] == ["**missed**", "met", "not told"]


def test_a_run_leaves_json_markdown_and_plots(tmp_path: Path, made: Report) -> None:
    written = {path.name: path for path in report.write(made, tmp_path / "out")}
    data = json.loads(written["benchmark.json"].read_text(encoding="utf-8"))
    assert data["results"]["older"]["tables"][0]["rows"][0] == ["a|b", 12.3456, 1234.5]
    page = written["benchmark.md"].read_text(encoding="utf-8")
    assert all(text in page for text in ("made", "**missed**", "no CUDA device", "OSError: no", "## older (2 s)"))
    assert "<svg" in written["performance-made.svg"].read_text(encoding="utf-8")


def test_a_page_is_filled_where_it_is_marked_and_only_there(tmp_path: Path, made: Report) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n<!-- benchmark: older -->\nold\n<!-- end -->\nwords\n<!-- benchmark: quality -->\nkept\n<!-- end -->\n"
        "<!-- benchmark: targets -->\n<!-- end -->\n",
        encoding="utf-8",
    )
    assert report.fill(page, made) == ["older"]
    text = page.read_text(encoding="utf-8")
    assert "old\n" not in text
    # One case that did not run, and its targets would be missing among all.
    assert all(kept in text for kept in ("kept", "words"))
    assert "**missed**" not in text
    assert (tmp_path / "performance-made.svg").exists()
    page.write_text(text.replace("quality", "cuda"), encoding="utf-8")
    assert report.fill(page, made) == ["older", "cuda", "targets"]
    text = page.read_text(encoding="utf-8")
    assert "**missed**" in text
    # A second run replaces what the first one wrote.
    assert report.fill(page, made) == ["older", "cuda", "targets"]
    assert page.read_text(encoding="utf-8") == text


def test_every_section_of_the_published_page_can_be_filled() -> None:
    from benchmarks.__main__ import CASES

    text = (REPOSITORY / "docs" / "performance.md").read_text(encoding="utf-8")
    marked = [line.split()[2] for line in text.splitlines() if line.startswith("<!-- benchmark:")]
    assert len(marked) == len(set(marked)) == text.count("<!-- end -->")
    assert set(marked) == {"machine", "targets", *CASES}


def test_the_area_under_the_curve_counts_ties_as_half() -> None:
    documents = {name: {"p_fake": p} for name, p in {"a": 0.9, "b": 0.4, "c": 0.4, "d": 0.1}.items()}
    labels = {"a": "FAKE", "b": "FAKE", "c": "REAL", "d": "REAL", "missing": "REAL"}
    assert quality._auc(documents, labels) == pytest.approx(3.5 / 4)


def test_clips_are_made_once_and_repeat_their_segment(tmp_path: Path) -> None:
    import av

    store = ClipStore(tmp_path)
    path = store.path(Clip(4, (160, 120), gop=15, segment_s=2))
    made_ns = path.stat().st_mtime_ns
    assert store.path(Clip(4, (160, 120), gop=15, segment_s=2)) == path
    assert path.stat().st_mtime_ns == made_ns
    assert not list(tmp_path.glob("unfinished*"))
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == 4 * 30
    assert [number for number, frame in enumerate(frames) if frame.key_frame] == list(range(0, 120, 15))


def test_the_machine_is_told() -> None:
    facts = machine.facts()
    assert {"processor", "instructions", "versions", "memory"} <= facts.keys()
    assert "torch" in facts["versions"]


def test_the_command_runs_a_case_and_says_what_it_wrote(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "quality", "--models", "shipped"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out"), "--clips", str(tmp_path / "clips")],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "no labelled videos were named" in done.stdout
    assert json.loads((tmp_path / "out" / "benchmark.json").read_bytes())["skipped"].keys() == {"quality"}
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == []
