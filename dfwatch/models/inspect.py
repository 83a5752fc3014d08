"""What ``dfwatch model show`` and ``verify`` say of a bundle."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dfwatch.errors import DeviceError, DfwatchError
from dfwatch.models.bundle import SHIPPED, load_bundle

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from dfwatch.config import ModelSettings
    from dfwatch.models.facts import Bundle

# Between one crop alone and the same crop in a batch, and between a network and its folded form, in float32.
SELF_CONSISTENCY = 1e-4


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that ``verify`` looked at: its name, whether it is as it should be, and what was found."""

    name: str
    ok: bool
    detail: str


def describe(bundle: Bundle) -> str:
    """A summary for a reader at a terminal, then the card; no torch, no weights."""
    margin = f"{bundle.crop.margin:+.0%} margin" if bundle.crop.margin else "no margin"
    calibration = bundle.calibration
    parameters = ", ".join(f"{name} {value:.4g}" for name, value in calibration.parameters.items())
    thresholds = bundle.thresholds
    rate = thresholds.false_positive_rate
    measured = "false alarms never measured" if rate is None else f"{rate:.1%} of held-out reals above it"
    rows = [
        (
            "model",
            f"{bundle.id} {bundle.version}" + (f" (built-in profile {bundle.profile})" if bundle.profile else ""),
        ),
        ("", bundle.description),
        ("architecture", " ".join([bundle.architecture, *_options(bundle)])),
        ("weights", f"{bundle.weights_file}, sha256 {bundle.weights_sha256[:16]}…, {_size(bundle)}"),
        ("input", f"{bundle.input.size_px} px, {bundle.input.channel_order}"),
        ("", f"mean {_numbers(bundle.input.mean)}, deviation {_numbers(bundle.input.std)}"),
        ("crop", f"{'square' if bundle.crop.square else 'stretched'}, {margin}, shifted by {bundle.crop.shift_y:g}"),
        ("output", f"{bundle.output.kind} over {', '.join(bundle.output.label_order)}"),
        ("calibration", " ".join(part for part in (calibration.method, parameters) if part)),
        ("", f"fitted on {calibration.fitted_on}" if calibration.fitted_on else ""),
        ("thresholds", f"REAL up to {thresholds.real:g}, FAKE from {thresholds.fake:g} ({measured})"),
        ("", thresholds.chosen_on),
        *[(("metrics" if i == 0 else ""), line) for i, line in enumerate(_metric_lines(bundle.metrics))],
        *[(("trained on" if i == 0 else ""), line) for i, line in enumerate(bundle.training.data)],
        *[(("fails on" if i == 0 else ""), line) for i, line in enumerate(bundle.known_failures)],
        ("licence", bundle.licence),
        ("folder", str(bundle.folder or "")),
    ]
    lines = []
    for name, text in rows:
        if text:
            lines += textwrap.wrap(text, 96, initial_indent=f"{name:<14}", subsequent_indent=" " * 14)
    card = bundle.card_text.strip()
    return "\n".join(lines) + (f"\n\n{card}\n" if card else "\n")


def describe_shipped(default: str, bundles: Mapping[str, Bundle]) -> str:
    """The bundles that ship, as ``model.path`` names them, with what each says of itself; ends with an empty line."""
    lines = []
    for name, bundle in bundles.items():
        lines.append(f"{SHIPPED}{name}{' (default)' if name == default else ''}")
        lines += textwrap.wrap(bundle.description, 96, initial_indent=" " * 14, subsequent_indent=" " * 14)
    return "\n".join(lines) + "\n\n"


