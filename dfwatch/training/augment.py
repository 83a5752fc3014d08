"""Augmentation that imitates what happens to videos in the wild: rescaling, blur, noise, colour, re-encoding.

Drawing and applying are apart: a plan holds every random choice, so that a real face and the fake made from it can be
treated in exactly the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from dfwatch.training import codecs
from dfwatch.training.windows import BORDERS, Border, Window, cut_window, fit_window, surround

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

_INTERPOLATIONS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_NEAREST)


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentSpec:
    """How strong the augmentation is; every ``*_share`` is a probability, every pair a range to draw from.

    Attributes:
        zoom: Side of the crop window in units of the reference window; above 1 shows more of the surroundings where
            the stored picture has them.
        shift: Largest shift of the window, as a fraction of its side.
        rotate_deg: Largest turn to either side.
        shear: Largest shear to either side.
        downscale: Side after scaling down, as a fraction of the working size, before scaling up again.
        jpeg_quality: Range of JPEG qualities.
        webp_quality: Range of WebP qualities; lossy WebP is a VP8 key frame, so it leaves a video codec's traces.
        h264_crf: Range of rate factors of an H.264 key frame; dearer than the others, 3 ms a crop.
        pad_share: Share of crops whose window is drawn from ``pad`` instead of ``zoom`` and may reach over the edge of
            the picture. What lies there is made up from the picture. Tight crops show no surroundings, so without this
            a network learns to depend on the margin. Both labels are treated alike.
        pad: Side of such a window in units of the reference window.
    """

    zoom: tuple[float, float] = (0.8, 1.25)
    shift: float = 0.08
    flip_share: float = 0.5
    rotate_share: float = 0.2
    rotate_deg: float = 12.0
    shear: float = 0.0
    downscale_share: float = 0.35
    downscale: tuple[float, float] = (0.35, 0.9)
    blur_share: float = 0.15
    blur_sigma_px: tuple[float, float] = (0.3, 1.6)
    noise_share: float = 0.15
    noise_sigma: tuple[float, float] = (1.0, 8.0)
    colour_share: float = 0.5
    brightness: float = 0.25
    contrast: float = 0.25
    hue: float = 0.04
    saturation: float = 0.3
    grey_share: float = 0.1
    jpeg_share: float = 0.4
    jpeg_quality: tuple[int, int] = (30, 95)
    webp_share: float = 0.12
    webp_quality: tuple[int, int] = (15, 80)
    h264_share: float = 0.0
    h264_crf: tuple[int, int] = (20, 40)
    pad_share: float = 0.0
    pad: tuple[float, float] = (1.0, 1.7)


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentPlan:
    """Every random choice for one picture (and for its partner). Zero, one or None means: leave that step out."""

    zoom: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0
    flip: bool = False
    rotate_deg: float = 0.0
    shear: float = 0.0
    downscale: float = 1.0
    down_method: int = cv2.INTER_AREA
    up_method: int = cv2.INTER_LINEAR
    blur_sigma_px: float = 0.0
    noise_sigma: float = 0.0
    noise_seed: int = 0
    gain: float = 1.0
    bias: float = 0.0
    hue: float = 0.0
    saturation: float = 1.0
    grey: bool = False
    jpeg_quality: int = 0
    webp_quality: int = 0
    h264_crf: int = 0
    border: Border | None = None


def draw(spec: AugmentSpec, rng: Generator) -> AugmentPlan:
    """Draw a plan."""

    def chance(share: float) -> bool:
        return bool(rng.random() < share)

    def between(limits: tuple[float, float]) -> float:
        return float(rng.uniform(*limits))

    colour = chance(spec.colour_share)
    turned = chance(spec.rotate_share)
    plan = AugmentPlan(
        zoom=between(spec.zoom),
        shift_x=between((-spec.shift, spec.shift)),
        shift_y=between((-spec.shift, spec.shift)),
        flip=chance(spec.flip_share),
        rotate_deg=between((-spec.rotate_deg, spec.rotate_deg)) if turned else 0.0,
        shear=between((-spec.shear, spec.shear)) if turned else 0.0,
        downscale=between(spec.downscale) if chance(spec.downscale_share) else 1.0,
        down_method=int(rng.choice(_INTERPOLATIONS)),
        up_method=int(rng.choice(_INTERPOLATIONS[1:3])),
        blur_sigma_px=between(spec.blur_sigma_px) if chance(spec.blur_share) else 0.0,
        noise_sigma=between(spec.noise_sigma) if chance(spec.noise_share) else 0.0,
        noise_seed=int(rng.integers(2**31)),
        gain=1 + between((-spec.contrast, spec.contrast)) if colour else 1.0,
        bias=255 * between((-spec.brightness, spec.brightness)) / 2 if colour else 0.0,
        hue=between((-spec.hue, spec.hue)) if colour else 0.0,
        saturation=1 + between((-spec.saturation, spec.saturation)) if colour else 1.0,
        grey=chance(spec.grey_share),
        jpeg_quality=int(rng.integers(*spec.jpeg_quality)) if chance(spec.jpeg_share) else 0,
        webp_quality=int(rng.integers(*spec.webp_quality)) if chance(spec.webp_share) else 0,
        # Nothing is drawn where it is not wanted, so that recipes from before it was there draw as they did.
        h264_crf=int(rng.integers(*spec.h264_crf)) if spec.h264_share and chance(spec.h264_share) else 0,
    )
    if spec.pad_share and chance(spec.pad_share):
        plan = replace(plan, zoom=between(spec.pad), border=BORDERS[int(rng.integers(len(BORDERS)))])
    return plan


def apply(plan: AugmentPlan, image: NDArray[np.uint8], window: Window, size_px: int) -> NDArray[np.uint8]:
    """Cut a window around ``window`` out of a uint8 RGB picture, degrade it, and return (size_px, size_px, 3) uint8."""
    if plan.rotate_deg or plan.shear:
        image = _turn(image, window, plan)
    side = window.side * plan.zoom
    centre_x = window.left + window.side / 2 + plan.shift_x * side
    centre_y = window.top + window.side / 2 + plan.shift_y * side
    if plan.border is None:
        drawn = fit_window(centre_x, centre_y, side, (image.shape[0], image.shape[1]))
    else:
        image, drawn = surround(image, Window(centre_x - side / 2, centre_y - side / 2, side), plan.border)
    # Compression and noise happen to the video, before the model's resizing: work at the stored size, within reason.
    work_px = int(min(max(drawn.side, size_px), 1.5 * size_px))
    crop = cut_window(image, drawn, work_px)
    if plan.flip:
        crop = np.ascontiguousarray(crop[:, ::-1])
    crop = degrade(plan, recolour(plan, crop))
    if crop.shape[0] != size_px:
        crop = np.asarray(cv2.resize(crop, (size_px, size_px), interpolation=cv2.INTER_AREA), np.uint8)
    return crop


def recolour(plan: AugmentPlan, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Apply the plan's hue, saturation, gain and bias."""
    if plan.hue or plan.saturation != 1.0:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.int16)
        hsv[..., 0] = (hsv[..., 0] + round(plan.hue * 180)) % 180
        hsv[..., 1] = np.clip(hsv[..., 1] * plan.saturation, 0, 255)
        image = np.asarray(cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB), np.uint8)
    if plan.gain != 1.0 or plan.bias:
        # Around the picture's own middle grey, so that contrast alone does not darken it.
        levels = (np.arange(256, dtype=np.float32) - 128) * plan.gain + 128 + plan.bias
        image = np.asarray(cv2.LUT(image, np.clip(levels, 0, 255).astype(np.uint8)), np.uint8)
    if plan.grey:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        image = np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), np.uint8)
    return image


