"""Half precision in the graph: right types, right answers, and what would overflow stays FP32 by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_spec import tiny_spec

from converters.half_plan import typed
from converters.precision import half_precision, run_fp16_emulated
from serving.engines.onnxruntime import load
from serving.errors import PrecisionFailed
from serving.types import FloatArray

RNG = np.random.default_rng(5)
SAMPLES = [{"images": RNG.standard_normal((1, 8, 8)).astype(np.float32)} for _ in range(3)]
BATCH = np.stack([sample["images"] for sample in SAMPLES])
Weights = dict[str, FloatArray]


def _graph(path: Path, nodes: Sequence[Any], weights: dict[str, Any], shape: Sequence[Any] = ("n", 1, 8, 8)) -> Path:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        list(nodes),
        "g",
        [value("images", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [value("logits", TensorProto.FLOAT, list(shape))],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def _node(operator: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    return helper.make_node(operator, inputs, [output], name=f"{output}_node", **attributes)


def _types(path: Path) -> dict[str, int]:
    graph = typed(onnx.load(path)).graph
    return {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output, *graph.value_info)}


@pytest.fixture
def convolution(tmp_path: Path) -> Path:
    w = RNG.standard_normal((1, 1, 3, 3)).astype(np.float32)
    nodes = [_node("Conv", ["images", "w"], "c", pads=[1, 1, 1, 1]), _node("Sigmoid", ["c"], "logits")]
    return _graph(tmp_path / "model.onnx", nodes, {"w": w})


def test_halves_inside_fp32_at_the_edges_and_a_smaller_file(convolution: Path, tmp_path: Path) -> None:
    report = half_precision(convolution, tmp_path / "half.onnx", SAMPLES, tiny_spec())
    types = _types(tmp_path / "half.onnx")
    assert types["images"] == types["logits"] == TensorProto.FLOAT
    assert types["c"] == TensorProto.FLOAT16
    weight = onnx.load(tmp_path / "half.onnx").graph.initializer[0]
    assert weight.data_type == TensorProto.FLOAT16
    assert (report.half, report.casts, report.kept) == (2, 2, ())
    assert report.samples == 3


def test_a_graph_fixed_to_one_sample_is_measured_one_by_one_where_the_spec_says_so(
    convolution: Path, tmp_path: Path
) -> None:
    model = onnx.load(convolution)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, convolution)
    assert half_precision(convolution, tmp_path / "half.onnx", SAMPLES, tiny_spec(batch={"max": 1})).samples == 3
    with pytest.raises(PrecisionFailed, match="cannot be measured on the samples"):
        half_precision(convolution, tmp_path / "half.onnx", SAMPLES, tiny_spec())


def test_the_answer_is_near_the_fp32_one_and_rounded(convolution: Path, tmp_path: Path) -> None:
    half_precision(convolution, tmp_path / "half.onnx", SAMPLES, tiny_spec())
    expected = load(convolution).run({"images": BATCH})["logits"]
    got = run_fp16_emulated(tmp_path / "half.onnx", {"images": BATCH})["logits"]
    np.testing.assert_allclose(got, expected, atol=5e-3)
    np.testing.assert_array_equal(got, got.astype(np.float16).astype(np.float32))
    assert np.abs(got - expected).max() > 1e-5, "nothing was rounded, so this was computed in FP32"


def test_every_nodes_answer_is_rounded_not_only_the_last(tmp_path: Path) -> None:
    """In half 1 + 2048 is 2048 or 2050, so (1 + 2048) - 2048 is never 1: an FP32 run in between would give 1."""
    nodes = [_node("Add", ["images", "big"], "sum"), _node("Sub", ["sum", "big"], "logits")]
    path = _graph(tmp_path / "m.onnx", nodes, {"big": np.float32([2048])})
    half_precision(path, tmp_path / "half.onnx", SAMPLES, tiny_spec())
    got = run_fp16_emulated(tmp_path / "half.onnx", {"images": np.ones((1, 1, 8, 8), np.float32)})["logits"]
    assert set(np.unique(got)) <= {0.0, 2.0}
    plain = load(tmp_path / "half.onnx").run({"images": np.ones((1, 1, 8, 8), np.float32)})["logits"]
    assert got.shape == plain.shape


def _overflowing(path: Path) -> Path:
    nodes = [
        _node("Mul", ["images", "up"], "huge"),
        _node("Relu", ["huge"], "kept"),
        _node("Mul", ["kept", "down"], "back"),
        _node("Neg", ["back"], "logits"),
    ]
    return _graph(path, nodes, {"up": np.float32([16000]), "down": np.float32([1 / 16000])})


def test_what_overflows_on_real_samples_is_kept_in_fp32_by_name(tmp_path: Path) -> None:
    path = _overflowing(tmp_path / "m.onnx")
    report = half_precision(path, tmp_path / "half.onnx", SAMPLES, tiny_spec())
    assert [kept.name for kept in report.kept] == ["huge_node", "kept_node", "back_node"]
    assert "half holds 65504" in report.kept[0].reason
    assert report.kept[0].largest == pytest.approx(np.abs(BATCH).max() * 16000, rel=1e-5)
    assert report.largest[0][0] in ("huge", "kept")
    got = run_fp16_emulated(tmp_path / "half.onnx", {"images": BATCH})["logits"]
    np.testing.assert_allclose(got, -np.maximum(BATCH, 0), atol=5e-3)


def test_without_the_measurement_the_same_graph_overflows(tmp_path: Path) -> None:
    path = _overflowing(tmp_path / "m.onnx")
    small = [{"images": sample["images"] * 0.1} for sample in SAMPLES]
    report = half_precision(path, tmp_path / "half.onnx", small, tiny_spec())
    assert report.kept == ()
    got = run_fp16_emulated(tmp_path / "half.onnx", {"images": 2 * BATCH})["logits"]
    assert np.isinf(got[BATCH > 2.1]).all()
    assert (BATCH > 2.1).any()


@pytest.mark.parametrize(
    ("weight", "operator", "says"),
    [(1e6, "Mul", "weight w reaches 1e+06"), (1e-12, "Add", "weight w stays under 1e-12")],
)
def test_a_constant_that_half_cannot_hold_keeps_its_node(
    weight: float, operator: str, says: str, tmp_path: Path
) -> None:
    nodes = [_node("Relu", ["images"], "r"), _node(operator, ["r", "w"], "s"), _node("Tanh", ["s"], "logits")]
    path = _graph(tmp_path / "m.onnx", nodes, {"w": np.float32([weight])})
    # Products with 1e6 stay in range on these samples, so only the constant itself can be the reason.
    samples = [{"images": np.full((1, 8, 8), 1e-3, np.float32)}]
    report = half_precision(path, tmp_path / "half.onnx", samples, tiny_spec())
    assert [(kept.name, kept.reason[: len(says)]) for kept in report.kept] == [("s_node", says)]


@pytest.mark.parametrize("keep", ["Tanh", "logits_node", "log*_node"])
def test_the_spec_keeps_by_operator_node_or_pattern(keep: str, tmp_path: Path) -> None:
    nodes = [_node("Relu", ["images"], "r"), _node("Tanh", ["r"], "logits")]
    path = _graph(tmp_path / "m.onnx", nodes, {})
    report = half_precision(path, tmp_path / "half.onnx", SAMPLES, tiny_spec(keep_fp32=[keep]))
    assert [(kept.name, kept.reason) for kept in report.kept] == [("logits_node", f"the spec keeps {keep}")]
    assert report.kept_operators == {"Tanh": 1}


def test_a_name_that_keeps_nothing_is_an_error(convolution: Path, tmp_path: Path) -> None:
    with pytest.raises(PrecisionFailed, match="'Softmax', which is no operator"):
        half_precision(convolution, tmp_path / "half.onnx", SAMPLES, tiny_spec(keep_fp32=["Softmax"]))
    with pytest.raises(PrecisionFailed, match="no node can be half"):
        half_precision(convolution, tmp_path / "half.onnx", SAMPLES, tiny_spec(keep_fp32=["*"]))


def test_operators_without_float16_and_fixed_inputs(tmp_path: Path) -> None:
    """Resize keeps its scales in float; shape arithmetic stays FP32 (2049 is no half)."""
    nodes = [
        _node("Shape", ["images"], "shape", start=2, end=3),
        _node("Cast", ["shape"], "side", to=TensorProto.FLOAT),
        _node("Div", ["side", "side"], "one"),
        _node("Concat", ["ones", "one", "one"], "scales", axis=0),
        _node("Resize", ["images", "", "scales"], "logits", mode="nearest"),
    ]
    path = _graph(tmp_path / "m.onnx", nodes, {"ones": np.float32([1, 1])}, ["n", 1, "h", "w"])
    report = half_precision(path, tmp_path / "half.onnx", SAMPLES, tiny_spec())
    assert {kept.operator: kept.reason for kept in report.kept} == {
        "Div": "shape arithmetic",
        "Concat": "shape arithmetic",
    }
    assert _types(tmp_path / "half.onnx")["scales"] == TensorProto.FLOAT
    got = run_fp16_emulated(tmp_path / "half.onnx", {"images": BATCH})["logits"]
    np.testing.assert_array_equal(got, BATCH.astype(np.float16).astype(np.float32))


def test_a_branch_and_what_it_captures_stay_fp32(tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info("o", TensorProto.FLOAT, ["n", 1, 8, 8])]
    body = helper.make_graph([helper.make_node("Neg", ["r"], ["o"])], "b", [], ends)
    nodes = [
        _node("Relu", ["images"], "r"),
        _node("Tanh", ["r"], "t"),
        _node("If", ["yes"], "branch", then_branch=body, else_branch=body),
        _node("Add", ["branch", "t"], "logits"),
    ]
    path = _graph(tmp_path / "m.onnx", nodes, {"yes": np.bool_(True)})
    report = half_precision(path, tmp_path / "half.onnx", SAMPLES, tiny_spec())
    assert {kept.name for kept in report.kept} == {"r_node", "branch_node"}
    expected = np.tanh(np.maximum(BATCH, 0)) - np.maximum(BATCH, 0)
    got = run_fp16_emulated(tmp_path / "half.onnx", {"images": BATCH})["logits"]
    np.testing.assert_allclose(got, expected, atol=5e-3)


def test_a_weight_used_on_both_sides_exists_in_both_types(tmp_path: Path) -> None:
    nodes = [_node("Mul", ["images", "w"], "a"), _node("Tanh", ["a"], "t"), _node("Mul", ["t", "w"], "logits")]
    path = _graph(tmp_path / "m.onnx", nodes, {"w": np.float32([1.5])})
    half_precision(path, tmp_path / "half.onnx", SAMPLES, tiny_spec(keep_fp32=["logits_node"]))
    kinds = sorted(tensor.data_type for tensor in onnx.load(tmp_path / "half.onnx").graph.initializer)
    assert kinds == [TensorProto.FLOAT, TensorProto.FLOAT16]


def test_an_infinite_mask_is_no_overflow(tmp_path: Path) -> None:
    mask = np.zeros((8, 8), np.float32)
    mask[:, 4:] = -np.inf
    nodes = [_node("Add", ["images", "mask"], "m"), _node("Softmax", ["m"], "logits", axis=-1)]
    path = _graph(tmp_path / "m.onnx", nodes, {"mask": mask})
    report = half_precision(path, tmp_path / "half.onnx", SAMPLES, tiny_spec())
    assert report.kept == ()
    got = run_fp16_emulated(tmp_path / "half.onnx", {"images": BATCH})["logits"]
    np.testing.assert_allclose(got[..., :4].sum(-1), 1, atol=2e-3)
    assert not got[..., 4:].any()


def test_samples_of_another_layout_are_an_error(convolution: Path, tmp_path: Path) -> None:
    with pytest.raises(PrecisionFailed, match="cannot be measured"):
        half_precision(convolution, tmp_path / "half.onnx", [{"x": SAMPLES[0]["images"]}], tiny_spec())
