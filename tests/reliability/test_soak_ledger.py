"""The soak's own bookkeeping: what it would not notice, no soak would ever show."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools.soak import Ledger, Senders, audit, tell

GOOD, BAD = b"a good video", b"a playlist"


class Ended:
    """A root as a service leaves it that did everything right, and the ledger of what was dropped."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("inbox", "work", "done", "failed", "quarantine", "results"):
            (root / folder).mkdir(parents=True)
        self.ledger = Ledger()
        self.ledger.enter(GOOD, good=True)
        self.ledger.enter(BAD, good=False)
        self.ledger.special.add("pipe.mp4")
        (root / "done" / "good.mp4").write_bytes(GOOD)
        (root / "quarantine" / "bad.mp4").write_bytes(BAD)
        os.mkfifo(root / "quarantine" / "pipe.mp4")
        self.sidecar("good.mp4", GOOD)
        self.sidecar("bad.mp4", BAD, status="rejected", reason="format_not_allowed")
        self.sidecar("pipe.mp4", None, status="rejected", reason="not_a_regular_file")

    def sidecar(self, name: str, data: bytes | None, *, as_name: str = "", status: str = "done", **more: Any) -> None:
        sha256 = None if data is None else hashlib.sha256(data).hexdigest()
        document = {
            "status": status,
            "reason": None,
            "reason_detail": None,
            "subject": {"name": name, "sha256": sha256},
        }
        (self.root / "results" / f"{as_name or name}.json").write_text(json.dumps({**document, **more}))

    def status(self) -> int:
        return tell(self.root, self.ledger, 1, [], 0.0, 1.0, [])


@pytest.fixture
def ended(tmp_path: Path) -> Ended:
    return Ended(tmp_path / "root")


def test_all_is_well(ended: Ended, capsys: pytest.CaptureFixture[str]) -> None:
    account = audit(ended.root, ended.ledger)
    assert account.clean
    assert (account.judged, account.refused) == (1, 2)
    assert account.reasons == {"format_not_allowed": 1, "not_a_regular_file": 1}
    assert ended.status() == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["dropped", "3"] in lines
    assert ["lost", "0"] in lines
    assert tell(ended.root, ended.ledger, 1, [], 0.0, 1.0, ["the service ended by itself"]) == 1


WRONG: dict[str, tuple[str, Callable[[Ended], object]]] = {
    "a sidecar is missing": ("lost", lambda it: (it.root / "results" / "good.mp4.json").unlink()),
    "a pipe's sidecar is missing": ("lost", lambda it: (it.root / "results" / "pipe.mp4.json").unlink()),
    "two sidecars": ("twice", lambda it: it.sidecar("good.mp4", GOOD, as_name="good.mp4.0123456789ab")),
    "two sidecars of a pipe": ("twice", lambda it: it.sidecar("pipe.mp4", None, as_name="again", status="rejected")),
    "half of it": ("half", lambda it: it.sidecar("good.mp4", GOOD[:6], as_name="half", status="failed")),
    "a verdict on a playlist": ("wrongly", lambda it: it.sidecar("bad.mp4", BAD)),
    "a good one refused": ("blamed", lambda it: it.sidecar("good.mp4", GOOD, status="failed", reason="corrupt")),
    "a file is gone": ("misplaced", lambda it: (it.root / "done" / "good.mp4").unlink()),
    "a pipe is gone": ("misplaced", lambda it: (it.root / "quarantine" / "pipe.mp4").unlink()),
    "a file is there twice": ("misplaced", lambda it: (it.root / "failed" / "x.mp4").write_bytes(GOOD)),
    "a file is still in work": (
        "misplaced",
        lambda it: (it.root / "done" / "good.mp4").rename(it.root / "work" / "source"),
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_each_defect_is_found(ended: Ended, what: str) -> None:
    column, spoil = WRONG[what]
    spoil(ended)
    account = audit(ended.root, ended.ledger)
    assert not account.clean
    assert len(getattr(account, column)) == 1
    assert ended.status() == 1


def test_the_seed_says_what_is_sent(tmp_path: Path) -> None:
    def sent(seed: int, folder: Path) -> tuple[set[str], set[str], set[str], list[float]]:
        (folder / "inbox").mkdir(parents=True)
        ledger = Ledger()
        senders = Senders(folder, folder / "inbox", ledger, seed)
        # The slow ways take their time, which says nothing here.
        senders._ways = [senders.moved_in, senders.noise, senders.folder_moved_in, senders.fifo, senders.linked]
        pauses = [senders.send() for _ in range(20)]
        return ledger.good, ledger.bad, ledger.special, pauses

    first = sent(11, tmp_path / "a")
    assert first == sent(11, tmp_path / "b")
    assert first != sent(12, tmp_path / "c")
    assert all(first)
