"""Small made-up data for the training tests."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import torch

from dfwatch.training.augment import AugmentSpec
from dfwatch.training.records import Record

# Where YuNet sees eyes, nose and mouth corners in a tight face crop, as fractions of it.
FACE_LANDMARKS = (0.33, 0.42, 0.67, 0.42, 0.5, 0.6, 0.37, 0.78, 0.63, 0.78)
# Nothing is changed.
PLAIN = AugmentSpec(
    zoom=(1, 1),
    shift=0,
    flip_share=0,
    rotate_share=0,
    downscale_share=0,
    blur_share=0,
    noise_share=0,
    colour_share=0,
    grey_share=0,
    jpeg_share=0,
    webp_share=0,
)


def face_like(rng: np.random.Generator, side_px: int = 64) -> np.ndarray:
    """A smooth coloured picture: no face, but with the texture and gradients that blending needs."""
    coarse = rng.integers(40, 215, (6, 6, 3)).astype(np.uint8)
    return cv2.resize(coarse, (side_px, side_px), interpolation=cv2.INTER_CUBIC)


def jpeg(picture: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def record(name: str, label: str, group: str, **more: object) -> Record:
    fields = {"shard": "", "offset": 0, "length": 0, "source": "made", "video": name, "landmarks": FACE_LANDMARKS}
    return Record(name=f"{name}.jpg", label=label, group=group, **{**fields, **more})


@dataclass
class RedTeacher:
    """Calls red pictures fake; its features are the mean colours, and something that never varies."""

    weights_sha256: str = "red"
    conventions: str = "rgb"
    size_px: int = 32
    asked: int = 0
    colours: torch.Tensor = field(default_factory=lambda: torch.empty(0, 3))

    @property
    def features(self) -> torch.Tensor:
        return torch.cat([self.colours, torch.ones(len(self.colours), 1)], 1)

    def __call__(self, crops: torch.Tensor) -> torch.Tensor:
        self.asked += len(crops)
        self.colours = crops.float().mean((1, 2)) / 255
        red = 8 * (self.colours[:, 0] - self.colours[:, 2])
        return torch.stack([-red, red], 1)
