"""The training commands: `prepare`, `train`, `calibrate`, `evaluate`. Imports neither torch nor cv2 before they run.

Each command sets ``command`` on its parser: a function from the parsed arguments to the exit code. What a person wants
to see goes to standard error, results go to files.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dfwatch.console.ranges import in_range
from dfwatch.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

INCOMPLETE = 3


def add_parsers(subparsers: Subparsers) -> None:
    """Add the training commands to the subparsers of `dfwatch`."""
    _add_prepare(subparsers)
    _add_train(subparsers)
    _add_calibrate(subparsers)
    _add_evaluate(subparsers)


def _add_prepare(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "prepare",
        help="cut faces out of videos or pictures into a training pack",
        description="Cut faces out of videos or pictures and pack them with an index, a summary and a contact sheet. "
        "A run that was stopped goes on where it was: give the same command again.",
    )
    parser.add_argument("source", help="folder of the data set, or a CSV file with path and label")
    parser.add_argument("pack", help="folder for the pack; its name is how recipes call it")
    parser.add_argument(
        "--layout",
        default="auto",
        choices=("auto", "ffpp", "celebdf", "dfdc", "folders", "splits", "csv"),
        help="how the data set is laid out (default: recognised by its files)",
    )
    parser.add_argument("--cropped", action="store_true", help="the pictures are face crops already: keep them whole")
    parser.add_argument(
        "--size",
        type=in_range(int, 16, 4096),
        default=224,
        metavar="PX",
        help="longest side of a stored crop, 16 to 4096 (224)",
    )
    parser.add_argument(
        "--margin",
        type=in_range(float, 0, 4),
        default=0.35,
        help="room around the face box, in its sides, 0 to 4 (0.35)",
    )
    parser.add_argument(
        "--codec",
        default="jpeg",
        choices=("jpeg", "webp"),
        help="of stored crops; webp needs a third of the bytes (jpeg)",
    )
    parser.add_argument("--quality", type=in_range(int, 1, 100), default=95, help="of stored crops, 1 to 100 (95)")
    parser.add_argument(
        "--frames", type=in_range(int, 1, 10_000), default=16, help="frames from each video, 1 to 10000 (16)"
    )
    parser.add_argument(
        "--processes", type=in_range(int, 1, 1024), default=1, help="processes for pictures, 1 to 1024 (1)"
    )
    parser.set_defaults(command=_lazy("run_prepare"))


def _add_train(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "train",
        help="train a model by a recipe",
        description="Train a model by a recipe and write it as a bundle. "
        "A run that was stopped goes on where it was: give the same command again.",
    )
    parser.add_argument("recipe", help="a YAML recipe, e.g. recipes/efficientnet_lite0.yaml")
    _add_data(parser)
    parser.add_argument("--run", required=True, metavar="FOLDER", help="folder for checkpoint, log and weights")
    parser.add_argument(
        "--pack", action="append", metavar="NAME", help="labelled pack, in place of the recipe's; repeatable"
    )
    parser.add_argument("--bundle", metavar="FOLDER", help="write the best weights so far there as a bundle")
    parser.add_argument(
        "--parts",
        metavar="FOLDER",
        default="",
        help="also keep the best weights there, in half precision and in files under 16 MiB, with the log: to be "
        "carried to another machine, where --initial FOLDER starts from them and --run FOLDER --only-bundle bundles",
    )
    parser.add_argument("--only-bundle", action="store_true", help="train nothing: write the bundle of the run")
    parser.add_argument("--initial", metavar="SOURCE", help="first weights, in place of the recipe's")
    parser.add_argument("--teacher", metavar="BUNDLE", help="the teacher's bundle, in place of the recipe's")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda … (auto)")
    parser.add_argument("--workers", type=in_range(int, 0, 1024), default=1, help="processes that make batches (1)")
    parser.add_argument(
        "--threads", type=in_range(int, 0, 1024), default=0, help="CPU threads of torch (torch's choice)"
    )
    parser.add_argument(
        "--max-minutes",
        type=in_range(float, 0.0, 1e6),
        default=0.0,
        help="be done with everything, checkpoint and bundle included, after this time since the start; exit code "
        f"{INCOMPLETE} means unfinished, and the same command goes on",
    )
    parser.set_defaults(command=_lazy("run_train", _check_train))


def _add_calibrate(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "calibrate",
        help="fit a bundle's calibration and thresholds on held-out groups",
        description="Fit calibration and thresholds on the `select` part of a pack and store them in the bundle.",
    )
    parser.add_argument("bundle", help="the bundle's folder")
    _add_data(parser)
    parser.add_argument("--pack", action="append", required=True, metavar="NAME", help="pack to fit on; repeatable")
    parser.add_argument("--split", default="select", choices=("select", "test", "train"), help="part of it (select)")
    parser.add_argument(
        "--real-videos",
        metavar="NAME",
        help="choose the FAKE threshold on the real videos of this pack, several frames of each, whatever their split; "
        "for --pack with a single frame of each video. Nothing of it may have been trained on",
    )
    parser.add_argument("--method", default="platt", choices=("platt", "temperature", "none"), help="(platt)")
    parser.add_argument(
        "--false-alarms",
        type=in_range(float, 0.0, 1.0),
        default=0.01,
        help="share of real groups of which any video is called FAKE (0.01)",
    )
    parser.add_argument(
        "--no-guarantee",
        action="store_true",
        help="for few groups: take the plain share of false alarms and say in the bundle that it promises nothing",
    )
    parser.add_argument(
        "--misses", type=in_range(float, 0.0, 1.0), default=0.05, help="share of fake videos called REAL (0.05)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda … (auto)")
    parser.set_defaults(command=_lazy("run_calibrate"))


def _add_evaluate(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "evaluate",
        help="measure a bundle on crops or on videos, with a report",
        description="Measure a bundle on a held-out part of packs, or on videos through the service's own reader, "
        "detector and verdict. Writes report.md, report.html, evaluation.json and scores.csv.",
    )
    parser.add_argument("bundle", help="the bundle's folder")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the report goes")
    parser.add_argument(
        "--videos", metavar="SOURCE", help="folder or CSV of videos, in any layout of `dfwatch prepare`"
    )
    parser.add_argument("--layout", default="auto", help="layout of --videos (recognised by its files)")
    _add_data(parser, required=False)
    parser.add_argument("--pack", action="append", metavar="NAME", help="pack to measure on; repeatable")
    parser.add_argument(
        "--split", choices=("select", "test", "train"), help="part of the data (of packs: test; of --videos: all)"
    )
    parser.add_argument("--all-fakes", action="store_true", help="every fake; without it as many fakes as reals")
    parser.add_argument(
        "--robustness",
        type=in_range(int, 0, 1_000_000),
        default=0,
        metavar="N",
        help="also after changes, on N videos of each label",
    )
    parser.add_argument("--run", metavar="FOLDER", help="training run whose curves the report shows")
    parser.add_argument(
        "--include-trained", action="store_true", help="report on groups that the bundle was trained on, with a warning"
    )
    parser.add_argument("--store", metavar="NAME", help="store the figures in the bundle under metrics.NAME")
    parser.add_argument("--margin", type=float, metavar="M", help="cut crops with another margin than the bundle's")
    parser.add_argument(
        "--rounds", type=in_range(int, 2, 1_000_000), default=1000, help="rounds of the bootstrap (1000)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda … (auto)")
    parser.set_defaults(command=_lazy("run_evaluate", _check_evaluate))


def _add_data(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    parser.add_argument("--data", required=required, metavar="FOLDER", help="folder that holds the packs")
    parser.add_argument("--exclude", metavar="FILE", help="videos or groups never to be used, one a line")


def _check_train(arguments: argparse.Namespace) -> None:
    """Read the recipe, and refuse what no data can make right.

    Raises:
        ConfigError: An option is missing, or the recipe is wrong.
    """
    from dfwatch.training.recipe import load_recipe  # noqa: PLC0415

    if arguments.only_bundle and not arguments.bundle:
        raise ConfigError("writing the bundle", arguments.run, "--bundle is missing")
    try:
        arguments.recipe = load_recipe(arguments.recipe)
    except TrainingError as error:
        raise ConfigError(error.action, error.subject, error.cause, hint=error.hint) from error
    if arguments.teacher and arguments.recipe.teacher is None:
        raise ConfigError("training with the teacher", arguments.teacher, f"{arguments.recipe.id} learns from none")


def _check_evaluate(arguments: argparse.Namespace) -> None:
    """Refuse options that do not go together.

    Raises:
        ConfigError: Says which.
    """
    if arguments.margin is not None and arguments.store:
        raise ConfigError("evaluating", arguments.bundle, "--store keeps no figures of another --margin")
    if bool(arguments.videos) == bool(arguments.pack):
        raise ConfigError("evaluating", arguments.bundle, "give either --videos, or --data and --pack")
    if arguments.pack and not arguments.data:
        raise ConfigError("opening the packs", ", ".join(arguments.pack), "--data is missing")
    if arguments.videos and (arguments.robustness or arguments.all_fakes):
        raise ConfigError("evaluating", arguments.videos, "--robustness and --all-fakes are for packs")
    if arguments.store == "training":
        raise ConfigError("evaluating", arguments.bundle, "metrics.training tells how it was trained")
    if arguments.pack and not arguments.split:
        arguments.split = "test"


def _lazy(
    name: str, check: Callable[[argparse.Namespace], None] = lambda _arguments: None
) -> Callable[[argparse.Namespace], int]:
    """Import the heavy half of a command only when it runs, and ``check`` its options first."""

    def handler(arguments: argparse.Namespace) -> int:
        # Before the imports: on a cold machine torch alone takes longer than many a step.
        arguments.began_at = time.monotonic()
        from dfwatch.errors import MissingExtraError  # noqa: PLC0415

        try:
            check(arguments)
            from dfwatch.training import commands  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                "starting the training tools", error.name or "", error, hint="pip install 'dfwatch[train]'"
            ) from error
        run: Callable[[argparse.Namespace], int] = getattr(commands, name)
        return run(arguments)

    return handler
