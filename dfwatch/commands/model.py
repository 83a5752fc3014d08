"""``dfwatch model show|verify|import``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfwatch.commands import new_parser
from dfwatch.console.exits import Exit
from dfwatch.console.terminal import paint, wants_colour
from dfwatch.errors import BundleError, ConfigError
from dfwatch.printable import printable

if TYPE_CHECKING:
    from dfwatch.commands import Subparsers
    from dfwatch.models.facts import Bundle
    from dfwatch.models.importing import ImportFacts

_BUNDLE_HELP = "bundle folder, df_model.pt or shipped:NAME (default: the configured one, else the default one)"


def add_parser(commands: Subparsers) -> None:
    """Describe the commands."""
    parser = commands.add_parser(
        "model",
        help="show, verify or import a model bundle",
        description="A bundle is a folder with the weights of a model and bundle.yaml, which says what they are:\n"
        "input, labels, calibration, thresholds, what was measured and on what. See docs/models.md.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    show = new_parser(
        actions,
        "show",
        _show,
        summary="what a bundle says of itself",
        text="Prints a bundle's facts and its card; without a name, also which bundles ship. Reads no weights.",
    )
    show.add_argument("bundle", nargs="?", help=_BUNDLE_HELP)
    verify = new_parser(
        actions,
        "verify",
        _verify,
        summary="check a bundle from hash to scores",
        text="Checks facts, hash and shapes, that every weight is finite, and that the model runs here and agrees\n"
        "with itself. Exit status 0: it is fine; 1: it is not.",
    )
    verify.add_argument("bundle", nargs="?", help=_BUNDLE_HELP)
    _add_import(actions)


def _add_import(actions: Subparsers) -> None:
    parser = new_parser(
        actions,
        "import",
        _import,
        summary="make a bundle from a checkpoint",
        text="Makes a bundle from a checkpoint. A df_model.pt needs no facts: its family is known; what you say of it\n"
        "counts instead. Any other needs them all, because nothing is guessed: a wrong label order or channel order\n"
        "gives verdicts that look sound.",
        config=False,
    )
    parser.add_argument("checkpoint", type=Path, help="safetensors, or what torch.save wrote (weights only)")
    parser.add_argument("folder", type=Path, help="the bundle's folder; made where missing")
    parser.add_argument("--architecture", help="e.g. resnext50_32x4d, efficientnet_lite0, nasnetalarge, timm:NAME")
    parser.add_argument("--size", dest="size_px", type=int, metavar="PX", help="side of the input")
    parser.add_argument("--channels", dest="channel_order", choices=("rgb", "bgr"), help="order of the colour channels")
    parser.add_argument("--normalisation", help="e.g. imagenet, half")
    parser.add_argument("--output", choices=("softmax", "sigmoid"), help="two logits, or one")
    parser.add_argument("--labels", type=_labels, metavar="A,B", help="labels of class 0 and 1: FAKE,REAL or REAL,FAKE")
    parser.add_argument("--margin", type=float, help="crop margin on each side, as a share of the face box")
    parser.add_argument("--licence", help="terms of the weights")
    parser.add_argument("--id", help="name of the bundle")
    parser.add_argument("--version", help="version of the bundle")
    parser.add_argument("--real-threshold", type=float, help="REAL at or below this probability")
    parser.add_argument("--fake-threshold", type=float, help="FAKE at or above this probability")
    parser.add_argument("--half", action="store_true", help="store half precision: half the size")
    parser.add_argument("--overwrite", action="store_true", help="replace a bundle that is there")


def _labels(text: str) -> tuple[str, ...]:
    labels = tuple(label.strip().upper() for label in text.split(","))
    if sorted(labels) != ["FAKE", "REAL"]:
        raise argparse.ArgumentTypeError(f"{text!r} is neither FAKE,REAL nor REAL,FAKE")
    return labels


def _show(arguments: argparse.Namespace) -> int:
    from dfwatch.models.bundle import load_bundle
    from dfwatch.models.inspect import describe, describe_shipped

    shown = describe(load_bundle(_path(arguments)))
    if arguments.bundle is None:
        from dfwatch import resources

        shipped = {name: load_bundle(path) for name, path in resources.shipped_bundles().items()}
        shown = describe_shipped(resources.default_bundle().name, shipped) + shown
    # Bundles come from elsewhere too: line breaks and blanks are all that their words may do to a terminal.
    sys.stdout.write("\n".join(printable(line.expandtabs()) for line in shown.split("\n")))
    return Exit.OK


def _verify(arguments: argparse.Namespace) -> int:
    from dfwatch.models.inspect import verify
    from dfwatch.settings import file as settings_file

    checks = verify(_path(arguments), settings_file.load_found(arguments.config).settings.model)
    coloured = wants_colour(sys.stdout)
    for check in checks:
        mark = paint("ok  ", "green", coloured=coloured) if check.ok else paint("fail", "red", coloured=coloured)
        print(f"{mark}  {check.name:<14}{printable(check.detail)}")
    return Exit.OK if all(check.ok for check in checks) else Exit.FOUND


def _import(arguments: argparse.Namespace) -> int:
    from dfwatch.models.importing import ImportFacts, has_card_of_its_own

    if not arguments.checkpoint.exists():
        hint = "name the file with the weights: safetensors, or what torch.save wrote"
        raise BundleError("importing the checkpoint", arguments.checkpoint, "there is no such file", hint=hint)
    if (arguments.real_threshold is None) != (arguments.fake_threshold is None):
        cause = "only one of --real-threshold and --fake-threshold was given"
        raise ConfigError("importing the checkpoint", arguments.checkpoint, cause, hint="give both or neither")
    said: dict[str, Any] = {
        "architecture": arguments.architecture,
        "size_px": arguments.size_px,
        "channel_order": arguments.channel_order,
        "normalisation": arguments.normalisation,
        "output": arguments.output,
        "label_order": arguments.labels,
        "margin": arguments.margin,
        "licence": arguments.licence,
        "id": arguments.id,
        "version": arguments.version,
        "real_threshold": arguments.real_threshold,
        "fake_threshold": arguments.fake_threshold,
    }
    bundle = _imported(arguments, ImportFacts(**said))
    print(f"{bundle.id} {bundle.version} is in {arguments.folder}")
    if has_card_of_its_own(bundle, arguments.checkpoint):
        print(f"The card {bundle.card} was there before and stays: see that it is true of this model.")
    print(f"Check it with: dfwatch model verify {arguments.folder}")
    print(f"Use it with model.path: {arguments.folder} in the configuration.")
    return Exit.OK


def _imported(arguments: argparse.Namespace, facts: ImportFacts) -> Bundle:
    """The bundle that was made.

    Raises:
        ConfigError: Options are missing without which nobody knows what the checkpoint is.
        ModelError: The checkpoint or its facts are no good.
    """
    from dfwatch.models.importing import MissingFactsError, import_checkpoint

    try:
        return import_checkpoint(
            arguments.checkpoint, arguments.folder, facts, half=arguments.half, overwrite=arguments.overwrite
        )
    except MissingFactsError as error:
        raise ConfigError(error.action, error.subject, error.cause, hint=error.hint) from error


def _path(arguments: argparse.Namespace) -> str:
    from dfwatch.commands.run import bundle_path
    from dfwatch.settings import file as settings_file

    named: str | None = arguments.bundle
    return named or bundle_path(settings_file.load_found(arguments.config).settings)
