"""Pure: crops of high dynamic range or wide gamut brought to BT.709, which face models were trained on.

PQ (SMPTE ST 2084) is made linear, with diffuse white at 203 cd/m2 (ITU-R BT.2408), and highlights are rolled off above
half of that. HLG was made to be shown as it is on a standard-range BT.2020 display (ITU-R BT.2390), so its signal is
taken for one of gamma 2.4. Both then change primaries from BT.2020 to BT.709 (ITU-R BT.2087) in linear light.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Transfer characteristics and primaries as ISO/IEC 23091-2 (and FFmpeg) number them.
PQ, HLG, BT2020 = 16, 18, 9
GAMMA = 2.4
DIFFUSE_WHITE = 203.0
KNEE = 0.5
_BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


def to_bt709(rgb: NDArray[np.uint16], transfer: int) -> NDArray[np.uint8]:
    """Full-range 16-bit RGB of BT.2020 primaries, any shape (..., 3), as 8-bit BT.709 of gamma 2.4."""
    linear = _linear_of(transfer == PQ)[rgb] @ _BT2020_TO_BT709.T
    linear = np.maximum(linear, 0.0)
    peak = linear.max(axis=-1, keepdims=True)
    rolled = np.where(peak > KNEE, KNEE + (1 - KNEE) * -np.expm1(-(peak - KNEE) / (1 - KNEE)), peak)
    if transfer == PQ:
        # The same factor for all three keeps the hue.
        linear = linear * (rolled / np.maximum(peak, 1e-6))
    encoded = np.minimum(linear, 1.0) ** (1 / GAMMA)
    return np.asarray(np.rint(encoded * 255.0), np.uint8)


@functools.lru_cache(maxsize=2)
def _linear_of(is_pq: bool) -> NDArray[np.float32]:  # noqa: FBT001 - private, and a cache key
    """Linear light of each 16-bit signal value; 1 is diffuse white."""
    signal = np.linspace(0.0, 1.0, 1 << 16)
    if not is_pq:
        return (signal**GAMMA).astype(np.float32)
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = signal ** (1 / m2)
    light = 10000.0 * (np.maximum(power - c1, 0.0) / (c2 - c3 * power)) ** (1 / m1)
    return (light / DIFFUSE_WHITE).astype(np.float32)
