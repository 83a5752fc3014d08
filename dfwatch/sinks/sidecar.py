"""The sidecar file: written whole, durable, under a name of its own, and found again after a crash."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dfwatch.document import encode
from dfwatch.errors import StorageError
from dfwatch.storage.durable import write_new
from dfwatch.storage.placement import make_folder, sidecar_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dfwatch.storage.layout import DroppedName

# A document of a thousand frames with ten faces each stays well below this.
_LARGEST_SIDECAR_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Place:
    """Where one job's sidecar may lie.

    Attributes:
        base: Top folder.
        dropped: Name and subfolder of the file it speaks of.
        sha256: Digest of that file, for a name that is taken; None where it was never read.
        job_id: The job, which makes the last name unique.
    """

    base: str
    dropped: DroppedName
    sha256: str | None
    job_id: str

    def paths(self) -> list[str]:
        """Paths in the order in which they are tried; makes the folder."""
        folder = make_folder(self.base, self.dropped, self.job_id)
        return [os.path.join(folder, name) for name in sidecar_names(self.dropped.name, self.sha256, self.job_id)]


def publish(place: Place, document: Mapping[str, Any]) -> str:
    """Write the sidecar, or find the one that this job already has; returns its path.

    Raises:
        StorageError: The disk did not take it; nothing half-written is visible.
    """
    data = encode(document)
    try:
        paths = place.paths()
        temporary = os.path.join(os.path.dirname(paths[0]), f".{place.job_id}.tmp")
        for path in paths:
            try:
                write_new(path, data, temporary=temporary)
            except FileExistsError:
                if job_of(path) == place.job_id:
                    return path
                continue
            return path
    except OSError as exc:
        raise StorageError(
            "writing the sidecar of", place.dropped.shown, exc.strerror or exc, hint="check the disk and results/"
        ) from exc
    raise StorageError("writing the sidecar of", place.dropped.shown, "every name for it is taken", retryable=False)


def find(place: Place) -> tuple[str, dict[str, Any]] | None:
    """The sidecar that this job already has, with its content, or None."""
    for path in place.paths():
        document = _load(path)
        if document is not None and document.get("job_id") == place.job_id:
            return path, document
    return None


def job_of(path: str) -> str | None:
    """The job that an existing sidecar belongs to; None for whatever is not a sidecar."""
    document = _load(path)
    return None if document is None else document.get("job_id")


def _load(path: str) -> dict[str, Any] | None:
    try:
        with open(path, "rb") as stream:
            document = json.loads(stream.read(_LARGEST_SIDECAR_BYTES))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None
