"""What a model bundle says: the facts beside a weights file, without which its output means nothing.

Data types only: neither torch nor a file format (``bundle_file``) nor weights (``checkpoints``).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dfwatch.errors import BundleError
from dfwatch.reading import CROP_MARGINS, CROP_SHIFTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from dfwatch.reading import CropSpec

BUNDLE_FILE = "bundle.yaml"
WEIGHTS_FILE = "weights.safetensors"
CARD_FILE = "README.md"

Label = Literal["FAKE", "REAL"]
ChannelOrder = Literal["rgb", "bgr"]
OutputKind = Literal["softmax", "sigmoid"]
CalibrationMethod = Literal["none", "temperature", "platt"]

# Raw probabilities are kept this far from 0 and 1 before the logit is taken; float32 softmax saturates near it.
PROBABILITY_EPSILON = 1e-7

CALIBRATION_PARAMETERS: dict[CalibrationMethod, tuple[str, ...]] = {
    "none": (),
    "temperature": ("temperature",),
    "platt": ("slope", "intercept"),
}


def _require(ok: bool, key: str, cause: str, hint: str = "") -> None:  # noqa: FBT001 - reads like an assertion
    if not ok:
        raise BundleError("checking the bundle's key", key, cause, hint=hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """How a crop becomes the model's input.

    Attributes:
        size_px: Side of the square input, in pixels.
        channel_order: Order of the colour channels as the model gets them.
        mean: Subtracted from pixel values scaled to 0..1, one for each channel *in channel_order*.
        std: Divided by afterwards, in the same order.
    """

    size_px: int
    channel_order: ChannelOrder
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        _require(16 <= self.size_px <= 2048, "input.size_px", f"{self.size_px} is not between 16 and 2048")
        _require(
            self.channel_order in ("rgb", "bgr"),
            "input.channel_order",
            f"{self.channel_order!r} is neither rgb nor bgr",
        )
        for key, values in (("input.mean", self.mean), ("input.std", self.std)):
            _require(
                len(list(values)) == 3 and all(map(math.isfinite, values)),
                key,
                f"{values} is not three finite numbers",
            )
        _require(min(self.std) > 0, "input.std", f"{self.std} holds a number that is not above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSpec:
    """What the model's output numbers mean.

    Attributes:
        kind: ``softmax``: two logits, one for each label of ``label_order``; ``sigmoid``: a single logit whose sigmoid
            is the probability of the *second* label (class index 1).
        label_order: Label of class index 0 and of class index 1.
    """

    kind: OutputKind
    label_order: tuple[Label, Label]

    def __post_init__(self) -> None:
        _require(self.kind in {"softmax", "sigmoid"}, "output.kind", f"{self.kind!r} is neither softmax nor sigmoid")
        _require(
            sorted(self.label_order) == ["FAKE", "REAL"],
            "output.label_order",
            f"{list(self.label_order)} is neither [FAKE, REAL] nor [REAL, FAKE]",
        )

    @property
    def num_outputs(self) -> int:
        """Numbers in one row of the model's output: 2 for softmax, 1 for sigmoid."""
        return 2 if self.kind == "softmax" else 1

    @property
    def fake_index(self) -> int:
        """Class index of FAKE: 0 or 1."""
        return self.label_order.index("FAKE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Turns a raw p(fake) into a probability that means what it says; strictly rising, so it never reorders crops.

    ``temperature`` is sigmoid(logit(p) / temperature) (Guo et al., ICML 2017); ``platt`` is
    sigmoid(slope * logit(p) + intercept) with slope > 0 (Platt, 1999); ``none`` leaves p as it is.

    Attributes:
        fitted_on: What it was fitted on, in words; for ``none``, why there is none.
    """

    method: CalibrationMethod = "none"
    parameters: Mapping[str, float] = field(default_factory=dict)
    fitted_on: str = ""

    def __post_init__(self) -> None:
        key = "calibration.parameters"
        expected = CALIBRATION_PARAMETERS.get(self.method)
        _require(
            expected is not None,
            "calibration.method",
            f"{self.method!r} is not one of {', '.join(CALIBRATION_PARAMETERS)}",
        )
        if set(self.parameters) != set(expected or ()):
            wanted = ", ".join(expected or ()) or "no parameters"
            _require(False, key, f"{self.method} takes {wanted}, not {', '.join(self.parameters) or 'none'}")  # noqa: FBT003
        _require(all(map(math.isfinite, self.parameters.values())), key, "a parameter is not a finite number")
        for name in ("temperature", "slope"):
            _require(
                self.parameters.get(name, 1.0) > 0, f"{key}.{name}", "must be above 0, or fakes and reals would swap"
            )

    @property
    def calibrated(self) -> bool:
        """Whether ``apply`` does anything."""
        return self.method != "none"

    def apply(self, p_fake: ArrayLike) -> NDArray[np.float64]:
        """Calibrated p(fake) of raw p(fake) values of any shape, each 0 to 1; the result has the same shape.

        Values within 1e-7 of 0 or 1 are moved to that distance first. A NaN stays a NaN.
        """
        import numpy as np  # noqa: PLC0415 - who only reads a bundle's facts need not wait for numpy

        p = np.asarray(p_fake, dtype=np.float64)
        if not self.calibrated:
            return np.clip(p, 0.0, 1.0)
        p = np.clip(p, PROBABILITY_EPSILON, 1.0 - PROBABILITY_EPSILON)
        logit = np.log(p) - np.log1p(-p)
        slope = self.parameters["slope"] if self.method == "platt" else 1.0 / self.parameters["temperature"]
        # tanh instead of 1 / (1 + exp(-z)): no overflow at either end.
        return 0.5 * (1.0 + np.tanh(0.5 * (slope * logit + self.parameters.get("intercept", 0.0))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Where a calibrated p(fake) becomes a verdict: REAL at or below ``real``, FAKE at or above ``fake``.

    Attributes:
        false_positive_rate: Share of held-out reals at or above ``fake``, 0 to 1; None: never measured.
        chosen_on: What they were chosen on, in words.
    """

    real: float
    fake: float
    false_positive_rate: float | None
    chosen_on: str

    def __post_init__(self) -> None:
        _require(
            0.0 <= self.real <= self.fake <= 1.0,
            "thresholds",
            f"real {self.real} and fake {self.fake} are not in the order 0 <= real <= fake <= 1",
        )
        rate = self.false_positive_rate
        _require(rate is None or 0.0 <= rate <= 1.0, "thresholds.false_positive_rate", f"{rate} is not between 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecord:
    """What the weights were trained on.

    Attributes:
        data: The data sets, in words.
        recipe: How it was trained: name of the recipe, or a sentence.
        groups: Hashes (see ``group_hash``) of the groups (source video, identity) trained on.
        groups_file: File in the bundle's folder with one such hash on each line, for more than a few.
    """

    data: tuple[str, ...] = ()
    recipe: str = ""
    groups: tuple[str, ...] = ()
    groups_file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """One model with everything needed to use it and to judge it.

    Attributes:
        id: Name of the model, e.g. ``dfwatch-resnext50``.
        version: Version of its weights and facts together.
        architecture: Name for ``dfwatch.models.architectures.build``.
        architecture_options: Options of that architecture, e.g. ``{"drop_rate": 0.2}``.
        weights_file: Name of the weights file inside ``folder``.
        weights_sha256: Lower-case hex SHA-256 of that file; empty only before ``write_bundle`` filled it in.
        crop: How the reader cuts faces for this model; ``crop.size_px`` equals ``input.size_px``.
        metrics: What was measured, as free nested mapping of names to numbers and words.
        licence: Terms of the weights, with any caveat of their data.
        known_failures: One sentence each.
        card: Name of the card inside ``folder``; empty: there is none.
        folder: Where the bundle lies; None for one that was never written.
        profile: Name of the built-in profile these facts come from; empty: from ``bundle.yaml``.
    """

    id: str
    version: str
    architecture: str
    input: InputSpec
    crop: CropSpec
    output: OutputSpec
    calibration: Calibration
    thresholds: Thresholds
    licence: str
    description: str = ""
    architecture_options: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    training: TrainingRecord = field(default_factory=TrainingRecord)
    known_failures: tuple[str, ...] = ()
    card: str = ""
    weights_file: str = WEIGHTS_FILE
    weights_sha256: str = ""
    folder: Path | None = None
    profile: str = ""

    def __post_init__(self) -> None:
        for key in ("id", "version", "architecture", "licence", "weights_file"):
            _require(bool(getattr(self, key)), key, "is empty")
        _require(
            self.crop.size_px == self.input.size_px,
            "crop.size_px",
            f"{self.crop.size_px} px differs from input.size_px, {self.input.size_px} px",
        )
        for key, value, (least, most) in (
            ("crop.margin", self.crop.margin, CROP_MARGINS),
            ("crop.shift_y", self.crop.shift_y, CROP_SHIFTS),
        ):
            _require(
                least <= value <= most,
                key,
                f"{value} is not between {least:g} and {most:g}",
                "it is a fraction of the face box's longer side: 0.3 for 30 %",
            )
        for key, name in (
            ("weights.file", self.weights_file),
            ("card", self.card),
            ("training.groups_file", self.training.groups_file),
        ):
            _require(
                Path(name).name == name, key, f"{name!r} is not a plain file name", "keep it in the bundle's own folder"
            )

    @property
    def weights_path(self) -> Path:
        """Path of the weights file; BundleError for a bundle that was never written."""
        if self.folder is None:
            raise BundleError("finding the weights of", self.id, "this bundle was never written to a folder")
        return self.folder / self.weights_file

    @property
    def card_text(self) -> str:
        """The card's text; empty where there is none. BundleError where it may not be read."""
        path = self.folder / self.card if self.folder is not None and self.card else None
        try:
            return path.read_text(encoding="utf-8", errors="replace") if path is not None and path.is_file() else ""
        except OSError as exc:
            raise BundleError("reading the card", path, exc.strerror or exc) from exc

    def trained_groups(self) -> frozenset[str]:
        """Hashes of all groups trained on, from ``training.groups`` and ``training.groups_file``."""
        groups = set(self.training.groups)
        if self.training.groups_file:
            path = (self.folder or Path()) / self.training.groups_file
            try:
                groups.update(line.strip() for line in path.read_text(encoding="ascii").splitlines() if line.strip())
            except (OSError, UnicodeDecodeError) as exc:
                raise BundleError("reading the groups trained on from", path, exc) from exc
        return frozenset(groups)


def group_hash(group: str) -> str:
    """Name under which a group (source video, identity) stands in a bundle: first 16 hex digits of its SHA-256."""
    return hashlib.sha256(group.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """Lower-case hex SHA-256 of a file; raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
