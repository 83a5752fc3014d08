"""How long a sink that fails is left alone, and when a message that fails is given up.

Within a run the monotonic clock counts; the wall clock only tells what an earlier run has left.
"""

from __future__ import annotations

import random
import re
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from dfwatch.errors import DfwatchError, SinkError
from dfwatch.redaction import redact_text
from dfwatch.storage.stamps import stamp

if TYPE_CHECKING:
    from dfwatch.config import SinkSettings
    from dfwatch.jobs.outbox import Entry, SinkState

_LONGEST_RETRY_AFTER_S: Final = 24 * 3600.0
_LONGEST_ERROR: Final = 500
# How a stored error ends where the destination asked for the pause. People learn from it why it is long, and the next
# run that the clock did not make it so.
_ASKED: Final = "; it asks to be left alone for {:.0f} s"
_ASKED_S: Final = re.compile(r"; it asks to be left alone for ([0-9]{1,6}) s\Z")


class Pauses:
    """The pauses of one sink; for one thread.

    Args:
        settings: The sink's; they say how pauses grow, and for how long a message is tried.
        before: Those of the same sink under its earlier settings.
    """

    def __init__(self, settings: SinkSettings, before: Pauses | None = None) -> None:
        self._settings = settings
        # The pause that the outbox tells of as ``retry_at``, and its end by the monotonic clock.
        self._retry_at = ""
        self._ends_s = 0.0
        # Since when messages fail, by the monotonic clock; from their numbers in the outbox.
        self._failing_since_s: dict[int, float] = {} if before is None else before._failing_since_s

    def begin(self, error: DfwatchError, failures: int) -> tuple[str, str]:
        """Begin the pause after a failure; returns its end and the error, as the outbox keeps them.

        Args:
            error: What went wrong; a destination may ask for a longer pause.
            failures: How many in a row there were before.
        """
        pause_s, text = self._own_pause_s(failures), stored_text(error)
        asked_s = error.retry_after_s if isinstance(error, SinkError) else None
        asked_s = min(asked_s or 0.0, _LONGEST_RETRY_AFTER_S)
        if asked_s > pause_s:
            pause_s = asked_s
            text += _ASKED.format(asked_s)
        self._ends_s = time.monotonic() + pause_s
        self._retry_at = stamp(datetime.now(UTC) + timedelta(seconds=pause_s))
        return self._retry_at, text

    def left_s(self, state: SinkState) -> float:
        """How much is left of the pause that the outbox tells of; 0 or less: none."""
        if state.retry_at is None:
            return 0.0
        if state.retry_at != self._retry_at:
            # Of an earlier run's pause only the wall clock tells; what no pause explains, a step of the clock does.
            left_s = -seconds_since(state.retry_at)
            asked = _ASKED_S.search(state.error or "")
            asked_s = min(float(asked[1]) + 1.0, _LONGEST_RETRY_AFTER_S) if asked else 0.0
            longest_s = max(self._settings.retry_longest_s, asked_s)
            self._retry_at = state.retry_at
            self._ends_s = time.monotonic() + (left_s if left_s <= longest_s else 0.0)
        return self._ends_s - time.monotonic()

    @property
    def own_left_s(self) -> float:
        """How much is left of the pause that was begun last, whatever the outbox says."""
        return self._ends_s - time.monotonic()

    def given_up(self, entry: Entry) -> bool:
        """Whether a message that fails now has failed for long enough."""
        now_s = time.monotonic()
        if entry.first_failed_at is None:
            self._failing_since_s[entry.seq] = now_s
        elif entry.seq not in self._failing_since_s:
            self._failing_since_s[entry.seq] = now_s - max(0.0, seconds_since(entry.first_failed_at))
        return 0 < self._settings.retry_for_s <= now_s - self._failing_since_s[entry.seq]

    def done(self, entry: Entry) -> None:
        """A message came to its end."""
        self._failing_since_s.pop(entry.seq, None)

    def _own_pause_s(self, failures: int) -> float:
        longest_s = self._settings.retry_longest_s
        pause_s = min(longest_s, self._settings.retry_delay_s * 2.0 ** min(failures, 60))
        # Half fixed, half random: many services that lost one server do not come back to it at the same moment.
        return pause_s * (0.5 + random.random() / 2)  # noqa: S311 - no secret


def stored_text(error: DfwatchError) -> str:
    """An error as the outbox keeps it."""
    return redact_text(str(error))[:_LONGEST_ERROR]


def seconds_since(when: str) -> float:
    """How long ago that was by the wall clock; below 0 where it is yet to come."""
    return (datetime.now(UTC) - datetime.fromisoformat(when)).total_seconds()
