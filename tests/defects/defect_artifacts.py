"""Defects in exported and built files: damaged copies of what the sound conversion made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from converters.precision import half_precision
from converters.proof import Proof, cpu_engine_rows


@dataclass(frozen=True)
class ArtifactDefect:
    """What `damage` does to a folder of artifacts, and the stage that must be named."""

    defect: str
    where: str
    model: str
    stage: str
    damage: Callable[[Path, Any], None]
    only_in_batches: bool = False


def served_proof(base: Any) -> Proof:
    """Engine, precision and signature of the sound version, as its conversion chose them."""
    proof = Proof()
    cpu_engine_rows(base.sources, base.computed, base.work.path, proof, lambda line: None,
                    served_in=base.result.certificate["engine"]["precision"])  # fmt: skip
    return proof


def _openvino(change: Callable[[Any, Any], Any]) -> Callable[[Path, Any], None]:
    """Rewrite each output of the IR by `change(opset, output)`."""

    def damage(folder: Path, base: Any) -> None:
        import openvino as ov
        from openvino import opset13 as ops

        path = folder / "engine.openvino.xml"
        model = ov.Core().read_model(path)
        results = []
        for result in model.get_results():
            source = result.input_value(0)
            names = result.output(0).get_names() or source.get_names()
            changed = change(ops, source).output(0)
            source.set_names(set())
            changed.set_names(names)
            results.append(ops.result(changed))
        rebuilt = ov.Model(results, model.get_parameters(), "damaged")
        ov.save_model(rebuilt, folder / "damaged.xml", compress_to_fp16=False)
        del model, rebuilt
        (folder / "damaged.xml").replace(path)
        (folder / "damaged.bin").replace(path.with_suffix(".bin"))

    return damage


def _shift(ops: Any, source: Any) -> Any:
    return ops.roll(source, np.array([1], np.int64), np.array([0], np.int64))


def _broadcast(ops: Any, source: Any) -> Any:
    """The first row for everybody: an expand over the wrong axis."""
    first = ops.gather(source, np.array([0], np.int64), np.array(0, np.int64))
    return ops.broadcast(first, ops.shape_of(source), broadcast_spec="BIDIRECTIONAL")


def _one_row(ops: Any, source: Any) -> Any:
    return ops.gather(source, np.array([0], np.int64), np.array(0, np.int64))


def _any_size(folder: Path, base: Any) -> None:
    """Height and width made free: the global pooling takes pictures of every size without a word."""
    import openvino as ov

    path = folder / "engine.openvino.xml"
    model = ov.Core().read_model(path)
    model.reshape([-1, 3, -1, -1])
    ov.save_model(model, folder / "damaged.xml", compress_to_fp16=True)
    del model
    (folder / "damaged.xml").replace(path)
    (folder / "damaged.bin").replace(path.with_suffix(".bin"))


def _swapped_weights(folder: Path, base: Any) -> None:
    """The IR of another run: first convolution's input channels in BGR order, as if exported for OpenCV pictures."""
    model = onnx.load(folder / "model.onnx")
    _swap_channels(model)
    onnx.save(model, folder / "bgr.onnx")
    import openvino as ov

    ov.save_model(ov.Core().read_model(folder / "bgr.onnx"), folder / "engine.openvino.xml", compress_to_fp16=True)


def _swap_channels(model: Any) -> None:
    for tensor in model.graph.initializer:
        if list(tensor.dims)[1:2] == [3] and len(tensor.dims) == 4:
            array = numpy_helper.to_array(tensor)[:, ::-1].copy()
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _export(change: Callable[[Any, str], None]) -> Callable[[Path, Any], None]:
    """Put something before the graph's output: what an export in training mode leaves in."""

    def damage(folder: Path, base: Any) -> None:
        model = onnx.load(folder / "model.onnx")
        output = model.graph.output[0].name
        for node in model.graph.node:
            node.output[:] = ["inner" if name == output else name for name in node.output]
        change(model, output)
        onnx.save(model, folder / "model.onnx")

    return damage


