"""Weights from a file into a network, or a refusal that says why. No code from the file ever runs."""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dfwatch.errors import CheckpointError
from dfwatch.models.architectures import build
from dfwatch.models.names import common_prefix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from dfwatch.models.facts import Bundle

WRAPPER_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "model_state", "weights")
_ACTION = "loading the weights"
_COPY_AGAIN = "copy the file again and compare sizes or sha256 sums"
_SAVE_TENSORS = "where it was made, save only the tensors: torch.save(model.state_dict(), 'weights.pt')"
_RANDOM_FILLS = frozenset({Tensor.normal_, Tensor.uniform_, nn.init.trunc_normal_})


def load_network(bundle: Bundle) -> nn.Module:
    """The bundle's network with its weights: float32, on the CPU, in evaluation mode.

    Raises:
        BundleError: The architecture or one of its options is unknown.
        CheckpointError: The weights are not those of the bundle (sha256), damaged, pickled, of another shape, or hold
            values that are not finite.
    """
    path = bundle.weights_path
    data = _read_bytes(path)
    digest = hashlib.sha256(data).hexdigest()
    if digest != bundle.weights_sha256:
        raise CheckpointError(
            _ACTION,
            path,
            f"its sha256 is {digest}, the bundle expects {bundle.weights_sha256}",
            hint="fetch the bundle again; after a change on purpose, write it anew with dfwatch model import",
        )
    state = parse_state_dict(data, path)
    with _NoRandomFill():
        network = build(bundle.architecture, bundle.architecture_options, num_outputs=bundle.output.num_outputs)
    fill_network(network, state, path)
    return network.eval()


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by name, on the CPU, as they were saved; wrappers are taken off.

    Reads safetensors, and what ``torch.save`` writes, with ``weights_only=True``.

    Raises:
        CheckpointError: The file is missing, damaged, a full pickle, TorchScript, or holds no tensors.
    """
    return parse_state_dict(_read_bytes(path), path)


def parse_state_dict(data: bytes, path: Path) -> dict[str, Tensor]:
    """``read_state_dict`` for bytes that were read already; ``path`` is for messages."""
    if data.startswith((b"PK", b"\x80")):
        return _unwrap(_parse_torch(data, path), path)
    try:
        return safetensors_torch.load(data)
    except (SafetensorError, ValueError) as exc:
        cause = f"it is neither a safetensors nor a torch checkpoint, or it is truncated ({exc})"
        raise CheckpointError(_ACTION, path, cause, hint=_COPY_AGAIN) from exc


def fill_network(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Put a state dict into a network as float32; every parameter and statistic must be there, and no other.

    A prefix that stands before all names is taken off. Missing ``num_batches_tracked`` counters (old torch) are fine.

    Raises:
        CheckpointError: A name is missing or unknown, a shape differs, or a value is not finite.
    """
    expected = network.state_dict()
    required = {name for name in expected if not name.endswith("num_batches_tracked")}
    prefix = common_prefix(state, required)
    if prefix is None:
        prefix = _likeliest_prefix(state, required)
    given = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    counters = {name: torch.zeros((), dtype=torch.int64) for name in expected if name not in required}
    _check_names(given, expected, required, path)
    for name, tensor in given.items():
        if tensor.shape != expected[name].shape:
            cause = f"{name} has the shape {tuple(tensor.shape)}, the network needs {tuple(expected[name].shape)}"
            raise CheckpointError(_ACTION, path, cause, hint="does the bundle name the right architecture and options?")
        if name in required and not tensor.is_floating_point():
            raise CheckpointError(_ACTION, path, f"{name} holds {tensor.dtype} numbers, not floating-point ones")
        _check_values(name, tensor, path)
    ready = {name: tensor.float() if name in required else tensor for name, tensor in given.items()}
    network.load_state_dict(counters | ready, strict=True, assign=True)


