"""Multiply-adds of one sample, and the last feature map, counted on the ONNX graph with the shapes of a real run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from converters.half_plan import typed
from converters.modules import module_of
from serving.engines.onnxruntime import session_options
from serving.errors import ModelRefused
from serving.types import Array

Shapes = Mapping[str, tuple[int, ...]]
_MAPS = ("Conv", "ConvTranspose")


@dataclass(frozen=True, slots=True)
class GraphCosts:
    """multiply_adds: of convolutions, matrix products and recurrent layers for a batch of one; the last feature map is
    the last convolution's output [channels, height, width] and the module it came from."""

    multiply_adds: int
    parameters: int
    last_feature_map: tuple[int, ...]
    last_feature_module: str


def graph_costs(path: Path, example: Mapping[str, Array]) -> GraphCosts:
    """Count on the graph at `path`, run once with `example` (a batch of one). Raises ModelRefused."""
    model = onnx.load(path, load_external_data=False)
    shapes = _shapes(model, example)
    last: tuple[int, ...] = ()
    total, module = 0, ""
    for node in model.graph.node:
        total += _node(node, shapes)
        if node.op_type in _MAPS and len(shapes.get(node.output[0], ())) == 4:
            last, module = shapes[node.output[0]][1:], module_of(node)
    floats = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    return GraphCosts(total, sum(int(np.prod(t.dims)) for t in floats), last, module)


def _shapes(model: Any, example: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that the counting needs, from a run: inference alone leaves free sides open."""
    graph = typed(model).graph
    known = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    wanted = [
        name
        for node in model.graph.node
        if node.op_type in _COUNTED
        for name in (*node.input, node.output[0])
        if name in known
    ]
    probed = type(model)()
    probed.CopyFrom(model)
    del probed.graph.output[:]
    wanted = list(dict.fromkeys(wanted))
    probed.graph.output.extend(helper.make_tensor_value_info(name, known[name], None) for name in wanted)
    shapes = {**weights, **{name: tuple(array.shape) for name, array in example.items()}}
    if not wanted:
        return shapes
    try:
        options = session_options(2)
        session = ort.InferenceSession(probed.SerializeToString(), options, providers=["CPUExecutionProvider"])
        values = session.run(wanted, dict(example))
    except (RuntimeError, ValueError) as error:
        raise ModelRefused(f"the graph does not run: {' '.join(str(error).split())[:300]}") from error
    shapes.update({name: tuple(np.shape(value)) for name, value in zip(wanted, values, strict=True)})
    return shapes


def _convolution(node: Any, shapes: Shapes) -> int:
    weight, output = shapes[node.input[1]], shapes[node.output[0]]
    return int(np.prod(output)) * int(np.prod(weight[1:]))


def _transposed(node: Any, shapes: Shapes) -> int:
    weight, source = shapes[node.input[1]], shapes[node.input[0]]
    return int(np.prod(source)) * int(np.prod(weight[1:]))


def _product(node: Any, shapes: Shapes) -> int:
    flipped = any(a.name == "transA" and a.i for a in node.attribute)
    inner = shapes[node.input[0]][-2 if flipped else -1]
    return int(np.prod(shapes[node.output[0]])) * int(inner)


def _recurrent(node: Any, shapes: Shapes) -> int:
    """Both matrices of each step: [directions, gates * hidden, input] and [directions, gates * hidden, hidden]."""
    steps, batch = shapes[node.input[0]][:2]
    return int(steps * batch) * int(np.prod(shapes[node.input[1]]) + np.prod(shapes[node.input[2]]))


_COUNTED = {
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Gemm": _product,
    "MatMul": _product,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}


def _node(node: Any, shapes: Shapes) -> int:
    count = _COUNTED.get(node.op_type)
    return count(node, shapes) if count else 0
