"""``dfwatch model import``: a bare checkpoint and the facts about it become a bundle."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dfwatch.errors import BundleError
from dfwatch.models.bundle import BUNDLE_FILE, CARD_FILE, load_bundle, write_bundle
from dfwatch.models.facts import Bundle, Calibration, ChannelOrder, InputSpec, Label, OutputKind, OutputSpec, Thresholds
from dfwatch.models.profiles import DF_MODEL_ARCHITECTURE, IMAGENET_MEAN, IMAGENET_STD, UNVERIFIED_THRESHOLDS
from dfwatch.reading import CropSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NOT_MEASURED = "Nothing about this model was measured by dfwatch."
_ACTION = "importing the checkpoint"
_ORIGIN = "Imported by dfwatch from"

# Names for the usual pairs of mean and standard deviation.
NORMALISATIONS = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}

# What no file tells and nobody but its owner knows: fact, and the option of `dfwatch model import` that gives it.
REQUIRED_FACTS = {
    "architecture": "--architecture",
    "size_px": "--size",
    "channel_order": "--channels",
    "normalisation": "--normalisation",
    "output": "--output",
    "label_order": "--labels",
    "margin": "--margin",
    "licence": "--licence",
}


class MissingFactsError(BundleError):
    """What only the checkpoint's owner knows was not said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportFacts:
    """What its owner says of a checkpoint; None for what was not said.

    Attributes:
        architecture: A name that ``dfwatch.models.architectures.build`` knows.
        architecture_options: Its options.
        size_px: Side of the input, in pixels.
        normalisation: A key of ``NORMALISATIONS``.
        label_order: Labels of class index 0 and 1.
        margin: Crop margin on each side, as a fraction of the face box's longer side.
        square: Whether the face box is made square before it is cut.
        real_threshold: REAL at or below; together with ``fake_threshold``, or not at all.
    """

    architecture: str | None = None
    architecture_options: Mapping[str, Any] = field(default_factory=dict)
    size_px: int | None = None
    channel_order: ChannelOrder | None = None
    normalisation: str | None = None
    output: OutputKind | None = None
    label_order: tuple[Label, Label] | None = None
    margin: float | None = None
    square: bool = True
    licence: str | None = None
    id: str | None = None
    version: str | None = None
    description: str = ""
    real_threshold: float | None = None
    fake_threshold: float | None = None


def import_checkpoint(
    checkpoint: Path, folder: Path, facts: ImportFacts, *, half: bool = False, overwrite: bool = False
) -> Bundle:
    """Make a bundle in ``folder`` from a checkpoint; a ``df_model.pt`` needs no facts, anything else all of them.

    Args:
        checkpoint: A safetensors file or what ``torch.save`` wrote.
        folder: Made where missing.
        facts: For the ``df_model.pt`` family, those that are said go before its built-in profile's.
        half: Store float16: half the size; verdicts change by rounding only.
        overwrite: Replace a bundle that is there; a card that is not as an import wrote it stays.

    Raises:
        BundleError: Facts are missing or impossible, or a bundle is there already.
        CheckpointError: The weights are damaged, pickled, not finite, or not of that architecture.
    """
    from dfwatch.models.architectures import build  # noqa: PLC0415 - torch only once it is needed
    from dfwatch.models.checkpoints import fill_network, half_precision, read_state_dict  # noqa: PLC0415 - as above

    if (folder / BUNDLE_FILE).exists() and not overwrite:
        raise BundleError(_ACTION, folder, "a bundle is there already", hint="name another folder, or say --overwrite")
    card = folder / CARD_FILE
    keeps_card = card.exists() and not _is_an_imports(folder)
    bundle = _with_facts(_known_family(checkpoint, facts) or _from_facts(checkpoint, facts), facts)
    network = build(bundle.architecture, bundle.architecture_options, num_outputs=bundle.output.num_outputs)
    fill_network(network, read_state_dict(checkpoint), checkpoint)
    state = network.state_dict()
    written = write_bundle(folder, bundle, half_precision(state) if half else state)
    if not keeps_card:
        try:
            card.write_text(_card(written, checkpoint), encoding="utf-8")
        except OSError as exc:
            raise BundleError(_ACTION, card, exc) from exc
    return written


