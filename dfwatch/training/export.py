"""From a training run to a bundle folder."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
from typing import TYPE_CHECKING, Any

from dfwatch.errors import TrainingError
from dfwatch.models.bundle import (
    BUNDLE_FILE,
    CARD_FILE,
    Bundle,
    Calibration,
    InputSpec,
    OutputSpec,
    Thresholds,
    TrainingRecord,
    group_hash,
    load_bundle,
    write_bundle,
)
from dfwatch.models.checkpoints import half_precision
from dfwatch.reading import CropSpec
from dfwatch.training import card
from dfwatch.training.lineage import GROUPS_FILE, inherited_groups, read_groups, write_groups
from dfwatch.training.loop import LOG_NAME
from dfwatch.training.splits import SplitRule
from dfwatch.training.weights_files import read_best

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from dfwatch.training.recipe import Recipe

_NOT_CHOSEN = "not chosen yet: run `dfwatch calibrate`"


def read_log(run_folder: str) -> list[dict[str, Any]]:
    """Return the entries of a run's log, oldest first; none when there is no log.

    A line that a kill or a full disk cut short is left out: a run that goes on has done its step again.
    """
    path = os.path.join(run_folder, LOG_NAME)
    if not os.path.exists(path):
        return []
    entries = []
    with open(path, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            with contextlib.suppress(ValueError):
                entries.append(json.loads(line))
    return entries


def export_bundle(
    run_folder: str,
    recipe: Recipe,
    folder: str,
    groups: Iterable[str],
    *,
    kept: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Write the best weights of a run as a bundle in half precision; calibration and thresholds are still to be fitted.

    A calibrated bundle that is there is kept beside it: its thresholds took a measurement, and a service may use it.

    Args:
        run_folder: Folder of the run: its best weights, whole or in parts, and its log.
        recipe: The recipe that made it.
        folder: Where the bundle goes.
        groups: Every group that training could touch; ``dfwatch evaluate`` refuses to report on them, and on those that
            the first weights and the teacher were trained on.
        kept: Told where a calibrated bundle lies now that was in this folder.

    Raises:
        TrainingError: When the run has no best weights yet, or what its first weights were trained on is not known.
    """
    weights = read_best(run_folder)
    if weights is None:
        raise TrainingError("exporting a bundle from", run_folder, "it holds no weights yet", hint="train longer")
    best_entry = _best_entry(read_log(run_folder))
    size_px = recipe.about.input_px or int(best_entry.get("size_px", recipe.stages[-1].size_px))
    # Runs from before there was a list inherit what the recipe says.
    known = read_groups(run_folder) or inherited_groups(recipe)
    if (before := _set_aside(folder)) is not None:
        kept(before)
    write_groups(folder, known | {group_hash(group) for group in groups})
    bundle = Bundle(
        id=recipe.id,
        version=recipe.about.version,
        description=recipe.about.description,
        licence=recipe.about.licence,
        architecture=recipe.architecture.name,
        architecture_options=recipe.architecture.options,
        input=InputSpec(size_px=size_px, channel_order="rgb", mean=recipe.norm.mean, std=recipe.norm.std),
        crop=CropSpec(size_px=size_px, margin=recipe.data.margin, square=True, shift_y=recipe.data.shift_y),
        output=OutputSpec(kind="softmax", label_order=("REAL", "FAKE")),
        calibration=Calibration(fitted_on=_NOT_CHOSEN),
        thresholds=Thresholds(real=0.5, fake=0.5, false_positive_rate=None, chosen_on=_NOT_CHOSEN),
        metrics={"training": _training_facts(run_folder, best_entry, recipe)},
        training=TrainingRecord(
            data=recipe.about.data or tuple(sorted({*recipe.data.packs, *recipe.data.blend_packs})),
            recipe=recipe.about.made_by or f"recipe {recipe.id}, digest {recipe.digest()}",
            groups_file=GROUPS_FILE,
        ),
        known_failures=recipe.about.known_failures,
        card=CARD_FILE,
    )
    return _write(folder, bundle, half_precision(weights))


def _set_aside(folder: str) -> str | None:
    """Move a calibrated bundle out of the way of a new one; returns where it lies now, None where there is none."""
    if not os.path.exists(os.path.join(folder, BUNDLE_FILE)) or not load_bundle(folder).calibration.calibrated:
        return None
    folder = os.path.normpath(folder)
    kept = _free_name(f"{folder}.")
    try:
        os.rename(folder, kept)
    except OSError as error:
        raise TrainingError("keeping the bundle in", folder, error.strerror or error) from error
    return kept


def _best_entry(log: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the log's entry of the measurement that the best weights come from; an empty one where there is none."""
    measured = [entry for entry in log if entry["event"] == "measure" and entry["auc"] is not None]
    if not measured:
        return {}
    step = measured[-1].get("best_step")
    # A step stands there twice where a killed run has done it again.
    named = [entry for entry in measured if entry["step"] == step]
    # Logs from before the step was named have the AUC alone, rounded: of equal ones the first is taken.
    return named[-1] if named else max(measured, key=lambda entry: float(entry["auc"]))


def _training_facts(run_folder: str, best_entry: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    return {
        "recipe_digest": recipe.digest(),
        "split": dataclasses.asdict(recipe.data.split),
        "steps_of_recipe": recipe.total_steps,
        "steps_trained": max((entry["step"] for entry in read_log(run_folder)), default=0),
        "weights_of_step": best_entry.get("step"),
        "select_auc": best_entry.get("auc"),
    }


def _write(folder: str | Path, bundle: Bundle, weights: dict[str, Any] | Path) -> Bundle:
    written = write_bundle(folder, bundle, weights)
    with open(os.path.join(folder, CARD_FILE), "w", encoding="utf-8") as stream:
        stream.write(card.render(written))
    # A service under another user must be able to read what a person's umask may have closed.
    for name in (CARD_FILE, BUNDLE_FILE, written.weights_file, written.training.groups_file):
        if name:
            os.chmod(os.path.join(folder, name), 0o644)
    return written


def split_rule(bundle: Bundle) -> SplitRule:
    """Return the rule by which a bundle's groups were dealt; the usual one for bundles that do not say."""
    trained = bundle.metrics.get("training")
    told = trained.get("split") if isinstance(trained, dict) else None
    return SplitRule(**told) if isinstance(told, dict) else SplitRule()


def update_bundle(
    bundle: Bundle,
    *,
    kept: Callable[[str], None] = lambda _: None,
    **changes: Any,  # noqa: ANN401 - fields of Bundle
) -> Bundle:
    """Write a bundle's facts and card anew with some of them changed; the weights stay.

    A card that says something else than the old facts was written by a person, and is kept beside the new one.

    Args:
        bundle: The bundle.
        kept: Told where such a card lies now.
        changes: Fields of ``Bundle`` with their new values.
    """
    if bundle.folder is None:
        raise TrainingError("updating the bundle", bundle.id, "it lies in no folder")
    _keep_card(str(bundle.folder), kept)
    return _write(bundle.folder, dataclasses.replace(bundle, **changes), bundle.weights_path)


def _keep_card(folder: str, kept: Callable[[str], None]) -> None:
    path = os.path.join(folder, CARD_FILE)
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            if stream.read() == card.render(load_bundle(folder)):
                return
    except FileNotFoundError:
        return
    stem, suffix = os.path.splitext(path)
    free = _free_name(f"{stem}.", suffix)
    os.rename(path, free)
    kept(free)


def _free_name(before: str, after: str = "") -> str:
    return next(path for number in itertools.count(1) if not os.path.lexists(path := f"{before}{number}{after}"))
