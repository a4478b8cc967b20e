"""Run a half-precision graph as a device would store it: every half node's answer is rounded to float16.

ONNX Runtime on a CPU computes float16 graphs in FP32 without rounding in between, so it is no evidence by itself. Here
each half node runs in FP32 and its answer passes through float16, with all graph optimisation off, as an optimiser
would remove exactly those casts.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from converters.half_plan import typed
from serving.engines.onnxruntime import FAILURES, session_options
from serving.errors import PrecisionFailed
from serving.types import Array


def run_fp16_emulated(path: Path, inputs: Mapping[str, Array], threads: int = 2) -> dict[str, Array]:
    """Named FP32 arrays with a batch axis through the graph at `path`; FP32 answers. Raises PrecisionFailed."""
    facts = path.stat()
    try:
        session = _session(str(path), facts.st_mtime_ns, facts.st_size, threads)
        names = [value.name for value in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))
    except FAILURES as error:
        text = " ".join(str(error).split())[:300]
        raise PrecisionFailed(f"{path.name}: the half-precision graph does not run: {text}") from error


@lru_cache(maxsize=2)
def _session(path: str, changed: int, size: int, threads: int) -> Any:
    options = session_options(threads)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = rounding_graph(onnx.load(path))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def rounding_graph(model: Any) -> Any:
    """The same graph in FP32, with a float16 round trip behind everything that was float16."""
    whole = typed(model)
    halves = {v.name for v in whole.graph.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT16}
    rounded = type(model)()
    rounded.CopyFrom(model)
    graph = rounded.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    nodes: list[Any] = []
    for node in list(graph.node):
        late = []
        for position, name in enumerate(node.output):
            if name in halves:
                node.output[position] = f"{name}/exact"
                late += _round_trip(f"{name}/exact", name)
        _store_as_float(node)
        nodes += [node, *late]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    return rounded


def _round_trip(source: str, target: str) -> list[Any]:
    return [
        helper.make_node("Cast", [source], [f"{target}/half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", [f"{target}/half"], [target], to=TensorProto.FLOAT),
    ]


def _store_as_float(node: Any) -> None:
    """Where a node names float16 itself (Cast, constants) it names float32 instead."""
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT16:
            attribute.i = TensorProto.FLOAT
        if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT16:
            values = numpy_helper.to_array(attribute.t).astype(np.float32)
            attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))
