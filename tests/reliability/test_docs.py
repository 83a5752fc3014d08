"""The page that promises tests: each one that it names is there, and can be run by that name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "reliability.md").read_text()


def named_tests(path: Path) -> set[str]:
    """Names of the tests in a file: functions, and what a state machine is assigned to."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return {name for name in names if name.lower().startswith("test")}


def test_every_test_that_the_page_names_is_there() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)
    missing = [f"{file}::{name}" for file, name in named if name not in named_tests(REPOSITORY / "tests" / file)]
    assert missing == []
    assert len(named) > 50


def test_every_row_says_what_shows_it() -> None:
    rows = [line.split("|") for line in PAGE.splitlines() if line.startswith("| ") and line.count("|") == 5]
    silent = [row[1] for row in rows if not re.search(r"::\w+`|shown by|---", row[3]) and "by hand: `" not in row[4]]
    assert silent == []
    assert len(rows) > 40


def test_every_file_of_this_folder_is_on_the_page() -> None:
    files = {path.name for path in Path(__file__).parent.glob("test_*.py")} - {Path(__file__).name}
    assert {name for name in files if name not in PAGE} == set()


def test_no_page_holds_what_a_merge_left_unsettled() -> None:
    pages = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")]
    marks = re.compile(r"^(<{7} |={7}$|>{7} )", re.MULTILINE)
    assert [page.name for page in pages if marks.search(page.read_text())] == []
    assert len(pages) > 10
