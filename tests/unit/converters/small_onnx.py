"""A model of one matrix product as an ONNX file, and its spec: what a conversion starts from, without torch."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from onnx import TensorProto, helper, numpy_helper

from converters.sources import Sources, gather

WEIGHT = np.arange(6, dtype=np.float32).reshape(3, 2)


def write_onnx(path: Path, weights: str | None = None) -> None:
    """[n, 3] -> [n, 2]; `weights` names the file beside it that holds the weights."""
    tensor = numpy_helper.from_array(WEIGHT, "w")
    if weights is not None:
        (path.parent / weights).write_bytes(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=weights)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [value("x", TensorProto.FLOAT, ["n", 3])], [value("y", TensorProto.FLOAT, ["n", 2])], [tensor],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.write_bytes(model.SerializeToString())


def write_spec(folder: Path, **changes: Any) -> Path:
    """small.yaml of m.onnx, with one sample."""
    value: dict[str, Any] = {
        "name": "small", "task": "raw", "inputs": [{"name": "x", "shape": [3]}], "outputs": ["y"],
        "checkpoint": {"path": "m.onnx", "format": "onnx"}, "parity": {"samples": "samples"},
    }  # fmt: skip
    (folder / "samples").mkdir(exist_ok=True)
    sink = io.BytesIO()
    np.savez(sink, x=np.ones(3, np.float32))
    (folder / "samples" / "a.npz").write_bytes(sink.getvalue())
    (folder / "small.yaml").write_text(yaml.safe_dump({**value, **changes}))
    return folder / "small.yaml"


def gathered(path: Path, target: str = "cpu") -> Sources:
    """What a conversion of the spec at `path` starts from."""
    return gather(path, path.parent / "cache", None, target, lambda line: None)
