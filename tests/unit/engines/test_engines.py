"""Engines on a small graph: right answers, any batch, facts from the runtime, and a refusal for everything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.engines import open_engine
from serving.engines.layers import LayerDtype, dominant_dtype
from serving.engines.openvino import bf16_supported
from serving.errors import EngineFailed
from serving.ports import Engine
from serving.types import FloatArray

RNG = np.random.default_rng(7)
WEIGHT = RNG.standard_normal((4, 3, 1, 1)).astype(np.float32)


def _expected(x: FloatArray) -> FloatArray:
    return np.maximum(np.einsum("oc,nchw->nohw", WEIGHT[:, :, 0, 0], x), 0)


@pytest.fixture
def version_dir(tmp_path: Path) -> Path:
    """model.onnx (1x1 convolution, ReLU) and the same as an OpenVINO IR, in one folder."""
    import openvino as ov

    shape = ["batch", 3, 5, 7]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, 5, 7])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    core = ov.Core()
    ov.save_model(core.read_model(tmp_path / "model.onnx"), tmp_path / "engine.openvino.xml", compress_to_fp16=False)
    return tmp_path


@pytest.fixture(params=["openvino", "onnxruntime"])
def engine(request: pytest.FixtureRequest, version_dir: Path) -> Engine:
    return open_engine(request.param, version_dir)


def _batch(n: int) -> FloatArray:
    return RNG.standard_normal((n, 3, 5, 7)).astype(np.float32)


def test_it_computes_any_batch_and_keeps_earlier_answers(engine: Engine) -> None:
    first, second = _batch(1), _batch(3)
    a = engine.run({"x": first})["y"]
    b = engine.run({"x": second})["y"]
    np.testing.assert_allclose(a, _expected(first), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(b, _expected(second), rtol=1e-5, atol=1e-5)


def test_a_strided_view_is_read_as_it_looks(engine: Engine) -> None:
    x = _batch(4)[::-1, :, :, ::-1]
    np.testing.assert_allclose(engine.run({"x": x})["y"], _expected(x), rtol=1e-5, atol=1e-5)


def test_info_is_the_runtimes_own(engine: Engine) -> None:
    info = engine.info
    assert info.precision == "f32"
    assert [(t.name, t.datatype, t.shape) for t in info.inputs] == [("x", "FP32", (-1, 3, 5, 7))]
    assert [(t.name, t.datatype, t.shape) for t in info.outputs] == [("y", "FP32", (-1, 4, 5, 7))]
    assert info.library_version
    assert info.threads == 1


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({}, "expected the inputs"),
        ({"x": np.zeros((1, 3, 5, 7), np.float32), "z": np.zeros(1, np.float32)}, "expected the inputs"),
        ({"x": np.zeros((1, 3, 5, 7), np.float64)}, "expected FP32"),
        ({"x": np.zeros((1, 3, 7, 5), np.float32)}, "expected shape"),
        ({"x": np.zeros((3, 5, 7), np.float32)}, "expected shape"),
        ({"x": np.zeros((0, 3, 5, 7), np.float32)}, "expected shape"),
    ],
)
def test_a_batch_of_another_layout_is_refused(engine: Engine, inputs: dict[str, FloatArray], says: str) -> None:
    with pytest.raises(EngineFailed, match=says):
        engine.run(inputs)


def test_a_closed_engine_says_so(engine: Engine) -> None:
    engine.close()
    with pytest.raises(EngineFailed, match="closed"):
        engine.run({"x": _batch(1)})


@pytest.mark.skipif(not bf16_supported(), reason="skipped: bf16: a CPU with AMX or avx512_bf16")
def test_bf16_is_reported_only_because_the_layers_run_in_it(version_dir: Path) -> None:
    x = _batch(2)
    engine = open_engine("openvino", version_dir, precision="bf16")
    got = engine.run({"x": x})["y"]
    assert engine.info.precision == "bf16"
    # bf16 has 8 bits of mantissa: near, and by its error visibly not f32.
    np.testing.assert_allclose(got, _expected(x), rtol=0.05, atol=0.1)
    assert np.abs(got - _expected(x)).max() > 1e-4


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_broken_file_and_a_missing_one_are_named(name: str, version_dir: Path) -> None:
    for path in version_dir.iterdir():
        path.write_bytes(b"not a model")
    with pytest.raises(EngineFailed, match="cannot be loaded"):
        open_engine(name, version_dir)
    with pytest.raises(EngineFailed, match="does not exist"):
        open_engine(name, version_dir / "nowhere")


def test_unknown_engine_and_precision(version_dir: Path) -> None:
    with pytest.raises(EngineFailed, match="expected one of"):
        open_engine("caffe", version_dir)
    for name in ("openvino", "onnxruntime"):
        with pytest.raises(EngineFailed, match="precision"):
            open_engine(name, version_dir, precision="int4")


def test_tensorrt_without_a_gpu_says_so(version_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoDevice:
        @staticmethod
        def cudaGetDeviceCount() -> tuple[int, int]:
            return (35, 0)

    monkeypatch.setattr("serving.engines.tensorrt._cuda", lambda: NoDevice)
    with pytest.raises(EngineFailed, match="no usable GPU"):
        open_engine("tensorrt_rtx", version_dir)


def test_the_dominant_dtype_is_that_of_the_multiplying_layers() -> None:
    layers = [LayerDtype("c", "Convolution", "bf16"), *(LayerDtype(f"e{i}", "Eltwise", "f32") for i in range(9))]
    assert dominant_dtype(layers) == "bf16"
    assert dominant_dtype([]) == "unknown"
