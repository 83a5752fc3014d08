"""How torch's CPU threads wait for each other; to be settled before torch is imported."""

from __future__ import annotations

import os
import sys

# Whoever sets one of these knows the machine better.
_OTHERS_CHOICE = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def let_threads_sleep() -> bool:
    """Make OpenMP threads sleep at a barrier instead of spinning; False when torch is loaded already.

    By default a thread that is done spins until the others are. While decoders want the same cores, it spins through
    the very time slice that the late thread waits for: on two busy cores a batch took 5 to 15 times as long.

    OpenMP reads its environment once, when its library is loaded, so this must come before ``import torch``.
    """
    if "torch" in sys.modules:
        return False
    if not any(name in os.environ for name in _OTHERS_CHOICE):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    return True