def _active_dropout(model: Any, output: str) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "ratio"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "training"))
    model.graph.node.append(helper.make_node("Dropout", ["inner", "ratio", "training"], [output], seed=3))


def _batch_statistics(model: Any, output: str) -> None:
    """What BatchNorm in train mode computes: the mean over the batch instead of the learned one."""
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    if opset >= 18:
        model.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "batch_axis"))
        mean = helper.make_node("ReduceMean", ["inner", "batch_axis"], ["batch_mean"], keepdims=1)
    else:
        mean = helper.make_node("ReduceMean", ["inner"], ["batch_mean"], keepdims=1, axes=[0])
    model.graph.node.extend([mean, helper.make_node("Sub", ["inner", "batch_mean"], [output])])


def _nhwc(folder: Path, base: Any) -> None:
    """The exported graph reads its input as NHWC: the same numbers, other pixels."""
    model = onnx.load(folder / "model.onnx")
    name = model.graph.input[0].name
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    for node in model.graph.node:
        node.input[:] = ["as_nchw" if i == name else i for i in node.input]
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, *shape[1:], shape[0]], np.int64), "as_nhwc"))
    model.graph.node.insert(0, helper.make_node("Reshape", [name, "as_nhwc"], ["nhwc"]))
    model.graph.node.insert(1, helper.make_node("Transpose", ["nhwc"], ["as_nchw"], perm=[0, 3, 1, 2]))
    onnx.save(model, folder / "model.onnx")


def _unguarded_half(folder: Path, base: Any) -> None:
    """Half precision decided on black pictures: no activation is seen that overflows."""
    name = onnx.load(folder / "model.onnx").graph.input[0].name
    black = [{name: np.zeros_like(base.computed.reference.inputs[0][name])}]
    half_precision(folder / "model.onnx", folder / "model.fp16.onnx", black, base.sources.spec)


def _halves_everywhere(folder: Path, base: Any) -> None:
    """The FP32 graph's file under the FP16 name, with one weight tensor gone to zero in half (flushed)."""
    model = onnx.load(folder / "model.fp16.onnx")
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16 and len(tensor.dims) == 2:
            array = numpy_helper.to_array(tensor) * np.float16(6e-8)
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), tensor.name))
    onnx.save(model, folder / "model.fp16.onnx")


DEFECTS = [
    ArtifactDefect("dropout active", "export", "colours", "onnx_fp32", _export(_active_dropout)),
    ArtifactDefect("BatchNorm in train mode", "export", "colours", "onnx_fp32", _export(_batch_statistics)),
    ArtifactDefect("NHWC read as NCHW", "export", "colours", "onnx_fp32", _nhwc),
    ArtifactDefect("FP16 overflow", "built file", "colours", "onnx_fp16", _unguarded_half),
    ArtifactDefect("weights flushed to zero in half", "built file", "colours", "onnx_fp16", _halves_everywhere),
    ArtifactDefect("RGB and BGR swapped", "built file", "colours", "engine_openvino", _swapped_weights),
    ArtifactDefect("one engine output row shifted by one", "built file", "colours", "engine_openvino",
                   _openvino(_shift), only_in_batches=True),
    ArtifactDefect("one engine output row shifted by one (boxes)", "built file", "spots", "engine_openvino",
                   _openvino(_shift), only_in_batches=True),
    ArtifactDefect("wrong batch-axis broadcast", "built file", "colours", "engine_openvino",
                   _openvino(_broadcast), only_in_batches=True),
    ArtifactDefect("one row for the whole batch", "built file", "colours", "engine_openvino",
                   _openvino(_one_row), only_in_batches=True),
    ArtifactDefect("another input size accepted in silence", "built file", "colours", "engine_openvino", _any_size),
]  # fmt: skip
