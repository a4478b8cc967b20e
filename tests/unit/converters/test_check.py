"""`lockstep check`: right counts, and each target's own answer with module paths, without any weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from converters.check import CheckReport, check_model
from converters.multiply_adds import graph_costs
from converters.operators import TargetVerdict, target_verdicts
from serving.errors import SpecInvalid
from serving.spec import ModelSpec

HERE = Path(__file__).parent


def _model(path: Path, nodes: list[onnx.NodeProto], shapes: dict[str, tuple[int, ...]], source: list[object]) -> Path:
    value = helper.make_tensor_value_info
    weights = [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in shapes.items()]
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, source)], [value("y", TensorProto.FLOAT, None)], weights
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.mark.parametrize(
    ("operator", "attributes", "weights", "shape", "expected"),
    [
        ("Conv", {"group": 2, "pads": [1, 1, 1, 1]}, {"w": (8, 2, 3, 3)}, (4, 5, 6), 5 * 6 * 8 * 2 * 9),
        ("ConvTranspose", {"strides": [2, 2]}, {"w": (4, 3, 2, 2)}, (4, 5, 6), 5 * 6 * 4 * 3 * 4),
        ("MatMul", {}, {"w": (7, 3)}, (5, 7), 5 * 7 * 3),
        ("Gemm", {"transB": 1}, {"w": (3, 7)}, (7,), 7 * 3),
        ("LSTM", {"hidden_size": 5}, {"w": (1, 20, 7), "r": (1, 20, 5)}, (2, 7), 2 * 20 * (7 + 5)),
    ],
)
def test_multiply_adds_by_hand(
    operator: str,
    attributes: dict[str, object],
    weights: dict[str, tuple[int, ...]],
    shape: tuple[int, ...],
    expected: int,
    tmp_path: Path,
) -> None:
    node = helper.make_node(operator, ["x", *weights], ["y"], **attributes)
    path = _model(tmp_path / "m.onnx", [node], weights, ["n", *shape])
    costs = graph_costs(path, {"x": np.zeros((1, *shape), np.float32)})
    assert costs.multiply_adds == expected
    assert costs.parameters == sum(int(np.prod(s)) for s in weights.values())


def test_the_last_feature_map_is_the_last_convolutions(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="first", strides=[2, 2]),
        helper.make_node("Conv", ["a", "w"], ["b"], name="second", strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["b"], ["y"], name="pool"),
    ]
    path = _model(tmp_path / "m.onnx", nodes, {"w": (4, 4, 1, 1)}, ["n", 4, 16, 12])
    costs = graph_costs(path, {"x": np.zeros((1, 4, 16, 12), np.float32)})
    assert (costs.last_feature_map, costs.last_feature_module) == ((4, 4, 3), "second")


def test_a_target_that_lacks_an_operator_names_it(tmp_path: Path) -> None:
    node = helper.make_node("Det", ["x"], ["y"], name="determinant")
    path = _model(tmp_path / "m.onnx", [node], {}, ["n", 3, 3])
    spec = ModelSpec.model_validate(
        {"name": "m", "task": "raw", "inputs": [{"name": "x", "shape": [3, 3]}], "precision": "fp32",
         "checkpoint": {"format": "onnx"}}
    )  # fmt: skip
    verdicts = {target.target: target for target in target_verdicts(path, spec)}
    assert verdicts["onnxruntime"].verdict == "supported"
    assert verdicts["openvino"].verdict == "refused"
    assert "Det in determinant" in verdicts["openvino"].reason


@pytest.mark.needs("torch", "tensorrt_rtx")
def test_a_spec_without_weights_is_checked_whole(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text((HERE / "nets.py").read_text())
    value = {
        "name": "tiny",
        "task": "classification",
        "checkpoint": {"path": "does-not-exist.pt"},
        "factory": {"callable": "nets:tiny"},
        "preprocess": {"width": 8, "height": 8, "colour": "grey"},
        "labels": ["a", "b"],
        "outputs": ["logits"],
        "constants": {"source": "nets:does_not_exist"},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(value))
    report = check_model(tmp_path / "tiny.yaml", progress=lambda line: None)
    assert report.passed
    assert report.parameters == 4 * 9 + 4 + 4 + 4 + 40 + 10
    assert report.multiply_adds == 8 * 8 * 4 * 9 + 40
    assert report.last_feature_map == (4, 8, 8)
    assert {target.target: target.verdict for target in report.targets} == {
        "onnxruntime": "supported",
        "openvino": "supported",
        "tensorrt_rtx": "supported",
    }
    assert json.loads(json.dumps(report.to_dict()))["outputs"][0]["shape"] == [-1, 10]
    console = Console(width=200, record=True, quiet=True)
    console.print(report.to_table())


def test_a_network_that_is_its_own_file_needs_it(tmp_path: Path) -> None:
    value = {"name": "m", "task": "raw", "inputs": [{"name": "x", "shape": [3]}], "outputs": ["y"],
             "checkpoint": {"format": "onnx"}}  # fmt: skip
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(value))
    with pytest.raises(SpecInvalid, match=r"checkpoint\.path"):
        check_model(tmp_path / "m.yaml", progress=lambda line: None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "clasification"}, "unknown task 'clasification'"),
        ({"task": "detection", "outputs": [], "options": {"decode": "yolo5"}}, r"options\.decode"),
        ({"thresholds": {"default": {"score_treshold": 0.5}}}, "unknown parameter 'score_treshold'"),
        ({"parity": {"gates": {"engine": {"cosine": 0.5}}}}, "looser than the default"),
    ],
)
def test_what_a_conversion_refuses_in_the_yaml_is_refused(
    changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    value = {
        "name": "tiny", "task": "classification", "checkpoint": {"path": "none.pt"}, "outputs": ["logits"],
        "factory": {"callable": "nets:tiny"}, "preprocess": {"width": 8, "height": 8, "colour": "grey"},
    }  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**value, **changes}))
    with pytest.raises(SpecInvalid, match=words):
        check_model(tmp_path / "tiny.yaml", progress=lambda line: None)


def test_a_target_that_is_none_of_the_engines_decides_nothing() -> None:
    targets = (TargetVerdict("onnxruntime", "supported"), TargetVerdict("openvino", "refused", "Det"))
    report = CheckReport("m", "raw", (), (), 0, 0, (), "", {}, targets, engines=("onnxruntime", "openvino"))
    assert not report.passed
    assert replace(report, engines=("onnxruntime", "tensorrt")).passed