def verify(path: str | Path, settings: ModelSettings) -> list[Check]:
    """Examine a bundle as the service would use it; a check that fails ends the list when the next ones need it.

    Checked: ``bundle.yaml``, its card and group list, the weights (sha256, names, shapes, finite values), scores of
    drawn crops in float32 (finite, the same alone and in a batch, not all equal, the same with batch norm folded), and
    the device and precision that ``settings`` lead to.
    """
    from dfwatch.detector import Detector  # noqa: PLC0415 - torch only for commands that need it
    from dfwatch.models.checkpoints import load_network  # noqa: PLC0415 - as above

    checks = []
    try:
        bundle = load_bundle(path)
        checks.append(Check("bundle", ok=True, detail=f"{bundle.id} {bundle.version}: every key known and in range"))
        checks.append(_check_files(bundle))
        network = load_network(bundle)
        count = sum(parameter.numel() for parameter in network.parameters())
        checks.append(Check("weights", ok=True, detail=f"sha256 and shapes agree, {count / 1e6:.1f} M finite values"))
        try:
            checks += _check_scores(network, bundle)
        except (RuntimeError, AssertionError) as exc:
            # Neither torch nor timm has an error of its own for an input of the wrong size.
            cause = str(exc).strip().partition("\n")[0] or type(exc).__name__
            return [*checks, Check("scores", ok=False, detail=f"it does not run at {bundle.input.size_px} px: {cause}")]
        detector = Detector.load(bundle, settings)
    except DfwatchError as exc:
        name = ("bundle", "files", "weights", "scores")[min(len(checks), 3)]
        name = "device" if isinstance(exc, DeviceError) else name
        return [*checks, Check(name, ok=False, detail=str(exc))]
    device = detector.device
    text = f"{device.name}, {device.precision}, largest difference from float32 {device.precision_max_difference:.2g}"
    checks.append(Check("device", ok=True, detail=text))
    rates = ", ".join(f"{way} {rate:.0f}" for way, rate in device.crops_per_s.items())
    checks.append(Check("engine", ok=True, detail=f"{device.engine}; crops a second: {rates}"))
    checks += [Check("", ok=True, detail=f"not taken: {way}: {why}") for way, why in device.passed_over.items()]
    if not device.batch_invariant:
        text = "on this device a crop's score depends, in its last bits, on its place in the batch"
        checks.append(Check("batch places", ok=False, detail=text))
    return checks


def _check_files(bundle: Bundle) -> Check:
    groups = len(bundle.trained_groups())
    if bundle.card and not bundle.card_text:
        return Check("files", ok=False, detail=f"the card {bundle.card} is missing or empty")
    card = f"card {bundle.card}" if bundle.card else "no card"
    return Check("files", ok=True, detail=f"{card}, {groups or 'no'} groups listed as trained on")


def _check_scores(network: nn.Module, bundle: Bundle) -> list[Check]:
    import numpy as np  # noqa: PLC0415 - numpy and torch only for commands that need them
    import torch  # noqa: PLC0415 - as above

    from dfwatch.inference.torch_engine import TorchEngine  # noqa: PLC0415 - as above
    from dfwatch.models.fusion import fold_batch_norm  # noqa: PLC0415 - as above
    from dfwatch.models.probe import probe_crops  # noqa: PLC0415 - as above

    crops = probe_crops(4, bundle.input.size_px)

    def scores(net: nn.Module, batch_size: int) -> NDArray[np.float32]:
        engine = TorchEngine(
            net,
            device=torch.device("cpu"),
            dtype=torch.float32,
            batch_size=batch_size,
            input_spec=bundle.input,
            output=bundle.output,
        )
        return engine.scores(crops)

    alone, together = scores(network, 1), scores(network, 4)
    folded, _ = fold_batch_norm(network)
    after = scores(folded, 4)
    batch_difference = float(np.max(np.abs(alone - together)))
    fold_difference = float(np.max(np.abs(together - after)))
    finite = bool(np.isfinite(together).all())
    spread = float(np.ptp(together))
    return [
        Check("scores", ok=finite, detail=f"p(fake) of 4 drawn crops: {_numbers([float(p) for p in together])}"),
        Check(
            "consistency",
            ok=batch_difference <= SELF_CONSISTENCY and fold_difference <= SELF_CONSISTENCY,
            detail=f"float32 alone against batch {batch_difference:.1g}, folded against plain {fold_difference:.1g}",
        ),
        Check("not constant", ok=spread > 0, detail=f"scores of different crops differ by up to {spread:.2g}"),
    ]


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _options(bundle: Bundle) -> list[str]:
    return [f"{name}={value}" for name, value in bundle.architecture_options.items()]


def _size(bundle: Bundle) -> str:
    try:
        return f"{bundle.weights_path.stat().st_size / 1024**2:.1f} MiB"
    except OSError:
        return "MISSING"


def _metric_lines(metrics: Mapping[str, object], indent: str = "") -> list[str]:
    lines = []
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{name}:", *_metric_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {value}")
    return lines