def degrade(plan: AugmentPlan, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Apply the plan's rescaling, blur, noise and re-encoding, in the order in which a video suffers them."""
    side = image.shape[0]
    if plan.downscale != 1.0:
        small = max(8, round(side * plan.downscale))
        down = cv2.resize(image, (small, small), interpolation=plan.down_method)
        image = np.asarray(cv2.resize(down, (side, side), interpolation=plan.up_method), np.uint8)
    if plan.blur_sigma_px:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), plan.blur_sigma_px), np.uint8)
    if plan.noise_sigma:
        noise = np.random.default_rng(plan.noise_seed).normal(0, plan.noise_sigma, (*image.shape[:2], 1))
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if plan.webp_quality:
        image = codecs.webp(image, plan.webp_quality)
    if plan.h264_crf:
        image = codecs.h264(image, plan.h264_crf)
    if plan.jpeg_quality:
        image = codecs.jpeg(image, plan.jpeg_quality)
    return image


def _turn(image: NDArray[np.uint8], window: Window, plan: AugmentPlan) -> NDArray[np.uint8]:
    centre = (window.left + window.side / 2, window.top + window.side / 2)
    matrix = cv2.getRotationMatrix2D(centre, plan.rotate_deg, 1.0)
    matrix[0, 1] += plan.shear
    matrix[0, 2] -= plan.shear * centre[1]
    size = (image.shape[1], image.shape[0])
    turned = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(turned, np.uint8)