def _known_family(checkpoint: Path, facts: ImportFacts) -> Bundle | None:
    """The built-in profile with whatever its owner says otherwise; None for another family or architecture."""
    if facts.architecture not in {None, DF_MODEL_ARCHITECTURE}:
        return None
    try:
        bundle = load_bundle(checkpoint)
    except BundleError:
        if not checkpoint.is_file():
            raise
        return None
    mean, std = (None, None) if facts.normalisation is None else _normalisation(facts.normalisation, checkpoint)
    size, order = facts.size_px, facts.channel_order
    return dataclasses.replace(
        bundle,
        input=dataclasses.replace(bundle.input, **_said(size_px=size, channel_order=order, mean=mean, std=std)),
        crop=dataclasses.replace(bundle.crop, **_said(size_px=size, margin=facts.margin, square=facts.square)),
        output=dataclasses.replace(bundle.output, **_said(kind=facts.output, label_order=facts.label_order)),
    )


def _said(**facts: object) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}


def _normalisation(name: str, checkpoint: Path) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    if name not in NORMALISATIONS:
        known = ", ".join(NORMALISATIONS)
        raise BundleError(_ACTION, checkpoint, f"unknown normalisation {name}", hint=f"known: {known}")
    return NORMALISATIONS[name]


def _with_facts(bundle: Bundle, facts: ImportFacts) -> Bundle:
    thresholds = bundle.thresholds
    if facts.real_threshold is not None and facts.fake_threshold is not None:
        thresholds = Thresholds(
            real=facts.real_threshold,
            fake=facts.fake_threshold,
            false_positive_rate=None,
            chosen_on="given at the import; not measured by dfwatch",
        )
    elif facts.real_threshold is not None or facts.fake_threshold is not None:
        raise BundleError(_ACTION, "thresholds", "only one of the two was given", hint="give both or neither")
    return dataclasses.replace(
        bundle,
        id=facts.id or bundle.id,
        version=facts.version or bundle.version,
        licence=facts.licence or bundle.licence,
        description=facts.description or bundle.description.removesuffix(", run from its built-in profile"),
        thresholds=thresholds,
        card=CARD_FILE,
    )


def _from_facts(checkpoint: Path, facts: ImportFacts) -> Bundle:
    if (
        facts.architecture is None
        or facts.size_px is None
        or facts.channel_order is None
        or facts.normalisation is None
        or facts.output is None
        or facts.label_order is None
        or facts.margin is None
        or facts.licence is None
    ):
        missing = [option for name, option in REQUIRED_FACTS.items() if getattr(facts, name) is None]
        raise MissingFactsError(
            _ACTION,
            checkpoint,
            f"a checkpoint does not say what its numbers mean; missing: {', '.join(missing)}",
            hint="docs/models.md says where to look each of them up",
        )
    mean, std = _normalisation(facts.normalisation, checkpoint)
    return Bundle(
        id=facts.id or checkpoint.stem,
        version=facts.version or "1",
        architecture=facts.architecture,
        architecture_options=facts.architecture_options,
        input=InputSpec(size_px=facts.size_px, channel_order=facts.channel_order, mean=mean, std=std),
        crop=CropSpec(size_px=facts.size_px, margin=facts.margin, square=facts.square),
        output=OutputSpec(kind=facts.output, label_order=facts.label_order),
        calibration=Calibration(fitted_on="nothing: imported without held-out data; see dfwatch calibrate"),
        thresholds=UNVERIFIED_THRESHOLDS,
        licence=facts.licence,
        known_failures=(NOT_MEASURED,),
    )


def has_card_of_its_own(bundle: Bundle, checkpoint: Path) -> bool:
    """Whether its card was there before, and so may speak of another model."""
    return bundle.card_text != _card(bundle, checkpoint)


def _is_an_imports(folder: Path) -> bool:
    """Whether the card is as an earlier import has left it, whatever the checkpoint's name was."""
    try:
        old = load_bundle(folder)
    except BundleError:
        return False
    told, written = old.card_text.splitlines(), _card(old, folder).splitlines()
    return [line for line in told if _ORIGIN not in line] == [line for line in written if _ORIGIN not in line]


def _card(bundle: Bundle, checkpoint: Path) -> str:
    failures = "".join(f"- {failure}\n" for failure in bundle.known_failures)
    return f"""# {bundle.id} {bundle.version}

{bundle.description or "A deepfake detector."}

{_ORIGIN} `{checkpoint.name}`. The facts of its use stand in `{BUNDLE_FILE}`.

## Measured

Nothing yet. Its scores are not calibrated and its thresholds are not verified: `dfwatch evaluate` measures it on
videos that it never saw, `dfwatch calibrate` fits calibration and thresholds.

## Known failures

{failures}
## Licence

{bundle.licence}
"""
