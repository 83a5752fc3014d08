"""Self-blended images: a fake made from a single real face, after Shiohara and Yamasaki (CVPR 2022).

Two copies of a face are made slightly different, and one is blended into the other inside a soft mask. What a network
can learn from such pairs is the blending itself: a border, and statistics that differ across it. That holds only if the
pair is identical outside the mask, which ``blend`` guarantees byte for byte.

The paper takes 81 landmarks; here the face's outline is a template that is fitted to YuNet's five.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from dfwatch.training.augment import AugmentPlan, recolour

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

# Five landmarks of the usual aligned face of 112 x 112 pixels, and an outline drawn on that face by hand.
_TEMPLATE = np.array([[38.3, 51.7], [73.5, 51.5], [56.0, 71.7], [41.5, 92.4], [70.7, 92.2]], np.float64)
_JAW = [
    (19, 52), (20, 67), (23, 81), (29, 94), (37, 104), (47, 111), (56, 113),
    (65, 111), (75, 104), (83, 94), (89, 81), (92, 67), (93, 52),
]  # fmt: skip
_BROWS = [(88, 39), (78, 34), (64, 37), (56, 40), (48, 37), (34, 34), (24, 39)]
_FOREHEAD = [(90, 36), (84, 20), (71, 9), (56, 6), (41, 9), (28, 20), (22, 36)]
_LOWER = [
    (24, 80),
    (29, 94),
    (37, 104),
    (47, 111),
    (56, 113),
    (65, 111),
    (75, 104),
    (83, 94),
    (88, 80),
    (66, 66),
    (46, 66),
]
_EYES = [(22, 54), (24, 38), (34, 33), (56, 39), (78, 33), (88, 38), (90, 54), (74, 63), (62, 74), (50, 74), (38, 63)]
_MOUTH = [(34, 92), (44, 83), (56, 81), (68, 83), (78, 92), (68, 102), (56, 105), (44, 102)]
_OUTLINES = tuple(np.array(points, np.float64) for points in (_JAW + _BROWS, _JAW + _FOREHEAD, _LOWER, _EYES, _MOUTH))
_OUTLINE_SHARES = (0.40, 0.30, 0.12, 0.09, 0.09)
_STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)


def blend(
    image: NDArray[np.uint8],
    landmarks: NDArray[np.float32],
    rng: Generator,
    donor: NDArray[np.uint8] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
    """Make a pair from one real face.

    Args:
        image: uint8 RGB picture of a real face.
        landmarks: float array (5, 2) in pixels: eyes, nose tip, mouth corners.
        rng: Source of every random choice.
        donor: Another picture of the same shape, with its face laid over this one's (see ``align_donor``), whose face
            is blended in instead of a copy of this one.

    Returns:
        The real partner, the fake, and the mask (height, width) as float32 from 0 to 1. Where the mask is 0 the two
        pictures are equal byte for byte.
    """
    changed, target = image if donor is None else donor, image
    if donor is None and rng.random() < 0.5:
        target = _change(image, rng)
    else:
        changed = _change(changed, rng)
    mask = _mask(landmarks, (image.shape[0], image.shape[1]), rng)
    changed, mask = _move(changed, mask, rng)
    mask = _soften(mask, rng)
    if donor is not None:
        changed = _match_colour(changed, target, mask)
    strength = float(rng.choice(_STRENGTHS)) if donor is None else 1.0
    mask = mask * np.float32(strength)
    weight = mask[..., None]
    mixed = changed.astype(np.float32) * weight + target.astype(np.float32) * (1 - weight)
    return target, np.clip(np.rint(mixed), 0, 255).astype(np.uint8), mask


def align_donor(
    donor: NDArray[np.uint8],
    donor_landmarks: NDArray[np.float32],
    landmarks: NDArray[np.float32],
    shape: tuple[int, int],
) -> NDArray[np.uint8]:
    """Warp another face so that its landmarks fall on these; the result is a picture of ``shape`` (height, width)."""
    matrix = fit_affine(donor_landmarks.astype(np.float64), landmarks.astype(np.float64))
    warped = cv2.warpAffine(
        donor, matrix, (shape[1], shape[0]), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.asarray(warped, np.uint8)


def fit_affine(start: NDArray[np.floating], goal: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the matrix (2, 3) that brings points (n, 2) nearest to others, by least squares."""
    system = np.hstack([start, np.ones((len(start), 1))])
    solution, *_ = np.linalg.lstsq(system, goal, rcond=None)
    return np.ascontiguousarray(solution.T)


