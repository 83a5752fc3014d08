from __future__ import annotations

from tests.service.conftest import daemon, daemons

__all__ = ["daemon", "daemons"]
