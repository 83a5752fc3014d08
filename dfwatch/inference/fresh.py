"""A bundle's network, ready to be run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dfwatch.models.checkpoints import load_network
from dfwatch.models.fusion import fold_batch_norm

if TYPE_CHECKING:
    from torch import nn

    from dfwatch.models.facts import Bundle


def fresh_network(bundle: Bundle) -> tuple[nn.Module, int]:
    """The network in float32 on the CPU with its batch norms folded, and how many were.

    Raises:
        BundleError: Its architecture is unknown.
        CheckpointError: Its weights are unusable.
    """
    return fold_batch_norm(load_network(bundle))
