"""What changed between two settings, and which of it a running service can take (SIGHUP)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dfwatch.settings.reader import settings_fields

if TYPE_CHECKING:
    from dfwatch.config import Settings


@dataclass(frozen=True, slots=True)
class Change:
    """One setting whose value differs.

    Attributes:
        name: Dotted name, such as ``watch.quiet_s``.
        old: Value before.
        new: Value after.
        needs_restart: Whether a running service keeps the old value until it is started again.
    """

    name: str
    old: Any
    new: Any
    needs_restart: bool

    def __str__(self) -> str:
        return f"{self.name}: {self.old!r} → {self.new!r}" + (" (after a restart)" if self.needs_restart else "")


def diff(old: Settings, new: Settings) -> tuple[Change, ...]:
    """The settings that differ, in the order of the file."""
    changes = []
    for (section, item, before), (_, _, after) in zip(settings_fields(old), settings_fields(new), strict=True):
        if before != after:
            name = f"{section}.{item.name}" if section else item.name
            changes.append(Change(name, before, after, bool(item.metadata.get("restart"))))
    return tuple(changes)


def reloaded(old: Settings, new: Settings) -> Settings:
    """``new`` as a running service can take it: what needs a restart keeps its value of ``old``."""
    result = new
    for change in diff(old, new):
        if not change.needs_restart:
            continue
        section, _, name = change.name.rpartition(".")
        if section:
            result = replace(result, **{section: replace(getattr(result, section), **{name: change.old})})
        else:
            result = replace(result, **{name: change.old})
    return result
