"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Health(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the examination.

    Attributes:
        name: What was looked at: ``disk``, ``inotify`` …
        health: ``fail`` where the service cannot work, ``warn`` where it works less well than it could.
        found: What was found, in one sentence.
        advice: What to do about it; empty when there is nothing to do.
    """

    name: str
    health: Health
    found: str
    advice: str = ""


def ok(name: str, found: str) -> Finding:
    """All is well."""
    return Finding(name, Health.OK, found)


def warn(name: str, found: str, advice: str) -> Finding:
    """Could be better."""
    return Finding(name, Health.WARN, found, advice)


def fail(name: str, found: str, advice: str) -> Finding:
    """Does not work."""
    return Finding(name, Health.FAIL, found, advice)
