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
