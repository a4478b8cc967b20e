"""Which nodes of an FP32 graph may compute in half precision, and for each that may not, why.

By the operator's schema (does ONNX define it for float16?), by what is measured (a value outside half's range), by
what a value is for (shape arithmetic), and by the spec's `keep_fp32`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import onnx
from onnx import TensorProto

from converters.modules import module_of
from serving.errors import PrecisionFailed

HALF_MAX = 65504.0
HALF_TINY = 6.104e-5  # the smallest normal half; what is smaller loses digits, below 6e-8 everything
# The samples are a few of all pictures that will come, so half the range is kept free.
HEADROOM = 2.0
# Sums of squares pass half's range inside the operator although the answer does not.
_SQUARES = ("ReduceL2", "ReduceSumSquare", "ReduceLogSumExp", "LpNormalization", "LpPool", "GlobalLpPool", "CumSum")
_ANY_INPUT = ("Shape", "Size", "Cast", "CastLike", "IsNaN")


@dataclass(frozen=True, slots=True)
class Kept:
    """A node that stays in FP32. largest: its largest finite |value| on the samples (0: not measured)."""

    name: str
    operator: str
    module: str
    reason: str
    largest: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Positions (in graph order) of the nodes that become half, and those kept with their reason."""

    half: frozenset[int]
    kept: tuple[Kept, ...]


def typed(model: Any) -> Any:
    """The model with the type of every tensor. Raises PrecisionFailed when ONNX cannot infer them."""
    try:
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError) as error:
        raise PrecisionFailed(f"types cannot be inferred: {' '.join(str(error).split())[:300]}") from error


def float_tensors(model: Any) -> set[str]:
    """Names of all FP32 tensors: inputs, weights, what nodes give."""
    graph = model.graph
    values = [*graph.input, *graph.output, *graph.value_info]
    found = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    return found | {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT}


def plan(model: Any, largest: Mapping[str, float], weights: Mapping[str, float], keep: Sequence[str]) -> Plan:
    """Decide node by node. `largest`: activations, `weights`: initializers, both by tensor name."""
    floats = float_tensors(model)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    data = _depends_on_data(model)
    inner = {name for node in model.graph.node for name in captured(node)}
    half, kept = set(), []
    for index, node in enumerate(model.graph.node):
        touched = [name for name in (*node.input, *node.output) if name in floats]
        if not touched or node.op_type in _ANY_INPUT:
            continue
        values = [largest.get(name, 0.0) for name in touched]
        reason = (
            _by_spec(node, keep)
            or _by_schema(node, floats, opset)
            or ("shape arithmetic" if not any(name in data for name in node.output) else "")
            or ("its answer is used inside a branch or loop" if inner & set(node.output) else "")
            or _by_range(node, largest, weights)
        )
        if reason:
            kept.append(Kept(node.name, node.op_type, module_of(node), reason, max(values, default=0.0)))
        else:
            half.add(index)
    return Plan(frozenset(half), tuple(kept))


def half_inputs(node: Any, floats: set[str], opset: int) -> Iterator[int]:
    """Positions of a half node's float inputs that ONNX lets be float16 (Resize keeps its scales in float)."""
    for position, name in enumerate(node.input):
        if name in floats and _allows_half(node.op_type, opset, position, output=False):
            yield position


def _by_spec(node: Any, keep: Sequence[str]) -> str:
    names = (node.op_type, node.name, module_of(node))
    hit = next((p for p in keep if any(fnmatchcase(name, p) for name in names) or names[2].startswith(f"{p}.")), None)
    return f"the spec keeps {hit}" if hit is not None else ""


def _by_schema(node: Any, floats: set[str], opset: int) -> str:
    if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
        return "it holds a branch or loop"
    if node.op_type in _SQUARES:
        return "it sums squares or long series inside"
    fixed = [
        name
        for position, name in enumerate(node.output)
        if name in floats and not _allows_half(node.op_type, opset, position, output=True)
    ]
    movable = list(half_inputs(node, floats, opset))
    generator = not any(name in floats for name in node.input)
    if fixed or generator or (not movable and any(name in floats for name in node.input)):
        return "ONNX has no float16 variant of it"
    return ""


def _by_range(node: Any, largest: Mapping[str, float], weights: Mapping[str, float]) -> str:
    for name in (*node.output, *node.input):
        value = largest.get(name, 0.0)
        if value > HALF_MAX / HEADROOM:
            return f"|activation| reaches {value:.4g} on the samples, half holds {HALF_MAX:.0f} (headroom {HEADROOM:g})"
        # A tensor whose largest value is subnormal in half has lost its digits everywhere.
        if 0 < value < HALF_TINY:
            return f"|activation| stays under {value:.3g}, half loses digits below {HALF_TINY:.3g}"
    for name in node.input:
        value = weights.get(name, 0.0)
        if value > HALF_MAX:
            return f"weight {name} reaches {value:.4g}, half holds {HALF_MAX:.0f}"
        if 0 < value < HALF_TINY:
            return f"weight {name} stays under {value:.3g}, half loses digits below {HALF_TINY:.3g}"
    return ""


def _depends_on_data(model: Any) -> set[str]:
    """Tensors that follow from the inputs' values, not only from their shapes."""
    weights = {tensor.name for tensor in model.graph.initializer}
    data = {value.name for value in model.graph.input if value.name not in weights}
    for node in model.graph.node:
        used = {*node.input, *captured(node)}
        if node.op_type not in ("Shape", "Size") and used & data:
            data.update(node.output)
    return data


def captured(node: Any) -> set[str]:
    """Outer tensors that a node's branches or loop bodies use by name."""
    graphs = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    graphs += [g for a in node.attribute for g in a.graphs]
    used: set[str] = set()
    while graphs:
        graph = graphs.pop()
        for inner in graph.node:
            used.update(inner.input)
            graphs += [a.g for a in inner.attribute if a.type == onnx.AttributeProto.GRAPH]
        used.update(value.name for value in graph.output)
    return used


def _allows_half(operator: str, opset: int, position: int, *, output: bool) -> bool:
    try:
        schema = onnx.defs.get_schema(operator, opset, "")
    except onnx.defs.SchemaError:
        return False
    formal = schema.outputs if output else schema.inputs
    if not formal:
        return False
    parameter = formal[min(position, len(formal) - 1)]
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    return "tensor(float16)" in allowed.get(parameter.type_str, [parameter.type_str])
