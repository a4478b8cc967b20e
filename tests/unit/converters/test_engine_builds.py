"""Engine files: OpenVINO IR that answers, TensorRT-RTX whose dtypes are those of the parsed network, not of a name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_spec import tiny_spec

from converters import tensorrt_build
from converters.engine_from_onnx import openvino_from_onnx
from converters.precision import half_precision
from converters.tensorrt_build import check_ratio, profile_of, size_ratio, tensorrt_from_onnx
from serving.engines import open_engine
from serving.errors import BuildFailed, ConversionError, OperatorUnsupported
from serving.types import TensorSpec

RNG = np.random.default_rng(2)
SAMPLES = [{"images": RNG.standard_normal((1, 8, 8)).astype(np.float32)} for _ in range(2)]
WIDTH = 1024


def _graph(path: Path, operator: str = "Relu") -> Path:
    """Flatten, two products of 64x1024 and 1024x10 weights, one activation between: enough weights to measure."""
    weights = [
        numpy_helper.from_array((RNG.standard_normal(shape) / 16).astype(np.float32), name)
        for name, shape in (("a", (64, WIDTH)), ("b", (WIDTH, WIDTH)), ("c", (WIDTH, 10)))
    ]
    nodes = [
        helper.make_node("Flatten", ["images"], ["f"], name="flat"),
        helper.make_node("MatMul", ["f", "a"], ["ha"], name="first"),
        helper.make_node(operator, ["ha"], ["hb"], name="middle"),
        helper.make_node("MatMul", ["hb", "b"], ["hc"], name="second"),
        helper.make_node("MatMul", ["hc", "c"], ["logits"], name="last"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("images", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [value("logits", TensorProto.FLOAT, ["batch", 10])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.fixture
def graphs(tmp_path: Path) -> tuple[Path, Path]:
    """(FP16 graph, FP32 graph)."""
    fp32 = _graph(tmp_path / "model.onnx")
    half_precision(fp32, tmp_path / "model.fp16.onnx", SAMPLES, tiny_spec())
    return tmp_path / "model.fp16.onnx", fp32


def test_the_openvino_ir_answers_like_the_graph_and_stores_halves(graphs: tuple[Path, Path], tmp_path: Path) -> None:
    path = openvino_from_onnx(graphs[1], tmp_path)
    assert path.name == "engine.openvino.xml"
    assert path.with_suffix(".bin").stat().st_size < 0.55 * graphs[1].stat().st_size
    x = {"images": np.stack([sample["images"] for sample in SAMPLES])}
    expected = open_engine("onnxruntime", tmp_path).run(x)["logits"]
    np.testing.assert_allclose(open_engine("openvino", tmp_path).run(x)["logits"], expected, atol=0.02)


def test_what_openvino_lacks_is_named(tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    model = onnx.load(_graph(source))
    model.graph.node[2].op_type = "Det"
    source.write_bytes(model.SerializeToString())
    with pytest.raises(OperatorUnsupported, match="Det in middle"):
        openvino_from_onnx(source, tmp_path)
    source.write_bytes(b"nothing")
    with pytest.raises(BuildFailed, match=r"cannot build model\.onnx"):
        openvino_from_onnx(source, tmp_path)


@pytest.mark.needs("tensorrt_rtx")
def test_tensorrt_rtx_builds_ahead_of_time_with_read_back_dtypes(graphs: tuple[Path, Path], tmp_path: Path) -> None:
    lines: list[str] = []
    spec = tiny_spec(batch={"opt": 4, "max": 16})
    report = tensorrt_from_onnx(*graphs, tmp_path, spec, progress=lines.append)
    assert [engine.file for engine in report.engines] == [
        "engine.tensorrt_rtx.sm86_sm89_sm120.trt",
        "engine.tensorrt_rtx.sm75.trt",
    ]
    assert report.left_out == {}
    for engine in report.engines:
        assert (tmp_path / engine.file).stat().st_size == engine.size_bytes
        assert engine.ratio is not None
        assert engine.ratio < 0.65
        assert engine.dtypes_from == "parsed network"
        assert {t.datatype for t in (*engine.inputs, *engine.outputs)} == {"FP32"}
        heavy = {layer.dtype for layer in engine.layers if layer.kind == "MATRIX_MULTIPLY"}
        assert heavy == {"f16"}
        assert engine.profile["images"] == ((1, 1, 8, 8), (4, 1, 8, 8), (16, 1, 8, 8))
    assert any("build" in line for line in lines)


@pytest.mark.needs("tensorrt_rtx")
def test_an_fp32_engine_never_gets_an_fp16_file(graphs: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="no FP16 layer"):
        tensorrt_from_onnx(graphs[1], graphs[1], tmp_path, tiny_spec())
    assert not list(tmp_path.glob("*.trt"))


@pytest.mark.needs("tensorrt_rtx")
def test_layers_kept_in_fp32_leave_sm75_out_by_name(tmp_path: Path) -> None:
    spec = tiny_spec(keep_fp32=["second"])
    fp32 = _graph(tmp_path / "model.onnx")
    half_precision(fp32, tmp_path / "half.onnx", SAMPLES, spec)
    report = tensorrt_from_onnx(tmp_path / "half.onnx", fp32, tmp_path, spec)
    assert [engine.targets for engine in report.engines] == [("SM86", "SM89", "SM120")]
    assert report.left_out == {"sm75": "FP32 MATRIX_MULTIPLY in second: SM75 has none"}
    kept = [layer.name for layer in report.engines[0].layers if (layer.kind, layer.dtype) == ("MATRIX_MULTIPLY", "f32")]
    assert kept == ["second"]


@pytest.mark.needs("tensorrt_rtx")
def test_an_operator_that_tensorrt_lacks_is_named_with_its_module(tmp_path: Path) -> None:
    source = _graph(tmp_path / "model.onnx", "Hardmax")
    model = onnx.load(source)
    model.graph.node[2].metadata_props.add(key="lockstep.module", value="neck.odd")
    model.graph.node[2].op_type = "Det"
    source.write_bytes(model.SerializeToString())
    with pytest.raises(OperatorUnsupported, match="Det in neck.odd"):
        tensorrt_from_onnx(source, source, tmp_path, tiny_spec(precision="fp32"))


@pytest.mark.needs("tensorrt_rtx")
def test_unknown_gpu_and_unreadable_graph(graphs: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="does not know SM90"):
        tensorrt_from_onnx(*graphs, tmp_path, tiny_spec(), targets=[("SM90",)])
    graphs[0].write_bytes(b"nothing")
    with pytest.raises(ConversionError):
        tensorrt_from_onnx(*graphs, tmp_path, tiny_spec())


def test_sizes_that_betray_an_fp32_engine() -> None:
    check_ratio("e.trt", 0.52, 0.0)
    check_ratio("e.trt", None, 0.0)
    check_ratio("e.trt", 0.80, 0.5)
    with pytest.raises(BuildFailed, match="does not hold halves"):
        check_ratio("e.trt", 0.65, 0.0)
    with pytest.raises(BuildFailed, match="does not hold halves"):
        check_ratio("e.trt", 0.99, 0.5)


def test_sizes_are_compared_only_where_weights_are_most_of_the_file() -> None:
    noise = RNG.bytes(1 << 20)
    weights = len(noise) // 4
    assert size_ratio(noise[: 1 << 19], noise, weights, same_gpus=True) == 0.5
    assert size_ratio(noise[: 1 << 19], noise, weights // 2, same_gpus=True) is None
    padded = noise[: 1 << 19] + b"\0" * (1 << 20)
    ratio = size_ratio(padded, noise, weights, same_gpus=False)
    assert ratio == pytest.approx(0.5, abs=0.02)


def test_profiles_come_from_the_spec() -> None:
    spec = tiny_spec(
        preprocess={"width": 0, "height": 0, "resize": "min_max_side", "min_side": 320, "max_side": 640},
        batch={"opt": 2, "max": 4},
    )
    shapes = profile_of([TensorSpec("images", "FP32", (-1, 3, -1, -1))], spec)
    # 32: max_side leaves the short side of a long picture that little.
    assert shapes == {"images": ((1, 3, 32, 32), (2, 3, 480, 480), (4, 3, 640, 640))}
    with pytest.raises(BuildFailed, match="axis 2 is free"):
        profile_of([TensorSpec("other", "FP32", (-1, 3, -1))], spec)


def test_a_library_that_is_missing_says_how_to_get_it(
    graphs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(tensorrt_build, "import_module", absent)
    with pytest.raises(BuildFailed, match="not installed"):
        tensorrt_from_onnx(*graphs, tmp_path, tiny_spec())


def test_the_flag_of_strong_typing_is_set_where_it_exists() -> None:
    from converters.tensorrt_network import _flags

    ten = SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1))
    eleven = SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace())
    assert (_flags(ten), _flags(eleven)) == (2, 0)