def half_precision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with its matrices and kernels in float16: half the size.

    Vectors stay float32: they are small, and a batch norm's variance can lie where float16 has few bits or none. So do
    tensors with values beyond float16's range.
    """
    result = {}
    for name, tensor in state.items():
        half = tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor
        result[name] = half if half is tensor or bool(half.isfinite().all()) else tensor.float()
    return result


class _NoRandomFill(TorchFunctionMode):
    """Networks are built without drawing random weights, which all get replaced: NASNet's take over a second."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - as torch's own
        if func in _RANDOM_FILLS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise CheckpointError(_ACTION, path, exc.strerror or exc, hint="is the bundle complete?") from exc


def _parse_torch(data: bytes, path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on its own file formats is not for our users
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        names = _unsafe_names(data)
        what = f"pickled objects ({_few(names)})" if names else "pickled objects"
        cause = f"it holds {what}, and unpickling would run whatever code the file's author chose"
        raise CheckpointError(_ACTION, path, cause, hint=_SAVE_TENSORS) from exc
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, AttributeError, IndexError) as exc:
        if "TorchScript" in str(exc):
            raise CheckpointError(
                _ACTION, path, "it is a TorchScript program, not a state dict", hint=_SAVE_TENSORS
            ) from exc
        first_line = str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
        raise CheckpointError(_ACTION, path, f"it is truncated or damaged ({first_line})", hint=_COPY_AGAIN) from exc


def _unsafe_names(data: bytes) -> list[str]:
    """What a pickle would import, read without importing it; [] where torch cannot tell."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data)))
    except (ValueError, RuntimeError):
        return []


def _unwrap(value: object, path: Path) -> dict[str, Tensor]:
    """The mapping of names to tensors inside ``value``; what else lies beside it (epoch, optimiser) is left out."""
    for _ in range(4):
        if not isinstance(value, dict):
            break
        tensors = {name: item for name, item in value.items() if isinstance(name, str) and isinstance(item, Tensor)}
        inner = next((value[key] for key in WRAPPER_KEYS if isinstance(value.get(key), dict)), None)
        if inner is None and tensors:
            return tensors
        value = inner
    raise CheckpointError(
        _ACTION,
        path,
        "it holds no state dict (names to tensors)",
        hint=f"dfwatch looks at the top and under {', '.join(WRAPPER_KEYS)}; {_SAVE_TENSORS}",
    )


def _likeliest_prefix(names: Iterable[str], required: set[str]) -> str:
    """For a file that lacks some of the names: the prefix under which most of them are there."""
    counts: dict[str, int] = {"": 0}
    for name in names:
        parts = name.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in required:
                prefix = "".join(f"{part}." for part in parts[:i])
                counts[prefix] = counts.get(prefix, 0) + 1
    return max(counts, key=lambda prefix: counts[prefix])


def _check_names(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], required: set[str], path: Path) -> None:
    missing = sorted(required - given.keys())
    unknown = sorted(given.keys() - expected.keys())
    if not missing and not unknown:
        return
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {len(required)} tensors are missing ({_few(missing)})")
    if unknown:
        parts.append(f"{len(unknown)} belong to another network ({_few(unknown)})")
    hint = "does the bundle name the right architecture and options?"
    raise CheckpointError(_ACTION, path, " and ".join(parts), hint=hint)


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def _check_values(name: str, tensor: Tensor, path: Path) -> None:
    # A sum in float64 is finite exactly when every float32 in it is, and is three times quicker than isfinite.
    if tensor.is_floating_point() and not bool(tensor.sum(dtype=torch.float64).isfinite()):
        bad = int((~tensor.isfinite()).sum())
        cause = f"{bad} of the {tensor.numel()} values of {name} are NaN or infinite"
        raise CheckpointError(_ACTION, path, cause, hint="the training that made it has diverged; use an earlier one")
    if name.endswith("running_var") and tensor.numel() and float(tensor.min()) < 0:
        raise CheckpointError(_ACTION, path, f"{name} holds a negative variance", hint=_COPY_AGAIN)
