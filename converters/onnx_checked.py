"""The FP32 graph every engine is made from: safe, simplified, fully checked, with a free batch and folded BatchNorm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx.inliner
import onnxslim
from onnx import TensorProto

from converters.modules import described, keep_modules, module_of, modules_by_tensor
from converters.onnx_safety import load_checked
from serving.errors import ConversionError, ModelRefused, OperatorUnsupported, StorageFailed
from serving.spec import ModelSpec
from serving.types import TensorSpec

BATCH = "batch"
MIN_OPSET = 17
_STANDARD = ("", "ai.onnx")
_FOLDS_INTO = ("Conv", "ConvTranspose")
_DATATYPES = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.DOUBLE: "FP64",
    TensorProto.INT64: "INT64",
    TensorProto.INT32: "INT32",
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8",
    TensorProto.BOOL: "BOOL",
}


@dataclass(frozen=True, slots=True)
class OnnxReport:
    """The checked graph. operators: count by kind; batchnorm_left: the BatchNormalization nodes that nothing precedes
    to fold into, by module path, each with its reason; notes: what was done beyond the usual."""

    opset: int
    nodes: int
    operators: Mapping[str, int]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    size_bytes: int
    batchnorm_left: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def checked_onnx(raw: Path, target: Path, spec: ModelSpec) -> OnnxReport:
    """Read `raw`, simplify and check it, write `target`.

    Raises ModelRefused (unsafe, malformed, too old an opset), OperatorUnsupported (with module paths), ConversionError
    (no free batch, an unfolded BatchNormalization), StorageFailed.
    """
    model = load_checked(raw)
    notes: list[str] = []
    opset = _standard_opset(model, raw.name, notes)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    _refuse_foreign_operators(model)
    modules = modules_by_tensor(model)
    simplified = _simplified(model, notes)
    keep_modules(simplified, modules)
    free_batch(simplified, spec)
    _full_check(simplified, raw.name)
    left = _batchnorm_left(simplified)
    _write(simplified, target)
    return OnnxReport(
        opset=opset,
        nodes=len(simplified.graph.node),
        operators=dict(sorted(Counter(node.op_type for node in simplified.graph.node).items())),
        inputs=tuple(tensor_spec(value) for value in graph_inputs(simplified)),
        outputs=tuple(tensor_spec(value) for value in simplified.graph.output),
        size_bytes=target.stat().st_size,
        batchnorm_left=left,
        notes=tuple(notes),
    )


def graph_inputs(model: Any) -> list[Any]:
    """The graph's inputs that are not weights."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def tensor_spec(value: Any) -> TensorSpec:
    """Name, datatype and shape of a graph input or output; a named dimension is -1. Raises ModelRefused."""
    kind = value.type.tensor_type.elem_type
    if kind not in _DATATYPES:
        raise ModelRefused(f"tensor {value.name} has the ONNX type {kind}, which is not served")
    shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim)
    return TensorSpec(value.name, _DATATYPES[kind], shape)


def _standard_opset(model: Any, name: str, notes: list[str]) -> int:
    opset = next((entry.version for entry in model.opset_import if entry.domain in _STANDARD), 0)
    if opset >= MIN_OPSET:
        return int(opset)
    try:
        converted = onnx.version_converter.convert_version(model, MIN_OPSET)
    except (RuntimeError, ValueError) as error:
        raise ModelRefused(
            f"{name}: opset {opset} cannot be raised to {MIN_OPSET}: {_line(error)}", hint="export it again"
        ) from error
    model.CopyFrom(converted)
    notes.append(f"opset raised from {opset} to {MIN_OPSET}")
    return MIN_OPSET


def _refuse_foreign_operators(model: Any) -> None:
    foreign = [f"{node.domain}.{described(node)}" for node in model.graph.node if node.domain not in _STANDARD]
    if foreign:
        raise OperatorUnsupported(
            f"operators outside the ONNX standard: {', '.join(foreign[:8])}", hint="no target has them"
        )


def _simplified(model: Any, notes: list[str]) -> Any:
    try:
        simplified = onnxslim.slim(model)
    except Exception as error:  # its passes raise whatever an odd graph leads to  # noqa: BLE001
        notes.append(f"not simplified: {type(error).__name__}: {_line(error)}")
        return model
    before = [[v.name for v in graph_inputs(model)], [v.name for v in model.graph.output]]
    after = [[v.name for v in graph_inputs(simplified)], [v.name for v in simplified.graph.output]]
    if before != after:
        notes.append(f"not simplified: inputs and outputs {before} became {after}")
        return model
    return simplified


def free_batch(model: Any, spec: ModelSpec) -> None:
    """Call the first axis of every input and output `batch`.

    Raises ConversionError for a fixed one, unless the spec's batch is 1.
    """
    if spec.batch.max == 1:
        return
    for word, values in (("input", graph_inputs(model)), ("output", model.graph.output)):
        for value in values:
            shape = value.type.tensor_type.shape
            if not shape.dim:
                raise ConversionError(f"{word} {value.name} has no batch axis")
            if shape.dim[0].HasField("dim_value"):
                raise ConversionError(
                    f"{word} {value.name}: its batch axis is fixed to {shape.dim[0].dim_value}",
                    hint="export the network with a free batch, or set batch: {max: 1} in the spec",
                )
            shape.dim[0].dim_param = BATCH


def _full_check(model: Any, name: str) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError) as error:
        raise ModelRefused(f"{name}: the ONNX checker refuses it: {_line(error)}") from error


def _batchnorm_left(model: Any) -> tuple[str, ...]:
    producer = {name: node for node in model.graph.node for name in node.output}
    uses = Counter(name for node in model.graph.node for name in node.input)
    uses.update(value.name for value in model.graph.output)
    left = []
    for node in model.graph.node:
        if node.op_type != "BatchNormalization":
            continue
        before = producer.get(node.input[0])
        if before is not None and before.op_type in _FOLDS_INTO and uses[node.input[0]] == 1:
            raise ConversionError(f"{described(node)} was not folded into the {described(before)} before it")
        why = f"follows {before.op_type}" if before is not None else "is the first layer"
        left.append(f"{module_of(node)}: {why}")
    return tuple(left)


def _write(model: Any, target: Path) -> None:
    try:
        onnx.save(model, target)
    except OSError as error:
        raise StorageFailed(f"{target}: {error.strerror}") from error
    except ValueError as error:
        raise ConversionError(
            f"{target.name}: {_line(error)}", hint="a graph of 2 GiB or more is not served"
        ) from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:400]