def _change(image: NDArray[np.uint8], rng: Generator) -> NDArray[np.uint8]:
    """Change colours slightly, then either lose detail by scaling down and up, or sharpen."""
    shifted = image.astype(np.int16) + rng.integers(-20, 21, 3).astype(np.int16)
    image = np.clip(shifted, 0, 255).astype(np.uint8)
    plan = AugmentPlan(
        gain=float(rng.uniform(0.9, 1.1)),
        bias=float(rng.uniform(-25, 25)),
        hue=float(rng.uniform(-0.02, 0.02)),
        saturation=float(rng.uniform(0.7, 1.3)),
    )
    image = recolour(plan, image)
    height, width = image.shape[:2]
    if rng.random() < 0.6:
        factor = float(rng.uniform(0.25, 0.9))
        size = (max(8, round(width * factor)), max(8, round(height * factor)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        method = (cv2.INTER_LINEAR, cv2.INTER_CUBIC)[int(rng.integers(2))]
        return np.asarray(cv2.resize(small, (width, height), interpolation=method), np.uint8)
    soft = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.6, 1.5)))
    amount = float(rng.uniform(0.2, 0.7))
    return np.asarray(cv2.addWeighted(image, 1 + amount, soft, -amount, 0), np.uint8)


def draw_outline(landmarks: NDArray[np.float32], rng: Generator) -> NDArray[np.float64]:
    """Draw an outline of a face, or of a part of it, for landmarks (5, 2): points (n, 2) in pixels, not yet convex."""
    outline = _OUTLINES[int(rng.choice(len(_OUTLINES), p=_OUTLINE_SHARES))]
    jittered = outline + rng.normal(0, 1.8, outline.shape)
    matrix = fit_affine(_TEMPLATE, landmarks.astype(np.float64))
    return np.asarray(jittered @ matrix[:, :2].T + matrix[:, 2], np.float64)


def _mask(landmarks: NDArray[np.float32], shape: tuple[int, int], rng: Generator) -> NDArray[np.float32]:
    points = draw_outline(landmarks, rng)
    hull = cv2.convexHull(np.rint(points).astype(np.int32))
    mask = np.zeros(shape, np.float32)
    cv2.fillConvexPoly(mask, hull, 1.0)
    return _elastic(mask, rng)


def _elastic(mask: NDArray[np.float32], rng: Generator) -> NDArray[np.float32]:
    height, width = mask.shape
    strength = float(rng.uniform(0.005, 0.03)) * max(height, width)
    coarse = rng.normal(0, 1, (2, 6, 6)).astype(np.float32)
    shift = [cv2.resize(layer, (width, height), interpolation=cv2.INTER_CUBIC) * strength for layer in coarse]
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    warped = cv2.remap(mask, columns + shift[0], rows + shift[1], cv2.INTER_LINEAR)
    return np.asarray(warped, np.float32)


def _move(
    image: NDArray[np.uint8], mask: NDArray[np.float32], rng: Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Move and scale the changed copy, together with its mask, by a little."""
    height, width = mask.shape
    scale = float(rng.uniform(0.95, 1.05))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), float(rng.uniform(-2, 2)), scale)
    matrix[0, 2] += float(rng.uniform(-0.025, 0.025)) * width
    matrix[1, 2] += float(rng.uniform(-0.025, 0.025)) * height
    moved = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(moved, np.uint8), np.asarray(cv2.warpAffine(mask, matrix, (width, height)), np.float32)


def _soften(mask: NDArray[np.float32], rng: Generator) -> NDArray[np.float32]:
    """Blur twice by random kernels; the first blur is cut at its middle, so that the border wanders in or out."""
    side = max(mask.shape)
    first = cv2.GaussianBlur(mask, (0, 0), max(0.5, side * float(rng.uniform(0.005, 0.05))))
    peak = float(first.max())
    if peak < 1e-3:
        return np.zeros_like(mask)
    hard = np.clip(first / peak - float(rng.uniform(0, 0.4)), 0, None)
    hard /= max(float(hard.max()), 1e-6)
    second = cv2.GaussianBlur(hard, (0, 0), max(0.5, side * float(rng.uniform(0.004, 0.03))))
    # Weights too small to change a byte are cut to zero: the mask says truthfully where the pictures may differ.
    return np.where(second < 1 / 512, 0, np.clip(second, 0, 1)).astype(np.float32)


def _match_colour(
    changed: NDArray[np.uint8], target: NDArray[np.uint8], mask: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Give the donor the mean and spread of the target's colours inside the mask (Reinhard et al., 2001, in RGB)."""
    inside = mask > 0.5
    if int(inside.sum()) < 64:
        return changed
    mine, theirs = changed[inside].astype(np.float32), target[inside].astype(np.float32)
    gain = np.clip((theirs.std(0) + 1) / (mine.std(0) + 1), 0.5, 2.0)
    matched = (changed.astype(np.float32) - mine.mean(0)) * gain + theirs.mean(0)
    return np.asarray(np.clip(matched, 0, 255), np.uint8)
