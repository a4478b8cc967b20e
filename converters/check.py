"""`lockstep check spec.yaml`: what a model is and which targets take it, before there are any weights."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from converters.check_pipeline import PipelineReport, check_pipeline
from converters.child import Progress, run_child
from converters.job import RAW_ONNX, ChildJob, Limits
from converters.multiply_adds import graph_costs
from converters.onnx_checked import checked_onnx
from converters.operators import TARGETS, TargetVerdict, operators_of, target_verdicts
from converters.signature import example_inputs
from converters.sources import task_of
from serving.errors import SpecInvalid
from serving.spec import ModelSpec
from serving.types import TensorSpec


@dataclass(frozen=True, slots=True)
class CheckReport:
    """parameters: the module's; multiply_adds: of one sample; last_feature_map: [channels, height, width] or ();
    engines: those of the spec, which decide; other targets are told for comparison."""

    name: str
    task: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: int
    multiply_adds: int
    last_feature_map: tuple[int, ...]
    last_feature_module: str
    operators: Mapping[str, int]
    targets: tuple[TargetVerdict, ...]
    engines: tuple[str, ...] = TARGETS
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether none of the spec's engines refuses the model."""
        return all(target.verdict != "refused" for target in self.targets if target.target in self.engines)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "passed": self.passed}

    def to_table(self) -> Table:
        """For a terminal."""
        table = Table(title=f"{self.name} ({self.task})", show_header=False)
        for tensor in self.inputs:
            table.add_row("input", f"{tensor.name} {tensor.datatype} {list(tensor.shape)}")
        for tensor in self.outputs:
            table.add_row("output", f"{tensor.name} {tensor.datatype} {list(tensor.shape)}")
        table.add_row("parameters", f"{self.parameters:,}")
        table.add_row("multiply-adds", f"{self.multiply_adds:,} a sample")
        if self.last_feature_map:
            sides = " x ".join(map(str, self.last_feature_map))
            table.add_row("last feature map", f"{sides} ({self.last_feature_module})")
        table.add_row("operators", ", ".join(f"{name} {count}" for name, count in self.operators.items()))
        for target in self.targets:
            asked = "" if target.target in self.engines else " (not one of `engines`)"
            table.add_row(target.target + asked, target.verdict + (f": {target.reason}" if target.reason else ""))
        for note in self.notes:
            table.add_row("note", note)
        return table


def check(
    spec_path: Path, *, limits: Limits | None = None, progress: Progress | None = None
) -> CheckReport | PipelineReport:
    """A model or a pipeline, by what the file holds. Raises ConversionError classes."""
    spec = ModelSpec.read(spec_path)
    return check_pipeline(spec, spec_path) if spec.steps else check_model(spec_path, limits=limits, progress=progress)


def check_model(spec_path: Path, *, limits: Limits | None = None, progress: Progress | None = None) -> CheckReport:
    """Build the network without its weights, export it and ask every target. Raises ConversionError classes: what the
    task refuses in the YAML is refused before, as by a conversion.

    A format without a factory (TorchScript, torch.export, ONNX) is its own network, so its file is read.
    """
    spec = ModelSpec.read(spec_path)
    task_of(spec)
    folder = spec_path.resolve().parent
    with tempfile.TemporaryDirectory(prefix="lockstep-check-") as name:
        work = Path(name)
        job = ChildJob("check", spec, work, folder, _file(spec, folder), import_paths=(Path.cwd(),))
        child = run_child(job, limits, progress)
        report = checked_onnx(work / RAW_ONNX, work / "model.onnx", spec)
        costs = graph_costs(work / "model.onnx", example_inputs(spec, 1))
        return CheckReport(
            name=spec.name,
            task=spec.task,
            inputs=report.inputs,
            outputs=report.outputs,
            parameters=child.load.parameters,
            multiply_adds=costs.multiply_adds,
            last_feature_map=costs.last_feature_map,
            last_feature_module=costs.last_feature_module,
            operators=operators_of(work / "model.onnx"),
            targets=target_verdicts(work / "model.onnx", spec),
            engines=spec.engines,
            notes=(*child.notes, *report.notes, *(f"BatchNorm not folded: {left}" for left in report.batchnorm_left)),
        )


def _file(spec: ModelSpec, folder: Path) -> Path | None:
    """The checkpoint's file where the network is in it, None where a factory builds it."""
    if spec.factory is not None and spec.checkpoint.format in ("state_dict", "safetensors"):
        return None
    if spec.checkpoint.path is None:
        raise SpecInvalid(
            f"{spec.name}: format {spec.checkpoint.format} is its own network: `checkpoint.path` is needed to check it"
        )
    return folder / spec.checkpoint.path
