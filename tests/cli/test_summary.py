from __future__ import annotations

from dfwatch.console.summary import describe
from tests.test_document import fake


def test_who_decided_is_said_of_each_face() -> None:
    document = fake()
    one, other = document["tracks"]
    document["tracks"] = [one, {**other, "stable": False}]
    assert f"{one['p_fake']:.2f}  decides" in describe(document)
    assert describe(document).count("too short to decide") == 1

    together = describe({**document, "decided_by_track": None})
    assert together.count("decides with all others") == 2
    assert "too short" not in together


def test_the_figures_never_contradict_the_verdict() -> None:
    document = fake()
    document["thresholds"] |= {"real": 0.2097, "fake": 0.9476}
    shown = describe({**document, "p_fake": 0.9478})
    assert "FAKE  p(fake) 0.9478" in shown
    assert "REAL up to 0.2097, FAKE from 0.9476" in shown
    assert "p(fake) 0.94758" in describe({**document, "verdict": "INCONCLUSIVE", "p_fake": 0.94758})
