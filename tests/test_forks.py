"""Nothing forks pytest: its copy would have the locks of threads that it does not have, and hang or spin."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
# A process with one thread that starts the others, and a program that tries what it may not do.
ALLOWED = {"tests/reliability/launcher.py", "tests/reader/faulty_child.py"}


def forks(tree: ast.AST) -> Iterator[str]:
    """Calls that copy a process, and code that runs between fork and exec."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        words = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        if name in {"os.fork", "os.forkpty", "pty.fork"}:
            yield f"{name}()"
        elif name.endswith(("get_context", "set_start_method")) and "fork" in words:
            yield f"{name}('fork')"
        elif name.endswith(("multiprocessing.Process", "multiprocessing.Pool", "ProcessPoolExecutor")):
            yield f"{name}() without a context"
        yield from ("preexec_fn" for keyword in node.keywords if keyword.arg == "preexec_fn")


def test_nothing_forks_pytest() -> None:
    found = {}
    for folder in ("tests", "tools", "benchmarks", "dfwatch"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            if calls := list(forks(ast.parse(path.read_bytes()))):
                found[str(path.relative_to(REPOSITORY))] = calls
    assert found.keys() == ALLOWED, found


def test_each_way_is_found() -> None:
    text = """
os.fork()
pty.fork()
subprocess.run(["x"], preexec_fn=f)
multiprocessing.get_context("fork")
multiprocessing.Process(target=f)
multiprocessing.get_context("spawn")
"""
    assert len(list(forks(ast.parse(text)))) == 5
