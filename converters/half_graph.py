"""Write a half-precision plan into an ONNX graph: float16 weights and nodes, Cast at each border, FP32 at the edges."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from converters.half_plan import Plan, captured, float_tensors, half_inputs
from converters.modules import KEY, module_of
from serving.types import Array


def half_graph(model: Any, plan: Plan) -> tuple[Any, int]:
    """A new model (and the number of Cast nodes in it that are new). `model` has all its types (half_plan.typed).

    Graph inputs and outputs keep their names and FP32. A weight used on both sides exists in both types.
    """
    return _Rewriter(model, plan).run()


class _Rewriter:
    """One pass over the nodes in order; remembers which tensor exists in which type."""

    def __init__(self, model: Any, plan: Plan) -> None:
        self._model = type(model)()
        self._model.CopyFrom(model)
        self._plan = plan
        self._floats = float_tensors(model)
        self._opset = next(e.version for e in model.opset_import if e.domain in ("", "ai.onnx"))
        self._weights = {t.name: t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
        self._halves: set[str] = set()  # tensors whose own name now holds float16
        self._copies: dict[tuple[str, int], str] = {}
        self._nodes: list[Any] = []
        self._new_weights: list[Any] = []
        self._casts = 0

    def run(self) -> tuple[Any, int]:
        graph = self._model.graph
        outputs = {value.name for value in graph.output}
        for index, node in enumerate(list(graph.node)):
            half = index in self._plan.half
            wanted = set(half_inputs(node, self._floats, self._opset)) if half else set()
            self._inputs(node, wanted, keep_type=not half and node.op_type in ("Shape", "Size", "IsNaN", "Cast"))
            late = self._outputs(node, outputs) if half else []
            self._nodes.append(node)
            self._nodes.extend(late)
        del graph.node[:]
        graph.node.extend(self._nodes)
        del graph.value_info[:]
        self._drop_unused_weights()
        return self._model, self._casts

    def _inputs(self, node: Any, half: set[int], *, keep_type: bool) -> None:
        for position, name in enumerate(node.input):
            if name not in self._floats:
                continue
            kind = TensorProto.FLOAT16 if position in half else TensorProto.FLOAT
            if not keep_type and kind != (TensorProto.FLOAT16 if name in self._halves else TensorProto.FLOAT):
                node.input[position] = self._as(name, kind, node)

    def _outputs(self, node: Any, graph_outputs: set[str]) -> list[Any]:
        """Mark the node's float outputs as half; a graph output keeps its name for the FP32 copy."""
        late = []
        for position, name in enumerate(node.output):
            if name not in self._floats:
                continue
            if name in graph_outputs:
                renamed = f"{name}/half"
                node.output[position] = renamed
                late.append(self._cast(renamed, name, TensorProto.FLOAT, node))
                self._copies[(name, TensorProto.FLOAT16)] = renamed
            else:
                self._halves.add(name)
        return late

    def _as(self, name: str, kind: int, node: Any) -> str:
        """The tensor `name` in another type: a converted weight, an earlier cast, or a new Cast."""
        if (name, kind) not in self._copies:
            copy = f"{name}/{'half' if kind == TensorProto.FLOAT16 else 'float'}"
            if name in self._weights:
                values = saturated_half(numpy_helper.to_array(self._weights[name]))
                self._new_weights.append(numpy_helper.from_array(values, copy))
            else:
                self._nodes.append(self._cast(name, copy, kind, node))
            self._copies[(name, kind)] = copy
        return self._copies[(name, kind)]

    def _cast(self, source: str, target: str, kind: int, node: Any) -> Any:
        self._casts += 1
        cast = helper.make_node("Cast", [source], [target], name=f"{target}/cast", to=kind)
        cast.metadata_props.add(key=KEY, value=module_of(node))
        return cast

    def _drop_unused_weights(self) -> None:
        graph = self._model.graph
        used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        used |= _used_in_bodies(graph.node)
        kept = [t for t in graph.initializer if t.name in used] + self._new_weights
        del graph.initializer[:]
        graph.initializer.extend(kept)


def saturated_half(values: Array) -> Array:
    """float32 to float16; infinite values stay infinite (the plan keeps what is finite and too large in FP32)."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16)


def _used_in_bodies(nodes: Any) -> set[str]:
    return {name for node in nodes for name in captured(node)}
