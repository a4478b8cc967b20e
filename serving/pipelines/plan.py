"""A pipeline's steps with the facts of their models, checked when the file is read: before anything runs."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import json
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from serving.bundle import MANIFEST, ModelBundle, sha256_of
from serving.errors import SpecInvalid
from serving.pipelines import kinds
from serving.pipelines.items import Kind
from serving.spec import ModelSpec
from serving.spec_steps import IMAGE, StepSpec, WhenSpec, in_order, step_named
from serving.tasks import task_named

Options = TypeVar("Options", bound=BaseModel)


def kind_named(pipeline: str, step: StepSpec) -> Kind:
    """The kind of a step; SpecInvalid lists the known ones."""
    known = sorted(m.name for m in pkgutil.iter_modules(kinds.__path__))
    if step.do not in known:
        raise SpecInvalid(f"{pipeline}: steps.{step.name}.do: expected one of {', '.join(known)}, got {step.do!r}")
    kind: Kind = importlib.import_module(f"{kinds.__name__}.{step.do}").KIND
    return kind


@dataclass(frozen=True, slots=True)
class Part:
    """What is known of a model without loading it: from its published version, or from its YAML."""

    spec: ModelSpec
    labels: tuple[str, ...]
    mark: str = ""

    @classmethod
    def of(cls, bundle: ModelBundle) -> Part:
        """Of a version. `mark` is the hash of its files: detector, preprocessing, engine and precision."""
        manifest = bundle.version_dir / MANIFEST
        mark = sha256_of(manifest) if manifest.is_file() else f"{bundle.version}/{bundle.certificate_id}"
        return cls(bundle.spec, bundle.labels, mark)

    @property
    def boxes(self) -> bool:
        """Whether its task gives boxes."""
        return "xyxy" in {tensor.name for tensor in task_named(self.spec.task).outputs(self.spec)}


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps in the order they run, with their kinds and the models by step."""

    name: str
    steps: tuple[StepSpec, ...]
    kinds: Mapping[str, Kind]
    parts: Mapping[str, Part]

    @classmethod
    def of(cls, spec: ModelSpec, parts: Mapping[str, Part]) -> Plan:
        """Checked; parts: by model name. Raises SpecInvalid: a cycle, a model or class that is not there, shapes that
        do not fit."""
        steps = in_order(spec.name, spec.steps)
        found = {step.name: kind_named(spec.name, step) for step in steps}
        by_step = {s.name: _part(spec.name, s, parts) for s in steps if s.model is not None}
        plan = cls(spec.name, steps, found, by_step)
        for step in steps:
            plan._check_when(step)
            found[step.name].check(step, plan)
        plan._check_answer(spec)
        return plan

    def step(self, name: str) -> StepSpec:
        """By name."""
        return step_named(self.name, {s.name: s for s in self.steps}, name, "steps")

    def source(self, step: StepSpec) -> StepSpec | None:
        """The step that it works on; None: the picture."""
        return None if step.of == IMAGE else self.step(step.of)

    def wrong(self, step: StepSpec, what: str, hint: str = "") -> SpecInvalid:
        """An error about a step."""
        return SpecInvalid(f"{self.name}: steps.{step.name}: {what}", hint=hint)

    def boxes_of(self, step: StepSpec) -> StepSpec | None:
        """The step whose boxes the items of `step` lie in; None where they are whole pictures."""
        at = self.source(step)
        while at is not None:
            if at.do == "infer" and self.parts[at.name].boxes:
                return at
            at = self.source(at)
        return None

    def chain(self, name: str) -> str:
        """The fingerprint of everything that a finding of step `name` depends on: steps, options, models' files."""
        at: StepSpec | None = self.step(name)
        told = []
        while at is not None:
            part = self.parts.get(at.name)
            options = {k: v for k, v in at.options.items() if k != "quality"}
            told.append([at.do, options, part.spec.name if part else "", part.mark if part else ""])
            at = self.source(at)
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def _check_when(self, step: StepSpec) -> None:
        default = WhenSpec()
        given = [name for name in WhenSpec.model_fields if getattr(step.when, name) != getattr(default, name)]
        if not given:
            return
        boxes = self.boxes_of(step)
        if boxes is None:
            raise self.wrong(step, f"when: {', '.join(sorted(given))}: there are no boxes before this step")
        check_labels(self, step, "when.labels", step.when.labels, self.parts[boxes.name].labels)

    def _check_answer(self, spec: ModelSpec) -> None:
        names = {s.name: s for s in self.steps}
        for name in spec.answer.fields:
            step_named(self.name, names, name, "answer.fields")
        if spec.answer.detections is not None:
            rows = step_named(self.name, names, spec.answer.detections, "answer.detections")
            if rows.do != "infer" or not self.parts[rows.name].boxes or rows.of != IMAGE:
                what = f"step {rows.name!r} gives no boxes of the whole picture"
                raise SpecInvalid(f"{self.name}: answer.detections: {what}")
        if spec.answer.appearance is not None:
            look = step_named(self.name, names, spec.answer.appearance, "answer.appearance")
            crops = self.source(look)
            embeds = look.do == "infer" and self.parts[look.name].spec.task == "embedding"
            if not embeds or crops is None or crops.of != spec.answer.detections:
                what = f"expected an embedding of crops of {spec.answer.detections or 'the rows (answer.detections)'}"
                raise SpecInvalid(f"{self.name}: answer.appearance: {what}, got step {look.name!r}",
                                  hint="an `infer` step with an embedder, `of` a `crop` of the rows' step")  # fmt: skip


def check_labels(plan: Plan, step: StepSpec, where: str, wanted: Sequence[str], known: Sequence[str]) -> None:
    """Each class is one of the model's; SpecInvalid with the nearest."""
    for label in wanted:
        if label not in known:
            close = difflib.get_close_matches(label, list(known), n=1, cutoff=0.5)
            more = f"did you mean {close[0]!r}?" if close else f"it has: {', '.join(known[:20])}"
            raise plan.wrong(step, f"{where}: the model has no class {label!r}; {more}")


def options_of(kind: type[Options], plan_name: str, step: StepSpec) -> Options:
    """step.options as the kind's own model; SpecInvalid names the key."""
    try:
        return kind.model_validate(step.options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("options", *first["loc"])))
        known = ", ".join(kind.model_fields)
        raise SpecInvalid(f"{plan_name}: steps.{step.name}.{where}: {first['msg']}; known: {known}") from error


def _part(pipeline: str, step: StepSpec, parts: Mapping[str, Part]) -> Part:
    assert step.model is not None
    if step.model not in parts:
        known = ", ".join(sorted(parts)) or "none"
        raise SpecInvalid(f"{pipeline}: steps.{step.name}.model: there is no model {step.model!r}; there are: {known}",
                          hint=f"convert it first: lockstep convert models/{step.model}.yaml")  # fmt: skip
    if parts[step.model].spec.task == "pipeline":
        raise SpecInvalid(f"{pipeline}: steps.{step.name}.model: {step.model} is of task {parts[step.model].spec.task}")
    return parts[step.model]
