"""Lineage: the groups that a model knows through its first weights and its teacher, besides those it is trained on.

A bundle and the folder of a run keep them as ``training_groups.txt``: a ``dfwatch.models.bundle.group_hash`` a line.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dfwatch.errors import TrainingError
from dfwatch.models.bundle import BUNDLE_FILE, group_hash, load_bundle
from dfwatch.training.loop import LOG_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dfwatch.training.deck import Item
    from dfwatch.training.recipe import Recipe

GROUPS_FILE = "training_groups.txt"
_FROM_ELSEWHERE = frozenset({"none", "pypi", "torchvision", "timm"})  # recipes' words for weights of no folder of ours


def inherited_groups(recipe: Recipe) -> frozenset[str]:
    """Return the hashes of all groups that a recipe's first weights and its teacher were trained on.

    Of weights from packages and model zoos, and of weights files that lie neither in a bundle nor in a run's folder,
    none is known.

    Raises:
        TrainingError: When the first weights lie in the folder of a run that kept no groups.
        BundleError: When a bundle of the teacher's, or that of the first weights, cannot be read.
    """
    found: frozenset[str] = frozenset()
    if recipe.initial not in _FROM_ELSEWHERE:
        path = os.path.abspath(recipe.initial)
        found |= _groups_of(path if os.path.isdir(path) else os.path.dirname(path))
    if recipe.teacher is not None:
        found = found.union(*(load_bundle(folder).trained_groups() for folder in recipe.teacher.bundles))
    return found


def _groups_of(folder: str) -> frozenset[str]:
    if os.path.exists(os.path.join(folder, BUNDLE_FILE)):
        return load_bundle(folder).trained_groups()
    if not os.path.exists(os.path.join(folder, GROUPS_FILE)) and os.path.exists(os.path.join(folder, LOG_NAME)):
        raise TrainingError(
            "tracing what the first weights were trained on",
            folder,
            f"this run kept no {GROUPS_FILE}",
            hint="make a bundle of it (`dfwatch train --only-bundle`) and start from that",
        )
    return read_groups(folder)


def refuse_known(recipe: Recipe, inherited: frozenset[str], measured: Sequence[Item]) -> None:
    """Refuse to choose a step on groups that the first weights or the teacher know.

    Raises:
        TrainingError: When there are any.
    """
    groups = {item.record.group for item in measured}
    known = sum(group_hash(group) in inherited for group in groups)
    if known:
        raise TrainingError(
            "opening the held-out data of",
            recipe.id,
            f"its first weights or its teacher were trained on {known} of the {len(groups)} groups of the select part",
            hint="hold out what they held out (data.split), name the groups in --exclude, or start from other weights",
        )


def read_groups(folder: str) -> frozenset[str]:
    """Return the hashes that a folder keeps; none where it keeps none.

    Raises:
        TrainingError: When the list is there and cannot be read.
    """
    path = os.path.join(folder, GROUPS_FILE)
    try:
        with open(path, encoding="ascii") as stream:
            return frozenset(line.strip() for line in stream if line.strip())
    except FileNotFoundError:
        return frozenset()
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError("reading the groups trained on from", path, error) from error


def write_groups(folder: str, hashes: Iterable[str]) -> None:
    """Write a folder's hashes, in place of those that it keeps.

    Raises:
        TrainingError: When that cannot be done.
    """
    path = os.path.join(folder, GROUPS_FILE)
    try:
        os.makedirs(folder, exist_ok=True)
        with open(f"{path}.part", "w", encoding="ascii") as stream:
            stream.writelines(f"{digest}\n" for digest in sorted(frozenset(hashes)))
        os.replace(f"{path}.part", path)
    except OSError as error:
        raise TrainingError("writing the groups trained on to", path, error) from error
