"""YuNet's box and five landmarks in one picture; self-blended images need the landmarks, crop windows the box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from dfwatch.errors import TrainingError
from dfwatch.faces import NMS_THRESHOLD, load_model

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GREY = (127, 127, 127)


@dataclass(frozen=True, slots=True)
class FoundFace:
    """A face in pixels of the picture.

    Attributes:
        box: x, y, width, height; may reach over the edge.
        landmarks: float32 array of shape (5, 2): right eye, left eye, nose tip, right and left mouth corner.
        score: YuNet's confidence, 0 to 1.
    """

    box: tuple[float, float, float, float]
    landmarks: NDArray[np.float32]
    score: float


class LandmarkFinder:
    """Find the largest face of a picture.

    Args:
        detect_side_px: The picture is scaled so that its longer side has this length.
        pad: Grey border added on each side, as a fraction of the longer side. Crops that are already tight need it:
            YuNet wants some room around a face, and without it its box cannot show where the forehead would be.
        min_score: Faces that YuNet is less sure of are not returned.
    """

    def __init__(self, detect_side_px: int = 224, pad: float = 0.0, min_score: float = 0.6) -> None:
        self._detector = cv2.FaceDetectorYN.create(
            "onnx",
            np.frombuffer(load_model(), np.uint8),
            np.empty(0, np.uint8),
            (320, 320),
            min_score,
            NMS_THRESHOLD,
            50,
        )
        self._side_px = detect_side_px
        self._pad = pad

    def largest(self, image_rgb: NDArray[np.uint8]) -> FoundFace | None:
        """Return the largest face of a uint8 RGB picture, or None."""
        if image_rgb.ndim != 3 or image_rgb.shape[2] != 3:
            raise TrainingError("searching a face", "a picture", f"shape {image_rgb.shape} is not (height, width, 3)")
        border = round(self._pad * max(image_rgb.shape[:2]))
        image = image_rgb
        if border:
            image = np.asarray(
                cv2.copyMakeBorder(image, border, border, border, border, cv2.BORDER_CONSTANT, value=_GREY), np.uint8
            )
        scale = self._side_px / max(image.shape[:2])
        width, height = (max(8, round(image.shape[axis] * scale)) for axis in (1, 0))
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        small = cv2.resize(image, (width, height), interpolation=method)
        self._detector.setInputSize((width, height))
        # The stubs know nothing of None, which stands for "no face".
        faces: Any = self._detector.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))[1]
        if faces is None:
            return None
        face = max(faces, key=lambda row: float(row[2] * row[3])).astype(np.float32)
        places = face[:14] / np.float32(scale)
        x, y, box_width, box_height = (float(value) for value in places[:4])
        landmarks = places[4:14].reshape(5, 2) - np.float32(border)
        return FoundFace((x - border, y - border, box_width, box_height), landmarks, float(face[14]))
