"""From a module to the checked FP32 graph: free batch, folded BatchNorm, module paths, refusals by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("torch", reason="skipped: torch: make setup")

import nets
import torch
from onnx import TensorProto, helper, numpy_helper
from tiny_spec import tiny_spec
from torch import nn

from converters.frozen import freeze
from converters.job import ChildJob
from converters.modules import module_of
from converters.onnx_checked import checked_onnx
from converters.onnx_from_checkpoint import onnx_from_module
from converters.signature import example_inputs
from converters.work import example_batch
from serving.engines.onnxruntime import load
from serving.errors import CheckpointRefused, ConversionError, ModelRefused, NotFrozen, OperatorUnsupported

X = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


def _export(net: Any, folder: Path, **changes: Any) -> str:
    spec = tiny_spec(**changes)
    freeze(net)
    return onnx_from_module(net, None, spec, example_inputs(spec, min(2, spec.batch.max)), folder / "raw.onnx")


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_the_graph_answers_like_the_module_at_any_batch(exporter: str, tmp_path: Path) -> None:
    net = nets.tiny().eval()
    module = torch.jit.trace(net, torch.from_numpy(X[:2])) if exporter == "torchscript" else net
    assert _export(module, tmp_path) == exporter
    report = checked_onnx(tmp_path / "raw.onnx", tmp_path / "model.onnx", tiny_spec())
    engine = load(tmp_path / "model.onnx")
    for n in (1, 5):
        got = engine.run({"images": X[:n]})["logits"]
        np.testing.assert_allclose(got, net(torch.from_numpy(X[:n])).numpy(), rtol=1e-5, atol=1e-5)
    assert [(t.name, t.shape) for t in report.inputs] == [("images", (-1, 1, 8, 8))]
    assert [(t.name, t.shape) for t in report.outputs] == [("logits", (-1, 10))]
    assert "BatchNormalization" not in report.operators
    assert report.batchnorm_left == ()
    assert report.opset >= 17


def test_every_node_knows_its_module(tmp_path: Path) -> None:
    _export(nets.tiny(), tmp_path)
    checked_onnx(tmp_path / "raw.onnx", tmp_path / "model.onnx", tiny_spec())
    modules = {node.op_type: module_of(node) for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert modules["Gemm"] == "head"
    assert modules["Conv"] in ("conv", "bn")


class PreActivation(nn.Module):
    """BatchNorm before the convolution, as in DenseNet: nothing precedes it to fold into."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.conv = nn.Conv2d(1, 10, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 1, 8, 8] -> [n, 10]."""
        return self.conv(torch.relu(self.norm(x))).flatten(1)


def test_a_batchnorm_with_nothing_to_fold_into_is_named(tmp_path: Path) -> None:
    _export(PreActivation(), tmp_path)
    report = checked_onnx(tmp_path / "raw.onnx", tmp_path / "model.onnx", tiny_spec())
    assert report.batchnorm_left == ("norm: is the first layer",)


class Unsupported(nn.Module):
    """An operator that ONNX has no word for."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 1, 8, 8] -> [n, 10]."""
        return torch.special.i1(x).flatten(1)[:, :10]


