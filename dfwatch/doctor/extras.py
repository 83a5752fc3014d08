"""What only some configurations want, and an extra brings: an engine, content credentials, metrics."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

from dfwatch.doctor.finding import Finding, ok, warn
from dfwatch.printable import printable

if TYPE_CHECKING:
    from dfwatch.config import MetricsSettings, ModelSettings, ProvenanceSettings


def engine(settings: ModelSettings) -> Finding:
    """Whether what is to run the model is installed, and runs on the device."""
    from dfwatch.inference.candidates import candidates, without_openvino  # noqa: PLC0415 - imports torch
    from dfwatch.inference.devices import choose_device_for  # noqa: PLC0415

    device = choose_device_for(settings).device
    ways = candidates(device, settings)
    engines = " or ".join(dict.fromkeys(way.engine for way in ways))
    note = without_openvino(device, settings)
    return ok("engine", f"{engines} on {device}{f'; {note}' if note else ''}")


def provenance(settings: ProvenanceSettings) -> Finding:
    """Whether content credentials can be read, and the certificates that are trusted."""
    name = "provenance"
    if not settings.enabled:
        return ok(name, "switched off (provenance.enabled)")
    from dfwatch.provenance.credentials import Credentials  # noqa: PLC0415 - an extra

    Credentials(settings)
    trusted = f"signers are held against {printable(settings.trust_anchors)}" if settings.trust_anchors else ""
    return ok(name, f"content credentials can be read; {trusted or 'no signer is trusted'}")


def metrics(settings: MetricsSettings) -> Finding:
    """Whether the metrics can be made, and written where they are wanted."""
    name = "metrics"
    if not settings.listen and not settings.textfile:
        return ok(name, "switched off (metrics.listen, metrics.textfile)")
    from dfwatch.operation import metrics as _installed  # noqa: F401, PLC0415 - says what is missing

    trouble = _cannot_write(settings.textfile) if settings.textfile else ""
    if trouble:
        found = f"{printable(settings.textfile)} cannot be written as uid {os.geteuid()}: {trouble}"
        return warn(name, found, "let its folder be there and writable for the service's user; see metrics.textfile")
    return ok(name, ", ".join(filter(None, (settings.listen, printable(settings.textfile)))))


def _cannot_write(path: str) -> str:
    """Why a file cannot be put at a path; it is written under another name beside it and renamed."""
    if os.path.isdir(path):
        return "it is a folder"
    try:
        with tempfile.NamedTemporaryFile(prefix=".dfwatch-doctor-", dir=os.path.dirname(path)):
            return ""
    except OSError as error:
        return error.strerror or str(error)
