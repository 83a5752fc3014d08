"""A folded network, node by node, as an OpenVINO model.

Done here instead of with ``openvino.convert_model``: that one records the network with ``torch.jit.trace``, which torch
has deprecated, takes two seconds of each start, and reports its use to its makers. What is not known here is refused,
and the network stays with torch.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino
import torch
from openvino import opset13 as ops
from torch import fx, nn
from torch.nn import functional

from dfwatch.models.architectures import DropoutLinear

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from dfwatch.models.facts import InputSpec

_PASSED_OVER = (nn.Identity, nn.Dropout, nn.Dropout2d)
_SIMPLE: Mapping[type, Callable[[Any], Any]] = {
    nn.ReLU: ops.relu,
    nn.ReLU6: lambda x: ops.clamp(x, 0.0, 6.0),
    nn.SiLU: ops.swish,
    nn.Sigmoid: ops.sigmoid,
    nn.Hardswish: ops.hswish,
    nn.Hardsigmoid: ops.hsigmoid,
}
_FUNCTIONS: Mapping[Any, Callable[..., Any]] = {
    operator.add: ops.add,
    operator.iadd: ops.add,
    torch.add: ops.add,
    operator.mul: ops.multiply,
    torch.mul: ops.multiply,
    operator.getitem: operator.getitem,
    torch.tanh: ops.tanh,
    torch.sigmoid: ops.sigmoid,
    functional.relu: lambda x, inplace=False: ops.relu(x),
    functional.linear: lambda x, weight, bias=None: _linear(x, weight, bias),
}
_METHODS: Mapping[str, Callable[..., Any]] = {
    "mean": lambda x, dim, keepdim=False: ops.reduce_mean(x, _axes(dim), keepdim),
    "flatten": lambda x, start_dim=0: _flatten(x, start_dim),
    "chunk": lambda x, chunks, dim=0: ops.split(x, dim, chunks).outputs(),
    "sigmoid": ops.sigmoid,
    "tanh": ops.tanh,
}


def translate(network: nn.Module, input_spec: InputSpec, batch_size: int) -> openvino.Model:
    """A model from pixels (batch_size, side, side, 3), uint8, RGB, to the network's logits, float32.

    Raises:
        LookupError: The network could not be traced, or holds something that is not known here.
    """
    if not isinstance(network, fx.GraphModule):
        raise LookupError("its forward function cannot be traced")  # noqa: TRY004 - as for any other network
    side = input_spec.size_px
    pixels = ops.parameter([batch_size, side, side, 3], np.uint8, name="pixels")
    modules = dict(network.named_modules())
    values: dict[fx.Node, Any] = {}
    for node in network.graph.nodes:
        args, named = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        if node.op == "placeholder":
            values[node] = _normalised(pixels, input_spec)
        elif node.op == "output":
            return openvino.Model([args[0]], [pixels], "network")
        elif node.op == "get_attr":
            values[node] = _constant(operator.attrgetter(node.target)(network))
        elif node.op == "call_module":
            values[node] = _module(modules[node.target], *args)
        else:
            known = _FUNCTIONS if node.op == "call_function" else _METHODS
            if node.target not in known:
                raise LookupError(f"the operation {getattr(node.target, '__name__', node.target)} is not known")
            values[node] = known[node.target](*args, **named)
    raise LookupError("its graph has no end")


def _normalised(pixels: Any, spec: InputSpec) -> Any:  # noqa: ANN401 - OpenVINO's nodes have no public type
    mean, std = np.array(spec.mean), np.array(spec.std)
    x = ops.convert(pixels, np.float32)
    if spec.channel_order == "bgr":
        x = ops.gather(x, np.array([2, 1, 0], np.int64), np.int64(3))
    x = ops.add(ops.multiply(x, (1.0 / (255.0 * std)).astype(np.float32)), (-mean / std).astype(np.float32))
    return ops.transpose(x, np.array([0, 3, 1, 2], np.int64))


def _module(module: nn.Module, x: Any) -> Any:  # noqa: ANN401 - see above
    if isinstance(module, _PASSED_OVER):
        return x
    if isinstance(module, nn.Conv2d):
        return _convolution(module, x)
    if isinstance(module, nn.Linear) and type(module).forward in {nn.Linear.forward, DropoutLinear.forward}:
        return _linear(x, module.weight, module.bias)
    if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in {1, (1, 1)}:
        return ops.reduce_mean(x, np.array([2, 3], np.int64), True)  # noqa: FBT003 - OpenVINO's argument
    if isinstance(module, nn.Flatten) and module.end_dim == -1:
        return _flatten(x, module.start_dim)
    if type(module) is nn.MaxPool2d and not module.ceil_mode:
        pads = _pair(module.padding)
        strides, kernel, dilations = _pair(module.stride), _pair(module.kernel_size), _pair(module.dilation)
        return ops.max_pool(x, strides, dilations, pads, pads, kernel).output(0)
    if type(module) in _SIMPLE:
        return _SIMPLE[type(module)](x)
    raise LookupError(f"the layer {type(module).__name__} is not known")


def _convolution(module: nn.Conv2d, x: Any) -> Any:  # noqa: ANN401 - see above
    if type(module) is nn.Conv2d and not isinstance(module.padding, str) and module.padding_mode == "zeros":
        pads, automatic = _pair(module.padding), "explicit"
    elif type(module).__name__ == "Conv2dSame":
        # TensorFlow's padding, in our own code and in timm's.
        pads, automatic = [0, 0], "same_upper"
    else:
        raise LookupError(f"the layer {type(module).__name__} with padding {module.padding} is not known")
    weight = module.weight.detach().numpy()
    strides, dilations = _pair(module.stride), _pair(module.dilation)
    if module.groups == 1:
        y = ops.convolution(x, _constant(weight), strides, pads, pads, dilations, automatic)
    else:
        grouped = weight.reshape(module.groups, -1, *weight.shape[1:])
        y = ops.group_convolution(x, _constant(grouped), strides, pads, pads, dilations, automatic)
    return y if module.bias is None else ops.add(y, _constant(module.bias.reshape(1, -1, 1, 1)))


def _linear(x: Any, weight: Any, bias: Any) -> Any:  # noqa: ANN401 - see above
    y = ops.matmul(x, _constant(weight), False, True)  # noqa: FBT003 - OpenVINO's arguments
    return y if bias is None else ops.add(y, _constant(bias))


def _flatten(x: Any, start_dim: int) -> Any:  # noqa: ANN401 - see above
    if start_dim != 1:
        raise LookupError(f"flatten from dimension {start_dim} is not known")
    return ops.reshape(x, np.array([0, -1], np.int64), True)  # noqa: FBT003 - OpenVINO's argument


def _constant(value: Any) -> Any:  # noqa: ANN401 - see above
    """Arrays are made constants here: as plain arguments, OpenVINO turns them into lists of numbers first."""
    if isinstance(value, torch.Tensor):
        value = value.detach().contiguous().numpy()
    return openvino.op.Constant(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value


def _axes(dim: int | tuple[int, ...]) -> NDArray[np.int64]:
    return np.array([dim] if isinstance(dim, int) else dim, np.int64)


def _pair(value: int | tuple[int, ...]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
