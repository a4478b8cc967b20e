"""A raw ONNX model of two inputs, one of free length: through the whole flow, compared tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from convert_support import Lines
from onnx import TensorProto, helper, numpy_helper

from converters.main import convert
from serving.config import Settings

pytestmark = [pytest.mark.needs("torch"), pytest.mark.needs("triton")]


def write_model(folder: Path) -> Path:
    """y = tanh(x) @ w + b, z = max over the free axis of s."""
    rng = np.random.default_rng(2)
    weight = rng.normal(0, 0.3, (6, 5)).astype(np.float32)
    nodes = [
        helper.make_node("Tanh", ["x"], ["t"]),
        helper.make_node("MatMul", ["t", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["y"]),
        helper.make_node("ReduceMax", ["s", "axis"], ["z"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "raw",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6]),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, ["batch", "length", 3]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5]),
            helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 3]),
        ],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.ones(5, np.float32), "b"),
            numpy_helper.from_array(np.array([1], np.int64), "axis"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "m.onnx")
    samples = folder / "samples"
    samples.mkdir()
    for index in range(33):
        length = 4 + index % 3
        x, s = rng.normal(0, 1, 6).astype(np.float32), rng.normal(0, 1, (length, 3)).astype(np.float32)
        np.savez(samples / f"n{index:02d}.npz", x=x, s=s)
    spec = {
        "name": "two_tensors", "task": "raw", "checkpoint": {"path": "m.onnx", "format": "onnx"},
        "inputs": [{"name": "x", "shape": [6]}, {"name": "s", "shape": [-1, 3], "dynamic": {0: [1, 16]}}],
        "outputs": ["y", "z"], "precision": "fp32", "engines": ["openvino", "onnxruntime"],
        "batch": {"opt": 2, "max": 4}, "parity": {"samples": "samples"},
    }  # fmt: skip
    path = folder / "two_tensors.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False), "utf-8")
    return path


def test_a_raw_model_is_certified_by_its_tensors(tmp_path: Path) -> None:
    settings = Settings(repository=tmp_path / "repository", cache_dir=tmp_path / "cache")
    result = convert(write_model(tmp_path), settings=settings, progress=Lines())
    rows = {row["stage"]: row for row in result.certificate["rows"]}
    assert result.outcome == "published", (result.certificate["statement"], result.certificate["blockers"])
    assert rows["onnx_fp32"]["figures"]["tensor_cosine"] > 0.99999
    assert rows["server"]["status"] == "passed" and rows["server"]["figures"]["identical"] == 33
    assert rows["gateway"]["reason"].startswith("task raw") and rows["preprocess"]["reason"].startswith("task raw")
