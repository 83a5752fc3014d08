"""From a recipe and packs to a trainer: the data opened, what must not be trained on refused, the teacher asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dfwatch.errors import TrainingError
from dfwatch.models.bundle import group_hash
from dfwatch.training.batches import open_items, open_pools
from dfwatch.training.hints import load_hints
from dfwatch.training.lineage import inherited_groups, read_groups, refuse_known, write_groups
from dfwatch.training.loop import RunOptions, Trainer
from dfwatch.training.objective import Teaching
from dfwatch.training.splits import SPLITS, check_disjoint, take

if TYPE_CHECKING:
    from collections.abc import Callable

    from dfwatch.training.deck import Item
    from dfwatch.training.packs import Pack
    from dfwatch.training.recipe import Recipe
    from dfwatch.training.records import Record


def open_measured(
    data_root: str, recipe: Recipe, excluded: frozenset[str], opened: dict[str, Pack] | None = None
) -> list[Item]:
    """Return the select part, as many fakes as reals, the same ones on every call.

    Raises:
        TrainingError: When it lacks a label: no step could be chosen over another.
    """
    items = open_items(data_root, recipe.data.packs, recipe, excluded, "select", opened=opened)
    rng = np.random.default_rng(0)
    chosen: list[Item] = []
    by_label = [[item for item in items if item.record.is_fake == fake] for fake in (False, True)]
    count = min(recipe.measure_crops, *(len(part) for part in by_label))
    if not count:
        raise TrainingError(
            "opening the held-out data",
            data_root,
            f"its select part has {len(by_label[0])} real and {len(by_label[1])} fake crops",
            hint="for few groups set data.split in the recipe, e.g. {select: 0.3, test: 0.2}, or the index's column",
        )
    for part in by_label:
        chosen.extend(part[int(place)] for place in sorted(rng.permutation(len(part))[:count]))
    return chosen


def open_trainer(
    data_root: str,
    recipe: Recipe,
    options: RunOptions,
    excluded: frozenset[str],
    *,
    hinting: Callable[[int, int], None] = lambda *_: None,
    opened: dict[str, Pack] | None = None,
) -> Trainer:
    """Open data and teacher and build the trainer of a recipe; ``hinting`` hears of crops that the teacher looks at.

    ``opened`` keeps the packs by name.

    The run's folder, and that of its parts, then keep what the run, its first weights and its teacher are trained on.

    Raises:
        TrainingError: When a group is in two parts of the data, or the first weights or the teacher know groups of the
            select part.
        StoppedError: When the run was to stop before the teacher had looked at every crop.
    """
    packs: dict[str, Pack] = {} if opened is None else opened
    pools = open_pools(data_root, recipe, excluded, packs)
    measured = open_measured(data_root, recipe, excluded, packs)
    check_disjoint([take(_records(packs), split, recipe.data.split, excluded) for split in SPLITS])
    inherited = inherited_groups(recipe)
    refuse_known(recipe, inherited, measured)
    teaching = None
    if recipe.teacher is not None:
        from dfwatch.training.teacher import open_teacher  # noqa: PLC0415 - only distillation needs it

        teacher = open_teacher(recipe.teacher.bundles, options.device)
        hints = None
        if recipe.teacher.once:
            hints = load_hints(recipe, pools, teacher, options.folder, progress=hinting, must_stop=options.must_stop)
        teaching = Teaching(by=teacher.weights_sha256, answer=teacher, hints=hints, maps=teacher.maps)
    trainer = Trainer(recipe, options, pools, measured, teaching)
    seen = inherited | {group_hash(group) for group in pools.groups}
    if trainer.progress.step:
        # Its earlier pieces may have had other data, if they are from before a checkpoint knew its own.
        seen |= read_groups(options.folder)
    for folder in filter(None, (options.folder, options.parts_folder)):
        write_groups(folder, seen)
    return trainer


def _records(packs: dict[str, Pack]) -> list[Record]:
    return [record for pack in packs.values() for record in pack.records]
