"""Times and names for people and for sorting; never for measuring, which is the monotonic clock's."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

_ID_TIME = "%Y%m%dT%H%M%S.%fZ"


def utc_now() -> str:
    """The wall clock as ISO 8601 in UTC with milliseconds."""
    return stamp(datetime.now(UTC))


def stamp(moment: datetime) -> str:
    """A moment in UTC as ``utc_now`` writes it, so that texts compare like times."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_job_id() -> str:
    """A name that sorts by time and does not repeat: UTC to the microsecond and 32 random bits."""
    return f"{datetime.now(UTC):{_ID_TIME}}-{secrets.token_hex(4)}"


def named_at(job_id: str) -> str:
    """When a name was made, as ``utc_now`` writes it, so that names and times sort alike; now for names of others."""
    try:
        return stamp(datetime.strptime(job_id.partition("-")[0], _ID_TIME).replace(tzinfo=UTC))
    except ValueError:
        return utc_now()
