"""An ONNX file as the checkpoint: it passes through, checked, and is its own reference in FP32. Limited child only."""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from converters.arrays import batches, save_samples, split
from converters.digest import sha256_of
from converters.job import RAW_ONNX, REFERENCE, ChildJob, ChildReport, Limits, LoadReport
from converters.onnx_checked import free_batch
from converters.onnx_safety import load_checked
from converters.sequence import over_sounds
from converters.signature import network_inputs
from serving.errors import CheckpointRefused, EngineFailed, NotFrozen, SpecInvalid
from serving.types import Array

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}


def pass_through(
    job: ChildJob,
    limits: Limits,
    isolation: Mapping[str, str],
    progress: Callable[[str], None],
    training: list[dict[str, Array]],
    samples: list[dict[str, Array]],
) -> ChildReport:
    """Check the file, copy it with its external data inside, run it on `samples`. Raises ConversionError classes."""
    path = job.checkpoint
    if path is None:
        raise SpecInvalid(f"{job.spec.name}: format onnx needs the checkpoint's file")
    progress("check the ONNX file")
    digest = sha256_of(path, job.spec.checkpoint.sha256)
    model = load_checked(path)
    _refuse_bad_numbers(model)
    _refuse_training(model)
    _require_names(job, model)
    free_batch(model, job.spec)
    onnx.save(model, job.folder / RAW_ONNX)
    if samples:
        save_samples(job.folder / REFERENCE, _reference(job, limits, samples, progress))
    parameters = sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type in _FLOATS)
    return ChildReport(
        load=LoadReport("onnx", digest, keys=len(model.graph.initializer), parameters=parameters),
        samples=len(samples),
        training_pixels=bool(training) and "pixels" in training[0],
        training_tensors=bool(training) and "tensor" in training[0],
        versions={"onnx": onnx.__version__},
        isolation=isolation,
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        notes=(f"the reference of an ONNX checkpoint is {job.spec.parity.reference or 'itself in FP32'}",),
    )


def _reference(
    job: ChildJob, limits: Limits, samples: list[dict[str, Array]], progress: Callable[[str], None]
) -> list[dict[str, Array]]:
    """The answers of the file itself in FP32, or of the one that the spec names as its reference."""
    reference = job.spec_folder / job.spec.parity.reference if job.spec.parity.reference else None
    if reference is not None:
        load_checked(reference)
    from serving.engines.onnxruntime import load

    results: list[dict[str, Array]] = []
    try:
        engine = load(reference or job.folder / RAW_ONNX, threads=limits.threads)
        if job.spec.sound is not None:
            return over_sounds(job.spec, engine.run, samples, progress)
        for group in batches(samples, job.reference_batch):
            results.extend(split(engine.run(group)))
            progress(f"reference outputs {len(results)}/{len(samples)}")
    except EngineFailed as error:
        raise CheckpointRefused(
            f"the ONNX file does not run: {error.message}", hint="compare the spec's sizes and names with the file's"
        ) from error
    return results


def _refuse_bad_numbers(model: Any) -> None:
    bad = []
    for tensor in model.graph.initializer:
        if tensor.data_type in _FLOATS:
            try:
                values = numpy_helper.to_array(tensor).astype(np.float32)
            except ValueError as error:
                raise CheckpointRefused(f"tensor {tensor.name}: its data does not fit its shape: {error}") from error
            # An infinite constant is how exporters write masks; NaN is never meant.
            if np.isnan(values).any():
                bad.append(tensor.name)
    if bad:
        raise CheckpointRefused(f"weights that are not numbers: {', '.join(bad[:8])} (NaN)")


def _refuse_training(model: Any) -> None:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            if any(a.name == "training_mode" and a.i == 1 for a in node.attribute):
                found.append(f"{node.name or node.output[0]} (BatchNormalization)")
        elif node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
            mode = constants.get(node.input[2])
            if mode is None or bool(numpy_helper.to_array(mode)):
                found.append(f"{node.name or node.output[0]} (Dropout)")
        elif node.op_type.startswith(("Random", "Bernoulli", "Multinomial")):
            found.append(f"{node.name or node.output[0]} ({node.op_type})")
    if found:
        raise NotFrozen(
            "the network still trains or draws random numbers: " + "; ".join(found[:8]),
            hint="export it in evaluation mode",
        )


def _require_names(job: ChildJob, model: Any) -> None:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in weights]
    wanted = [declared.name for declared in network_inputs(job.spec)]
    if sorted(inputs) != sorted(wanted):
        raise SpecInvalid(
            f"the ONNX file's inputs are {inputs}, the spec's {wanted}",
            hint="name them under `inputs` in the spec (a picture model: one entry with the file's name)",
        )
    outputs = [value.name for value in model.graph.output]
    if job.spec.outputs and sorted(job.spec.outputs) != sorted(outputs):
        raise SpecInvalid(f"the ONNX file's outputs are {outputs}, the spec's {list(job.spec.outputs)}")
