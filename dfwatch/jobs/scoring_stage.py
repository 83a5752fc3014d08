"""The middle stage: crops of several videos share the detector's batches."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from dfwatch.errors import DeviceError, ModelError
from dfwatch.judge import refusal_of
from dfwatch.reasons import Status
from dfwatch.storage.crashpoints import crash_point

if TYPE_CHECKING:
    from dfwatch.jobs.ticket import Ticket
    from dfwatch.judge import Scorer


def score(scorer: Scorer, tickets: list[Ticket]) -> None:
    """Score the crops of several videos together; a video whose crops break the model is refused, alone.

    Raises:
        DeviceError: The device failed; no video is to blame.
    """
    crops = [ticket.reading.crops for ticket in tickets if ticket.reading is not None]
    started_s = time.monotonic()
    try:
        scores = scorer.score(crops[0] if len(crops) == 1 else np.concatenate(crops))
    except DeviceError:
        raise
    except ModelError as error:
        if len(tickets) > 1:
            for ticket in tickets:
                score(scorer, [ticket])
        else:
            tickets[0].refuse(Status.FAILED, refusal_of(error))
        return
    spent_ms = (time.monotonic() - started_s) * 1000.0
    first = 0
    for ticket, rows in zip(tickets, map(len, crops), strict=True):
        ticket.scores = scores[first : first + rows]
        # Its share of the batch: the stages of one video still add up to what that video cost.
        ticket.timer.stages_ms["inference"] = spent_ms * rows / max(1, len(scores))
        first += rows
    crash_point("job.scored")
