"""An ONNX file as the checkpoint: strict names, real numbers, evaluation mode; it is its own reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters.arrays import load_samples, save_samples
from converters.job import ChildJob, Limits
from converters.work import do
from serving.errors import CheckpointRefused, ConversionError, NotFrozen, SpecInvalid

RNG = np.random.default_rng(3)
WEIGHT = RNG.standard_normal((10, 1, 8, 8)).astype(np.float32)
Change = Callable[[onnx.ModelProto], object]


def _model() -> onnx.ModelProto:
    ones = np.ones(10, np.float32)
    weights = [numpy_helper.from_array(WEIGHT, "w"), *(numpy_helper.from_array(ones, name) for name in "sbmv")]
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["c"], name="conv"),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"], name="norm", epsilon=0.0),
        helper.make_node("Flatten", ["n"], ["logits"], name="flat"),
    ]
    value = helper.make_tensor_value_info
    ends = [value("images", TensorProto.FLOAT, ["n", 1, 8, 8])], [value("logits", TensorProto.FLOAT, ["n", 10])]
    graph = helper.make_graph(nodes, "g", *ends, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture
def run(job: Callable[..., ChildJob], tmp_path: Path) -> Callable[..., ChildJob]:
    """run(change) writes the changed model and does the child's job in this process."""

    def convert(change: Change = lambda model: None, side: int = 8, **spec: object) -> ChildJob:
        model = _model()
        change(model)
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
        samples = [{"images": RNG.standard_normal((1, side, side)).astype(np.float32)} for _ in range(3)]
        save_samples(tmp_path / "in.npz", samples)
        task = replace(
            job(tmp_path / "m.onnx", checkpoint={"format": "onnx"}, factory=None, **spec), inputs=tmp_path / "in.npz"
        )
        report = do(task, Limits(), {}, lambda line: None)
        assert (report.load.format, report.exporter, report.samples) == ("onnx", "none", 3)
        return task

    return convert


def test_it_passes_through_and_is_its_own_reference(run: Callable[..., ChildJob], tmp_path: Path) -> None:
    task = run()
    answers = np.stack([sample["logits"] for sample in load_samples(task.folder / "reference.npz")])
    x = np.stack([sample["images"] for sample in load_samples(tmp_path / "in.npz")])
    # BatchNormalization with mean 1, variance 1, scale 1 and bias 1 changes nothing.
    np.testing.assert_allclose(answers, np.einsum("ochw,nchw->no", WEIGHT, x), rtol=1e-4, atol=1e-4)
    assert onnx.load(task.folder / "model.raw.onnx").graph.node[0].op_type == "Conv"


def _external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")


def test_external_data_beside_the_file_ends_up_inside(run: Callable[..., ChildJob], tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    task = run(_external)
    inside = onnx.load(task.folder / "model.raw.onnx", load_external_data=False).graph.initializer[0]
    np.testing.assert_array_equal(numpy_helper.to_array(inside), WEIGHT)


def _nan(model: onnx.ModelProto) -> None:
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.full(10, np.nan, np.float32), "s"))


def _training(model: onnx.ModelProto) -> None:
    model.graph.node[1].attribute.append(helper.make_attribute("training_mode", 1))


def _dropout(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.bool_(True), "yes"))
    model.graph.node.append(helper.make_node("Dropout", ["n", "", "yes"], ["d"], name="drop"))


def _random(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("RandomNormalLike", ["n"], ["r"], name="noise"))


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        (_nan, CheckpointRefused, r"s \(NaN\)"),
        (_training, NotFrozen, r"norm \(BatchNormalization\)"),
        (_dropout, NotFrozen, r"drop \(Dropout\)"),
        (_random, NotFrozen, r"noise \(RandomNormalLike\)"),
        (lambda m: setattr(m.graph.input[0], "name", "x"), SpecInvalid, r"inputs are \['x'\]"),
        (lambda m: setattr(m.graph.output[0], "name", "y"), SpecInvalid, r"outputs are \['y'\]"),
    ],
)
def test_what_is_wrong_is_named(
    change: Change, kind: type[ConversionError], says: str, run: Callable[..., ChildJob]
) -> None:
    with pytest.raises(kind, match=says):
        run(change)


def _fixed_batch(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1


def test_a_fixed_batch_is_told_as_such_and_served_one_by_one(run: Callable[..., ChildJob]) -> None:
    with pytest.raises(ConversionError, match="images: its batch axis is fixed to 1") as caught:
        run(_fixed_batch)
    assert "batch: {max: 1}" in (caught.value.hint or "")
    run(_fixed_batch, batch={"max": 1})


def test_samples_of_another_size_are_refused(run: Callable[..., ChildJob]) -> None:
    with pytest.raises(CheckpointRefused, match="expected shape"):
        run(side=9)


def test_constants_are_read_for_an_onnx_file_too(run: Callable[..., ChildJob]) -> None:
    with pytest.raises(SpecInvalid, match=r"constants\.source sides:broken: KeyError: 'nms'"):
        run(constants={"source": "sides:broken"})
