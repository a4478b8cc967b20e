"""`lockstep check` of a pipeline's YAML: its steps against the YAMLs of their models, before anything is converted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from serving.errors import SpecInvalid
from serving.pipelines import Part, Plan
from serving.spec import ModelSpec
from serving.tasks import task_named


@dataclass(frozen=True, slots=True)
class StepReport:
    """A step in the order of running. model, gallery: '' where it has none; gives: the model's task, or the kind."""

    name: str
    do: str
    of: str
    model: str
    gallery: str
    gives: str


@dataclass(frozen=True, slots=True)
class PipelineReport:
    """rows: the step whose boxes are the answer's rows, '' where the answer has none; fields: steps that are told;
    appearance: the step that tells trackers what a box looks like, or ''."""

    name: str
    task: str
    steps: tuple[StepReport, ...]
    rows: str
    fields: tuple[str, ...]
    appearance: str = ""
    passed: bool = True

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def to_table(self) -> Table:
        """For a terminal."""
        table = Table(title=f"{self.name} ({self.task}): the steps fit", title_justify="left")
        for column in ("step", "do", "of", "model", "gallery", "gives"):
            table.add_column(column)
        for step in self.steps:
            table.add_row(step.name, step.do, step.of, step.model, step.gallery, step.gives)
        told = ", ".join(self.fields) or "nothing more"
        told += f"; {self.appearance} for trackers" if self.appearance else ""
        table.caption = f"a row for each box of {self.rows}, with {told}" if self.rows else f"without boxes: {told}"
        return table


def check_pipeline(spec: ModelSpec, spec_path: Path) -> PipelineReport:
    """Raises SpecInvalid: a cycle, a step, model or class that is not there, shapes that do not fit.

    A model is read from `<model>.yaml` beside the pipeline's own file; whether it is published is not asked."""
    folder = spec_path.resolve().parent
    task_named(spec.task).check(spec)
    parts = {step.model: _part(spec, step.name, step.model, folder) for step in spec.steps if step.model is not None}
    plan = Plan.of(spec, parts)
    steps = tuple(
        StepReport(s.name, s.do, s.of, s.model or "", s.gallery or "", _gives(plan, s.name)) for s in plan.steps
    )
    answer = spec.answer
    return PipelineReport(spec.name, spec.task, steps, answer.detections or "", answer.fields, answer.appearance or "")


def _part(spec: ModelSpec, step: str, model: str, folder: Path) -> Part:
    path = folder / f"{model}.yaml"
    if not path.is_file():
        raise SpecInvalid(
            f"{spec.name}: steps.{step}.model: {model}: no {path.name} beside the pipeline's file",
            hint="a model's YAML has its name; `lockstep convert` looks among published models instead",
        )
    found = ModelSpec.read(path)
    task_named(found.task).check(found)
    return Part(found, tuple(found.label_names(folder)))


def _gives(plan: Plan, name: str) -> str:
    step = plan.step(name)
    if name in plan.parts and step.do == "infer":
        return plan.parts[name].spec.task
    return {"crop": "pictures", "match": "a subject, or unknown"}.get(step.do, step.do)
