"""What every way of running a network has in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from dfwatch.models.facts import InputSpec


class Engine(Protocol):
    """One network on one device, in one precision and one batch size: crops in, raw p(fake) out."""

    input_spec: InputSpec
    device: torch.device
    batch_size: int

    @property
    def runs(self) -> str:
        """What runs the network, with versions, for people."""

    @property
    def at_once(self) -> int:
        """Crops that are computed at the same time: a call with a multiple of it wastes nothing."""

    def scores(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Raw p(fake), shape (n,), of RGB crops (n, size_px, size_px, 3); what the library raises passes through."""

    def heat_maps(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 (n, side, side), 0 to 1: see ``inference.heat``; what the library raises passes through."""
