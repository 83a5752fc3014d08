"""The training commands: `prepare`, `train`, `calibrate`, `evaluate`. Imports neither torch nor cv2 before they run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parsers(subparsers: Subparsers) -> None:
    """Add the training commands; each sets ``handler``, a function from the parsed arguments to the exit code."""
    _add_train(subparsers)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, metavar="FOLDER", help="folder that holds the prepared packs")
    parser.add_argument("--exclude", metavar="FILE", help="videos or groups never to be used, one a line")


def _add_train(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "train",
        help="train a model by a recipe",
        description="Train a model by a recipe. A run that was stopped goes on where it was: give the same command again.",
    )
    parser.add_argument("recipe", help="a YAML recipe, e.g. recipes/efficientnet_lite0.yaml")
    _add_data(parser)
    parser.add_argument("--run", required=True, metavar="FOLDER", help="folder for checkpoint, log and weights")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda … (default: auto)")
    parser.add_argument("--workers", type=int, default=1, help="processes that make batches (default: 1)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of torch (default: torch's choice)")
    parser.add_argument(
        "--max-minutes", type=float, default=0.0, help="stop with a checkpoint after this time (exit code 3)"
    )
    parser.add_argument("--teacher", metavar="BUNDLE", help="the teacher's bundle, in place of the recipe's")
    parser.set_defaults(handler=run_train)


def run_train(arguments: argparse.Namespace) -> int:
    """Run `dfwatch train`: 0 when the run is complete, 3 when time ran out before."""
    import dataclasses  # noqa: PLC0415

    import torch  # noqa: PLC0415

    from dfwatch.training.loop import RunOptions, open_trainer  # noqa: PLC0415
    from dfwatch.training.recipe import load_recipe  # noqa: PLC0415

    recipe = load_recipe(arguments.recipe)
    if arguments.teacher and recipe.teacher:
        recipe = dataclasses.replace(recipe, teacher=dataclasses.replace(recipe.teacher, bundle=arguments.teacher))
    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    options = RunOptions(
        folder=arguments.run,
        device=device,
        workers=arguments.workers,
        threads=arguments.threads,
        max_seconds=60 * arguments.max_minutes,
    )
    trainer = open_trainer(arguments.data, recipe, options, _excluded(arguments))
    _say(f"{recipe.id}: step {trainer.progress.step} of {recipe.total_steps} on {device}")
    progress = trainer.run(_report)
    _say(f"best AUC {progress.best_auc:.4f} at step {progress.best_step}; weights and log in {arguments.run}")
    return 0 if progress.finished else 3


def _excluded(arguments: argparse.Namespace) -> frozenset[str]:
    from dfwatch.training.splits import read_exclusions  # noqa: PLC0415

    return read_exclusions(arguments.exclude) if arguments.exclude else frozenset()


def _report(entry: dict[str, object]) -> None:
    if entry["event"] == "train":
        _say(
            f"step {entry['step']}/{entry['of']}  loss {entry['loss']}  {entry['crops_per_s']} crops/s"
            f"  waiting {entry['waiting_for_data']:.0%}  left {float(str(entry['left_s'])) / 60:.0f} min"
        )
    else:
        _say(f"step {entry['step']}  AUC {entry['auc']}  best {entry.get('best_auc')}  loss {entry.get('loss')}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
