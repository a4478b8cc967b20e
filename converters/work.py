"""The child's whole job, in order. Imported after the walls are up; imports torch only where the format needs it."""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from converters.arrays import load_samples, save_samples
from converters.job import RAW_ONNX, REFERENCE, TRAINING, ChildJob, ChildReport, Limits
from converters.sequence import step_samples
from converters.signature import example_inputs, network_inputs
from serving.errors import SpecInvalid
from serving.spec import ConstantsSpec
from serving.types import Array

Progress = Callable[[str], None]


def do(job: ChildJob, limits: Limits, isolation: Mapping[str, str], progress: Progress) -> ChildReport:
    """Load, prove frozen, run, export. Raises a ConversionError class for whatever is wrong."""
    if job.spec.checkpoint.format == "onnx":
        from converters.onnx_checkpoint import pass_through

        training = _training_samples(job, progress) if job.spec.parity.training_side else []
        report = pass_through(job, limits, isolation, progress, training, reference_inputs(job, training))
        return replace(report, **_constants(job))
    progress("import torch")
    from converters import checkpoint, eager, frozen, onnx_from_checkpoint

    eager.settle(limits.threads, job.seed)
    progress(f"load the checkpoint ({job.spec.checkpoint.format})")
    opened = checkpoint.open_checkpoint(job)
    frozen.freeze(opened.module)
    training = _training_samples(job, progress)
    inputs = reference_inputs(job, training)
    progress("export to ONNX")
    exporter = onnx_from_checkpoint.onnx_from_module(
        opened.module, opened.program, job.spec, example_batch(job, inputs), job.folder / RAW_ONNX
    )
    if inputs:
        outputs = eager.eager_outputs(opened.module, job.spec, inputs, job.reference_batch, progress)
        save_samples(job.folder / REFERENCE, outputs)
    return ChildReport(
        load=opened.report,
        exporter=exporter,
        samples=len(inputs),
        training_pixels=bool(training) and "pixels" in training[0],
        training_tensors=bool(training) and "tensor" in training[0],
        **_constants(job),
        versions=_versions(),
        isolation=isolation,
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _constants(job: ChildJob) -> dict[str, Any]:
    """What the spec's constant functions give; a check is not about constants and calls none."""
    from converters.training_calls import constant_of

    sources = ConstantsSpec() if job.action == "check" else job.spec.constants
    labels = constant_of(sources.labels_source, "constants.labels_source")
    return {
        "constants": constant_of(sources.source, "constants.source"),
        "source_labels": None if labels is None else tuple(map(str, labels)),
    }


def _training_samples(job: ChildJob, progress: Progress) -> list[dict[str, Array]]:
    """What the training side makes of every picture, kept beside the report for the rows that compare it."""
    from converters.training_calls import training_samples

    training = training_samples(job.spec, job.pictures, progress)
    if training:
        save_samples(job.folder / TRAINING, training)
    return training


def reference_inputs(job: ChildJob, training: list[dict[str, Array]]) -> list[dict[str, Array]]:
    """What the reference runs on: the training side's own tensors where it gives them, else our samples."""
    if training and all("tensor" in sample for sample in training):
        name = network_inputs(job.spec)[0].name
        return [{name: sample["tensor"]} for sample in training]
    return [] if job.inputs is None else load_samples(job.inputs)


def example_batch(job: ChildJob, inputs: list[dict[str, Array]]) -> dict[str, Array]:
    """Two samples for tracing: the first of the inputs twice, else seeded values; one where the spec has no batches."""
    size = min(2, job.spec.batch.max)
    steps = step_samples(job.spec, inputs)
    if not steps:
        return example_inputs(job.spec, size, job.seed)
    declared = {tensor.name for tensor in network_inputs(job.spec)}
    if not declared <= steps[0].keys():
        raise SpecInvalid(f"samples: expected the tensors {sorted(declared)}, got {sorted(steps[0])}")
    return {name: np.stack([array] * size) for name, array in steps[0].items() if name in declared}


def _versions() -> dict[str, str]:
    import onnx
    import onnxscript
    import torch

    found: dict[str, Any] = {"torch": torch.__version__, "onnx": onnx.__version__, "onnxscript": onnxscript.__version__}
    return {name: str(version) for name, version in found.items()}
