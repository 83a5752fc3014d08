"""Network architectures by name. Builders give random weights and never download any.

Each returns a module that takes a float tensor (n, 3, size_px, size_px), normalised as the bundle says, and gives
logits (n, num_outputs). timm is imported only when asked for: it brings torchvision, and together they
double the time to start.
"""

from __future__ import annotations

import difflib
import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dfwatch.errors import BundleError
from dfwatch.models import efficientnet_lite
from dfwatch.models.resnext import FEATURES, ResNeXt50

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TIMM_PREFIX = "timm:"


class DropoutLinear(nn.Linear):
    """A linear classifier with dropout before it, under the parameter names of a plain ``nn.Linear``."""

    def __init__(self, in_features: int, out_features: int, drop_rate: float) -> None:
        super().__init__(in_features, out_features)
        self.drop_rate = drop_rate

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's own argument name
        """Logits (n, out_features) of features (n, in_features)."""
        return super().forward(functional.dropout(input, self.drop_rate, self.training))


class ResNeXt50LSTM(nn.Module):
    """ResNeXt50-32x4d features, one LSTM step from the zero state for each frame, one linear layer.

    The ``df_model.pt`` family; parameter names are those of its files (``model.0.weight``, ``lstm.weight_ih_l0``,
    ``linear1.weight`` …). A frame is a sequence of its own: no frame's score depends on its neighbours.
    """

    def __init__(self, num_outputs: int = 2, drop_rate: float = 0.4, *, lstm_bias: bool = False) -> None:
        super().__init__()
        self.model = ResNeXt50(nn.Identity()).feature_layers()
        self.lstm = nn.LSTM(FEATURES, FEATURES, num_layers=1, bias=lstm_bias)
        self.linear1 = DropoutLinear(FEATURES, num_outputs, drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, num_outputs) of normalised crops (n, 3, h, w)."""
        features = self.model(x).mean(dim=(2, 3))
        # With h = c = 0 the recurrent weights and the forget gate drop out of the LSTM's equations; nn.LSTM would
        # still multiply by its 64 MiB of recurrent weights.
        parameters = dict(self.lstm.named_parameters())
        gates = functional.linear(features, parameters["weight_ih_l0"], parameters.get("bias_ih_l0"))
        if self.lstm.bias:
            gates = gates + parameters["bias_hh_l0"]
        in_gate, _, cell, out_gate = gates.chunk(4, dim=1)
        hidden = out_gate.sigmoid() * torch.tanh(in_gate.sigmoid() * cell.tanh())
        logits: Tensor = self.linear1(hidden)
        return logits


def _resnext50_32x4d(num_outputs: int = 2, drop_rate: float = 0.0) -> nn.Module:
    return ResNeXt50(DropoutLinear(FEATURES, num_outputs, drop_rate))


def _timm(model_name: str, num_outputs: int, **options: Any) -> nn.Module:  # noqa: ANN401 - timm's own options
    import timm  # noqa: PLC0415 - see above

    if model_name not in timm.list_models():
        # What follows a point in timm's names tells weights apart, not networks.
        close = difflib.get_close_matches(model_name.partition(".")[0], timm.list_models(), n=1)
        hint = f"did you mean {TIMM_PREFIX}{close[0]}?" if close else "timm.list_models() lists the names"
        raise BundleError("building the architecture", TIMM_PREFIX + model_name, "timm has no such model", hint=hint)
    network: nn.Module = timm.create_model(model_name, pretrained=False, num_classes=num_outputs, **options)
    return network


def _nasnetalarge(num_outputs: int = 2, drop_rate: float = 0.5) -> nn.Module:
    return _timm("nasnetalarge", num_outputs, drop_rate=drop_rate)


def _efficientnet_lite(size: int) -> Callable[..., nn.Module]:
    def build_lite(num_outputs: int = 2, drop_rate: float = 0.2, drop_path_rate: float = 0.0) -> nn.Module:
        classifier = DropoutLinear(efficientnet_lite.FEATURES, num_outputs, drop_rate)
        return efficientnet_lite.EfficientNetLite(size, classifier, drop_path_rate)

    return build_lite


BUILDERS: Mapping[str, Callable[..., nn.Module]] = {
    "resnext50_32x4d": _resnext50_32x4d,
    "resnext50_lstm": ResNeXt50LSTM,
    "nasnetalarge": _nasnetalarge,
    "efficientnet_lite0": _efficientnet_lite(0),
    "efficientnet_lite1": _efficientnet_lite(1),
    "efficientnet_lite2": _efficientnet_lite(2),
}


def build(name: str, options: Mapping[str, Any] | None = None, *, num_outputs: int = 2) -> nn.Module:
    """A network with random weights, in training mode as torch makes it.

    Args:
        name: A key of ``BUILDERS``, or ``timm:<name>`` for any model of timm that takes 3-channel pictures.
        options: The architecture's own options (``drop_rate``, ``drop_path_rate``, ``lstm_bias``); for ``timm:`` names
            any keyword of ``timm.create_model``.
        num_outputs: Logits for each crop: 2 for softmax, 1 for sigmoid.

    Raises:
        BundleError: No such architecture, or it does not take one of the options.
    """
    given = dict(options or {})
    action = "building the architecture"
    if name.startswith(TIMM_PREFIX):
        reserved = {"pretrained", "num_classes", "checkpoint_path", "pretrained_cfg"} & set(given)
        if reserved:
            raise BundleError(action, name, f"option {min(reserved)} is not for a bundle to set")
        try:
            return _timm(name.removeprefix(TIMM_PREFIX), num_outputs, **given)
        except (TypeError, ValueError, LookupError, AttributeError, AssertionError, RuntimeError) as exc:
            cause = f"timm did not take the options {given}: {type(exc).__name__} {exc}"
            raise BundleError(action, name, cause) from exc
    builder = BUILDERS.get(name)
    if builder is None:
        close = difflib.get_close_matches(name, BUILDERS, n=1)
        known = f"known are {', '.join(BUILDERS)} and {TIMM_PREFIX}<name>"
        hint = f"did you mean {close[0]}? {known}" if close else known
        raise BundleError(action, name, "there is no such architecture", hint=hint)
    allowed = {key: known for key, known in inspect.signature(builder).parameters.items() if key != "num_outputs"}
    for key, value in given.items():
        if key not in allowed:
            raise BundleError(action, name, f"it has no option {key}", hint=f"its options are {', '.join(allowed)}")
        if isinstance(allowed[key].default, bool):
            good, wanted = isinstance(value, bool), "true or false"
        else:
            good, wanted = type(value) in {int, float} and 0 <= value <= 1, "a number from 0 to 1"
        if not good:
            raise BundleError(action, name, f"its option {key} is {value!r}, not {wanted}")
    return builder(num_outputs=num_outputs, **given)
