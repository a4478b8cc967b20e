"""Small certified versions for tests of the server: real ONNX files whose right answers can be told from the pixels."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters.config_pbtxt import config_pbtxt
from serving.bundle import sha256_of
from serving.config import Settings
from serving.spec import ModelSpec
from serving.triton.embedded import EmbeddedTriton
from serving.types import Array, PixelArray, TensorSpec

ROOT = Path(__file__).resolve().parents[1]
TRITON_HOME = ROOT / ".triton" / "site" / "pytriton" / "tritonserver"
MODEL_PY = "from serving.backend import TritonPythonModel\n\n__all__ = ['TritonPythonModel']\n"
SLOW_SECONDS = 0.3
# The served model with something wrong around it.
PATCHED_PY = """
import os
import time

from serving.backend import TritonPythonModel as Served


class TritonPythonModel(Served):
    def execute(self, requests):
        {body}
        return super().execute(requests)
"""
SLOW_PY = PATCHED_PY.format(body=f"time.sleep({SLOW_SECONDS})")
COLOURS = ("red", "green", "blue")


def picture(red: int, green: int, blue: int, width: int = 20, height: int = 12) -> PixelArray:
    return np.full((height, width, 3), (red, green, blue), np.uint8)


def png(pixels: PixelArray) -> bytes:
    done, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()


def image_input(data: bytes) -> Array:
    return np.frombuffer(data, np.uint8)[None]


def colours_model(repository: Path, name: str = "colours", **spec: Any) -> Path:
    """Classification: the score of a colour grows with its mean."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Mul", ["flat", "ten"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes, "colours", [_value("x", ["n", 3, 8, 8])], [_value("logits", ["n", 3])], [_constant("ten", [10.0])]
    )
    document = {"task": "classification", "labels": list(COLOURS), "outputs": ["logits"], **spec}
    return publish(repository, name, graph, document)


def redness_model(repository: Path, name: str = "redness", **spec: Any) -> Path:
    """Detection: one box over the left half whose confidence is the mean of red."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Slice", ["mean", "zero", "one", "axis"], ["red"]),
        helper.make_node("Squeeze", ["red", "last"], ["score"]),  # [n, 1, 1]
        helper.make_node("Identity", ["score"], ["scores"]),
        helper.make_node("Mul", ["score", "nought"], ["zeros"]),
        helper.make_node("Add", ["zeros", "box"], ["boxes"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([0], np.int64), "zero"),
        numpy_helper.from_array(np.array([1], np.int64), "one"),
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
        numpy_helper.from_array(np.array([3], np.int64), "last"),
        _constant("nought", [0.0]),
        numpy_helper.from_array(np.array([[[0, 0, 4, 8]]], np.float32), "box"),
    ]
    graph = helper.make_graph(
        nodes,
        "redness",
        [_value("x", ["n", 3, 8, 8])],
        [_value("boxes", ["n", 1, 4]), _value("scores", ["n", 1, 1])],
        constants,
    )
    document = {"task": "detection", "labels": ["red"], "outputs": ["boxes", "scores"], **spec}
    return publish(repository, name, graph, document)


def adder_model(repository: Path, name: str = "adder", **spec: Any) -> Path:
    """Raw: `sum` = a + b, of any length up to 16."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["sum"])],
        "adder",
        [_value("a", ["n", "k"]), _value("b", ["n", "k"])],
        [_value("sum", ["n", "k"])],
    )
    tensors = [{"name": n, "datatype": "FP32", "shape": [4], "dynamic": {0: [1, 16]}} for n in ("a", "b")]
    document = {"task": "raw", "inputs": tensors, "outputs": ["sum"], "preprocess": None, **spec}
    return publish(repository, name, graph, document)


def _value(name: str, shape: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _constant(name: str, values: list[float]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.float32), name)


def publish(repository: Path, name: str, graph: onnx.GraphProto, document: dict[str, Any], version: int = 1) -> Path:
    """Write a version as the converter does; the certificate says passed."""
    defaults = {"checkpoint": {"format": "onnx", "path": "x.onnx"}, "preprocess": {"width": 8, "height": 8}}
    model_py = document.pop("model_py", MODEL_PY)
    spec = ModelSpec.model_validate({"name": name, "version": version, **defaults, **document})
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    folder = repository / name / str(version)
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "model.py").write_text(model_py)
    signature = {"inputs": _tensors(graph.input), "outputs": _tensors(graph.output)}
    served = {
        "schema": 1,
        "spec": spec.model_dump(mode="json"),
        "labels": list(spec.labels),
        "engine": "onnxruntime",
        "precision": "f32",
        "threads": 1,
        "signature": signature,
    }
    (folder / "spec.json").write_text(json.dumps(served))
    outputs = [TensorSpec(t["name"], t["datatype"], tuple(t["shape"])) for t in signature["outputs"]]
    (repository / name / "config.pbtxt").write_text(config_pbtxt(spec, outputs))
    certify(folder)
    return folder


def certify(folder: Path, peak_rss_bytes: int = 0) -> None:
    """Manifest and certificate over what lies there now."""
    names = [p.name for p in folder.iterdir() if not p.name.startswith(("certificate.", "manifest."))]
    (folder / "manifest.json").write_text(json.dumps({"files": {n: sha256_of(folder / n) for n in sorted(names)}}))
    certificate = {
        "verdict": "passed",
        "manifest_sha256": sha256_of(folder / "manifest.json"),
        "rows": [],
        "memory": {"peak_rss_bytes": peak_rss_bytes},
    }
    (folder / "certificate.cpu.json").write_text(json.dumps(certificate))


def _tensors(values: Any) -> list[dict[str, Any]]:
    return [
        {"name": v.name, "datatype": "FP32", "shape": [d.dim_value or -1 for d in v.type.tensor_type.shape.dim]}
        for v in values
    ]


def settings_for(folder: Path, **changes: Any) -> Settings:
    """Settings of a private Triton with all its files below `folder`."""
    values: dict[str, Any] = {
        "repository": folder / "repository",
        "cache_dir": folder / "cache",
        "triton_home": TRITON_HOME,
        "canary_interval_s": 0.5,
    }
    return Settings(**(values | changes))


_SHARED: pytest.StashKey[EmbeddedTriton] = pytest.StashKey()


def shared_triton(request: pytest.FixtureRequest) -> EmbeddedTriton:
    """One server for every test that only asks it things; started once, stopped with the test run."""
    stash = request.config.stash
    if _SHARED not in stash:
        folder = Path(tempfile.mkdtemp(prefix="lockstep-test-triton-"))
        request.config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        models = standard_models(folder / "repository")
        triton = EmbeddedTriton(folder / "repository", models, settings_for(folder, canary_interval_s=2.0))
        request.config.add_cleanup(triton.stop)
        triton.start(strict=True)
        triton.wait_ready(30)
        stash[_SHARED] = triton
    return stash[_SHARED]


def standard_models(repository: Path) -> tuple[str, ...]:
    """The models of `shared_triton`; their names."""
    colours_model(repository)
    redness_model(repository)
    adder_model(repository)
    slow = {"max_queue_size": 2, "queue_timeout_ms": 5000}
    adder_model(repository, "slow", model_py=SLOW_PY, batch={"opt": 1, "max": 1}, serving=slow)
    return "colours", "redness", "adder", "slow"
