"""Keep a library from reporting its use to its makers."""

from __future__ import annotations

import sys


def silence_openvino() -> None:
    """To be called before openvino is imported, which would report that, and write an identity into the home folder.

    OpenVINO gets on without the package that does so.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