class Outer(nn.Module):
    """The operator sits in a submodule, which the message must name."""

    def __init__(self) -> None:
        super().__init__()
        self.odd = nn.Sequential(nn.ReLU(), Unsupported())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 1, 8, 8] -> [n, 10]."""
        return self.odd(x)


def test_an_operator_that_onnx_lacks_is_named_with_its_module(tmp_path: Path) -> None:
    with pytest.raises(OperatorUnsupported, match=r"odd\.1 \(as aten.special_i1"):
        _export(Outer(), tmp_path)


class FixedBatch(nn.Module):
    """Takes the batch size as a Python number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[2, 1, 8, 8] -> [2, 10]."""
        if x.shape[0] != 2:
            raise ValueError("two only")
        return x.flatten(1)[:, :10]


def test_a_network_of_one_batch_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="free batch"):
        _export(FixedBatch(), tmp_path)


class OneOnly(nn.Module):
    """Takes one sample at a time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[1, 1, 8, 8] -> [1, 10]."""
        return x.reshape(1, 64)[:, :10] * 2


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_a_network_of_single_samples_is_exported_where_the_spec_has_no_batches(exporter: str, tmp_path: Path) -> None:
    net = OneOnly().eval()
    module = torch.jit.trace(net, torch.from_numpy(X[:1])) if exporter == "torchscript" else net
    assert _export(module, tmp_path, batch={"max": 1}) == exporter
    report = checked_onnx(tmp_path / "raw.onnx", tmp_path / "model.onnx", tiny_spec(batch={"max": 1}))
    assert [t.shape for t in (*report.inputs, *report.outputs)] == [(1, 1, 8, 8), (1, 10)]
    got = load(tmp_path / "model.onnx").run({"images": X[:1]})["logits"]
    np.testing.assert_allclose(got, net(torch.from_numpy(X[:1])).numpy(), rtol=1e-6)


def test_what_is_traced_is_one_sample_where_the_spec_has_no_batches(job: Callable[..., ChildJob]) -> None:
    samples = [{"images": X[0]}]
    assert example_batch(job(None), samples)["images"].shape == (2, 1, 8, 8)
    for inputs in (samples, []):
        assert example_batch(job(None, batch={"max": 1}), inputs)["images"].shape == (1, 1, 8, 8)


class NoBatch(nn.Module):
    """One answer for the whole batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 1, 8, 8] -> [10]."""
        return x.flatten(1)[:, :10].sum(0)


def test_an_output_without_batch_axis_and_another_input_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointRefused, match="no batch axis"):
        _export(NoBatch(), tmp_path)
    with pytest.raises(CheckpointRefused, match="colour"):
        _export(nets.tiny(), tmp_path, preprocess={"width": 8, "height": 8, "colour": "rgb"})


def test_dropout_in_the_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFrozen, match="dropout"):
        _export(nets.always_drops(), tmp_path)


Change = Callable[[onnx.ModelProto], object]


def _conv_bn(change: Change, path: Path) -> None:
    """Conv, BatchNormalization, flatten; changed, then written."""
    w = numpy_helper.from_array(np.ones((10, 1, 8, 8), np.float32), "w")
    rest = [numpy_helper.from_array(np.ones(10, np.float32), name) for name in "sbmv"]
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["c"], name="conv"),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"], name="norm"),
        helper.make_node("Flatten", ["n"], ["logits"], name="flat"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("images", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [value("logits", TensorProto.FLOAT, ["n", 10])],
        [w, *rest],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    change(model)
    path.write_bytes(model.SerializeToString())


def test_an_onnx_file_is_folded_too(tmp_path: Path) -> None:
    _conv_bn(lambda model: None, tmp_path / "raw.onnx")
    report = checked_onnx(tmp_path / "raw.onnx", tmp_path / "model.onnx", tiny_spec())
    assert report.operators == {"Conv": 1, "Flatten": 1}


def test_an_unfolded_batchnorm_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxslim.slim", lambda model: model)
    _conv_bn(lambda model: None, tmp_path / "raw.onnx")
    with pytest.raises(ConversionError, match="BatchNormalization in norm was not folded into the Conv in conv"):
        checked_onnx(tmp_path / "raw.onnx", tmp_path / "model.onnx", tiny_spec())


def _foreign(model: onnx.ModelProto) -> None:
    model.graph.node[2].domain = "com.example"
    model.graph.node[2].op_type = "Sorcery"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def _fixed(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        (_foreign, OperatorUnsupported, "com.example.Sorcery in flat"),
        (
            lambda m: m.graph.input[0].type.tensor_type.shape.dim[0].__setattr__("dim_value", 2),
            ConversionError,
            "fixed",
        ),
        (lambda m: m.graph.node[0].input.__setitem__(1, "nothing"), ModelRefused, "checker"),
        (lambda m: m.graph.node[0].attribute.append(helper.make_attribute("odd", 1)), ModelRefused, "checker"),
    ],
)
def test_a_malformed_onnx_file_is_refused(change: Change, kind: type[Exception], says: str, tmp_path: Path) -> None:
    _conv_bn(change, tmp_path / "raw.onnx")
    with pytest.raises(kind, match=says):
        checked_onnx(tmp_path / "raw.onnx", tmp_path / "model.onnx", tiny_spec())
