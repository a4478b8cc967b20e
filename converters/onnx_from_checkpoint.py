"""`torch.onnx.export` of a loaded checkpoint: FP32, named tensors, a free batch axis. Limited child only.

With `batch: {max: 1}` in the spec the batch axis is fixed to one sample: some networks know no other.

Modules go through torch.export and the exporter built on it, a TorchScript checkpoint through the older one
(docs/decisions/0002-onnx-export-path.md). Neither is a fallback for the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from converters.eager import call, names_of, ordered
from converters.frozen import check_graph, check_script_graph
from converters.signature import network_inputs
from serving.errors import CheckpointRefused, ConversionError, OperatorUnsupported
from serving.spec import ModelSpec
from serving.types import Array

OPSET = 18
BATCH = "batch"


def onnx_from_module(module: Any, program: Any | None, spec: ModelSpec, example: dict[str, Array], path: Path) -> str:
    """Write the FP32 graph to `path`; returns the exporter used (dynamo or torchscript).

    example: one batch of at least two samples (a batch of one is traced as a constant), of one with `batch: {max: 1}`.
    Raises NotFrozen, OperatorUnsupported (with module paths), CheckpointRefused, ConversionError.
    """
    arguments = ordered(spec, example)
    outputs = names_of(spec, len(call(module, arguments)))
    inputs = [declared.name for declared in network_inputs(spec)]
    if isinstance(module, torch.jit.ScriptModule):
        check_script_graph(module)
        _export_script(module, spec, arguments, inputs, outputs, path)
        return "torchscript"
    program = _traced(module, spec, arguments) if program is None else program
    check_graph(program)
    _require_free_batch(program, spec)
    _export_program(program, arguments, inputs, outputs, path)
    return "dynamo"


def _traced(module: Any, spec: ModelSpec, arguments: tuple[Any, ...]) -> Any:
    """torch.export with free axes; a network that cannot take a free batch is refused with the exporter's words."""
    batch: dict[int, Any] = {0: torch.export.Dim(BATCH)} if spec.batch.max > 1 else {}
    shapes = []
    for declared in network_inputs(spec):
        shapes.append({**batch, **{axis + 1: torch.export.Dim.DYNAMIC for axis in declared.dynamic}})
    # One positional argument may be `*args` or named anything, so shapes go by position.
    try:
        with torch.no_grad():
            return torch.export.export(module, arguments, dynamic_shapes=_by_name(module, shapes), strict=False)
    except torch._dynamo.exc.UserError as error:
        free_batch = " with a free batch" if batch else ""
        raise ConversionError(
            f"the network cannot be traced{free_batch}: {_line(error)}",
            hint="take no Python number from a tensor's shape or values; else set batch: {max: 1}, or use TorchScript",
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # the network is foreign code
        raise ConversionError(f"the network cannot be traced: {type(error).__name__}: {_line(error)}") from error


def _by_name(module: Any, shapes: list[dict[int, Any]]) -> Any:
    import inspect

    kinds = [p.kind for p in inspect.signature(module.forward).parameters.values()]
    return (tuple(shapes),) if inspect.Parameter.VAR_POSITIONAL in kinds[:1] else tuple(shapes)


def _require_free_batch(program: Any, spec: ModelSpec) -> None:
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    for name in program.graph_signature.user_inputs:
        shape = values[name].shape
        if isinstance(shape[0], int) and spec.batch.max > 1:
            raise CheckpointRefused(
                f"the exported program takes batches of {shape[0]} only (input {name})",
                hint="export it with dynamic_shapes={0: Dim('batch')}, or set batch: {max: 1} in the spec",
            )


def _export_program(
    program: Any, arguments: tuple[Any, ...], inputs: list[str], outputs: list[str], path: Path
) -> None:
    try:
        exported: Any = torch.onnx.export(
            program,
            arguments,
            dynamo=True,
            input_names=inputs,
            output_names=outputs,
            opset_version=OPSET,
            verbose=False,
            external_data=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise _unsupported(error, lambda name: _program_paths(program, name)) from error
    exported.save(str(path), external_data=False)


def _export_script(
    module: Any, spec: ModelSpec, arguments: tuple[Any, ...], inputs: list[str], outputs: list[str], path: Path
) -> None:
    batch = {0: BATCH} if spec.batch.max > 1 else {}
    axes: dict[str, dict[int, str]] = {name: dict(batch) for name in [*inputs, *outputs]}
    for declared in network_inputs(spec):
        axes[declared.name].update({axis + 1: f"{declared.name}_{axis}" for axis in declared.dynamic})
    try:
        torch.onnx.export(
            module,
            arguments,
            str(path),
            dynamo=False,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=OPSET,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        raise _unsupported(error, lambda name: _script_paths(module, name)) from error
    except RuntimeError as error:
        raise ConversionError(f"the TorchScript module cannot be exported: {_line(error)}") from error


def _unsupported(error: BaseException, paths: Callable[[str], list[str]]) -> ConversionError:
    chain = ""
    current: BaseException | None = error
    while current is not None:
        chain += f"\n{current}"
        current = current.__cause__ or current.__context__
    found = re.search(r"(?:aten|prims|torchvision|quantized)(?:\.|::)[\w.]+", chain)
    missing = re.search(r"No ONNX function found|Unsupported|not supported|No decompositions", chain)
    if found is None or missing is None:
        return ConversionError(f"the ONNX export failed: {_line(error)}")
    name = found.group(0).replace("::", ".").rstrip(".")
    places = paths(name)
    return OperatorUnsupported(
        f"ONNX has no operator for {name}, used by {', '.join(places[:8]) or 'the network'}",
        hint="replace it in the module, or end the network before it",
    )


def _program_paths(program: Any, name: str) -> list[str]:
    """Module paths of the nodes that call `name`, or become it when the exporter takes operators apart."""
    base = ".".join(name.split(".")[:2])
    found: dict[str, None] = {}
    table: Any = torch._decomp.decomposition_table
    taken_apart: list[Callable[[], Any]] = [lambda: program, lambda: program.run_decompositions(table)]
    for graph in (version().graph for version in taken_apart):
        for node in graph.nodes:
            if node.op == "call_function" and str(node.target).startswith(base):
                stack = [str(entry[0]) for entry in (node.meta.get("nn_module_stack") or {}).values()]
                path = next((path for path in reversed(stack) if path), "the model's own forward")
                written = str(node.meta.get("original_aten", node.target))
                found[path if written.startswith(base) else f"{path} (as {written})"] = None
        if found:
            break
    return list(found)


def _script_paths(module: Any, name: str) -> list[str]:
    base = name.split(".")[1]
    nodes = [node for node in module.inlined_graph.nodes() if node.kind().endswith(f"::{base}")]
    return list(dict.fromkeys(node.scopeName() or "the model's own forward" for node in nodes))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:400]
