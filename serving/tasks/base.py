"""What a task is: how a network's outputs become a typed result, and when two results agree.

One file a task under this folder, found by its name: `serving/tasks/<task>.py` with a module value `TASK`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from pydantic import BaseModel, ValidationError

from serving.errors import ParameterInvalid, ServingError, SpecInvalid
from serving.spec import ModelSpec
from serving.targets import Aim
from serving.types import (
    Array,
    Detections,
    FloatArray,
    ImageTransform,
    InferRequest,
    InferResponse,
    PixelArray,
    TaskResult,
    TensorSpec,
)

Gate = Mapping[str, float]
Infer = Callable[[Sequence[InferRequest]], Sequence[InferResponse | ServingError]]
Options = TypeVar("Options", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One request parameter: its type, range and default (None: not set)."""

    kind: Literal["int", "float", "str", "bool"]
    minimum: float | None = None
    maximum: float | None = None
    default: Any = None
    help: str = ""
    by_class: bool = False  # a scenario may give it for each class

    def parse(self, name: str, value: Any) -> Any:
        """The value as its type; ParameterInvalid says name, expected and got."""
        try:
            parsed = _convert(self.kind, value)
        except (TypeError, ValueError) as error:
            raise ParameterInvalid(f"{name}: expected {self.kind}, got {str(value)[:60]!r}") from error
        for bound, low in ((self.minimum, True), (self.maximum, False)):
            if bound is not None and not (parsed >= bound if low else parsed <= bound):
                raise ParameterInvalid(f"{name}: expected {self.minimum} to {self.maximum}, got {parsed}")
        return parsed


def _convert(kind: str, value: Any) -> Any:
    if kind == "str":
        return str(value)
    if kind == "bool":
        words = {"true": True, "1": True, "false": False, "0": False}
        return words[str(value).lower()] if str(value).lower() in words else _refuse(value)
    if isinstance(value, bool) or (kind == "int" and isinstance(value, float) and not value.is_integer()):
        return _refuse(value)
    return int(value) if kind == "int" else float(value)


def _refuse(value: Any) -> Any:
    raise ValueError(value)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Whether two results of one sample make the same decision. `figures` hold the worst numbers seen."""

    ok: bool
    figures: Mapping[str, float] = field(default_factory=dict)
    why: str = ""


class Task(Protocol):
    """A task's own file implements this; nothing else has to know the task."""

    name: str
    parameters: Mapping[str, Parameter]
    default_gates: Mapping[str, Gate]

    def check(self, spec: ModelSpec) -> None:
        """Raise SpecInvalid where spec.options or spec.outputs do not suit the task."""
        ...

    def outputs(self, spec: ModelSpec) -> tuple[TensorSpec, ...]:
        """The typed tensors under /v2, without the batch axis."""
        ...

    def postprocess(
        self, raw: Mapping[str, Array], transform: ImageTransform | None, spec: ModelSpec, parameters: Mapping[str, Any]
    ) -> TaskResult:
        """One sample's network outputs (no batch axis) -> its typed result."""
        ...

    def to_document(self, result: TaskResult, labels: Sequence[str]) -> dict[str, Any]:
        """The task's fields of the result document."""
        ...

    def from_document(self, document: Mapping[str, Any]) -> TaskResult:
        """The result that a document tells: `to_document` back. ValueError where the document holds no numbers."""
        ...

    def to_tensors(self, result: TaskResult, spec: ModelSpec) -> dict[str, Array]:
        """The typed tensors of `outputs`."""
        ...

    def agree(self, reference: TaskResult, candidate: TaskResult, gate: Gate, spec: ModelSpec) -> Agreement:
        """Compare decisions of one sample under a gate (bounds by name)."""
        ...

    def score(self, metric: str, results: Sequence[TaskResult], labels: Sequence[str], spec: ModelSpec) -> float:
        """The named metric of results against ground-truth labels; SpecInvalid for an unknown metric."""
        ...


@runtime_checkable
class CountsClasses(Protocol):
    """A task whose network's outputs tell the number of classes: the certificate then counts the labels."""

    def count_classes(self, raw: Mapping[str, Array], spec: ModelSpec) -> int:
        """Classes in one sample's network outputs (no batch axis)."""
        ...


@runtime_checkable
class ReadsLabels(Protocol):
    """A task whose score reads numbers or events in a sample's label: a wrong one is told before the conversion."""

    def check_label(self, metric: str, label: str, labels: Sequence[str]) -> None:
        """Raise SpecInvalid where `score` could not read the label. Names of classes are class ids in it by now;
        labels: the model's own, () where it has none."""
        ...


@runtime_checkable
class FromSteps(Protocol):
    """A task whose results come from steps (serving/pipelines) and are no rows of boxes."""

    def from_steps(self, told: Mapping[str, Any]) -> TaskResult:
        """The result of what the steps found in the whole picture, by their names."""
        ...


@runtime_checkable
class Draws(Protocol):
    """A task whose results are no boxes and are drawn all the same: the streams call it for every shown result."""

    def draw(self, rgb: PixelArray, result: TaskResult, labels: Sequence[str], threshold: float) -> None:
        """Draw onto `rgb` (uint8 [h, w, 3], in place). threshold: what scores less is not drawn."""
        ...


@runtime_checkable
class Moves(Protocol):
    """A task whose result holds places in the picture, and knows how they look from another picture's corner."""

    def move(self, result: TaskResult, scale: float, offset: tuple[float, float]) -> TaskResult:
        """The result of the same picture in coordinates `place * scale + offset` (a crop's corner, a scaled frame)."""
        ...


def moved(task: Task, result: TaskResult, scale: float = 1.0, offset: tuple[float, float] = (0, 0)) -> TaskResult:
    """A result in coordinates `place * scale + offset`; one without places in the picture stays as it is."""
    if isinstance(task, Moves):
        return task.move(result, scale, offset)
    if isinstance(result, Detections):
        shift = np.array([*offset, *offset], np.float32)
        return replace(result, xyxy=(result.xyxy * np.float32(scale) + shift).astype(np.float32))
    return result


class Session(Protocol):
    """What a task remembers of one timeline of one pipeline; it belongs to the worker and ends with the epoch."""

    def update(self, result: TaskResult, pts_ns: int, picture: PixelArray) -> TaskResult:
        """Called once for every analysed frame, in order; what it returns is the frame's result.

        picture: RGB uint8 [h, w, 3], not to be written to. pts_ns rises from call to call.
        """
        ...


@runtime_checkable
class ShapesRequests(Protocol):
    """A session that asks its model its own way (a search crop around the target, a state that goes along)."""

    def ask(self, request: InferRequest, infer: Infer, pts_ns: int) -> InferResponse | ServingError:
        """The answer for the frame at `pts_ns`. May come again for it after an error: `update` remembers."""
        ...


@runtime_checkable
class NumbersFinds(Protocol):
    """A session that numbers what it finds, events for instance, and may begin within an epoch."""

    def count_from(self, told: int) -> None:
        """Numbers are above `told` from now on, so that none is given twice. Called before the first frame."""
        ...


@runtime_checkable
class TakesTargets(Protocol):
    """A session that follows objects which a user named."""

    def aim(self, aims: Sequence[Aim]) -> None:
        """The targets of this timeline from now on; called before every `ask`."""
        ...


@runtime_checkable
class ReadsTensors(Protocol):
    """A task whose sessions need more of a served model's answer than its document tells."""

    def from_tensors(self, tensors: Mapping[str, Array]) -> TaskResult:
        """`to_tensors` back, of one sample (no batch axis)."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """A task that remembers from frame to frame."""

    def new_session(self, spec: ModelSpec, parameters: Mapping[str, Any]) -> Session:
        """A session for a new timeline. parameters: the pipeline's, not yet parsed."""
        ...


def parse_parameters(task: Task, spec: ModelSpec, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check request parameters; a scenario's thresholds fill what the caller left out.

    Raises ParameterInvalid for an unknown name (with the known ones), an unknown scenario or a bad value.
    """
    values = {name: parameter.default for name, parameter in task.parameters.items()}
    scenario = str(given.get("scenario", "") or "default")
    if scenario != "default" and scenario not in spec.scenarios:
        raise ParameterInvalid(f"scenario: expected one of {sorted(spec.scenarios)}, got {scenario[:60]!r}")
    if spec.rules:
        values["scenario"] = scenario
    values.update(spec.thresholds.get(scenario, {}))
    for name, value in given.items():
        if name in COMMON_PARAMETERS:
            continue
        if name not in task.parameters:
            known = sorted({*task.parameters, *COMMON_PARAMETERS})
            raise ParameterInvalid(f"unknown parameter {str(name)[:60]!r}; {spec.name} takes {', '.join(known)}")
        values[name] = task.parameters[name].parse(name, value)
    return values


def check_thresholds(task: Task, spec: ModelSpec) -> None:
    """Raise SpecInvalid where a scenario names a parameter that the task lacks, or a value outside its range."""
    for scenario, values in spec.thresholds.items():
        for name, value in values.items():
            where = f"{spec.name}: thresholds.{scenario}"
            if name not in task.parameters:
                raise SpecInvalid(f"{where}: unknown parameter {name!r}; {spec.task} has {', '.join(task.parameters)}")
            if isinstance(value, dict) and not task.parameters[name].by_class:
                raise SpecInvalid(f"{where}.{name}: expected one number, got one for each class")
            try:
                for bound in value.values() if isinstance(value, dict) else (value,):
                    task.parameters[name].parse(name, bound)
            except ParameterInvalid as error:
                raise SpecInvalid(f"{where}: {error.message}") from error


def for_each_class(value: Any, default: float, classes: int) -> FloatArray:
    """A threshold as one number a class: float32 [classes]. value: a number, `class_id or * -> number`, or None."""
    if not isinstance(value, Mapping):
        return np.full(classes, default if value is None else float(value), np.float32)
    bounds = np.full(classes, float(value.get("*", default)), np.float32)
    for class_id, bound in value.items():
        if class_id != "*" and int(class_id) < classes:
            bounds[int(class_id)] = bound
    return bounds


COMMON_PARAMETERS: Mapping[str, Parameter] = {
    "scenario": Parameter("str", help="named set of thresholds in the model's spec"),
    "roi": Parameter("str", help="x1,y1,x2,y2 in source pixels: only this part is analysed, after decoding"),
}


def parse_options(kind: type[Options], spec: ModelSpec) -> Options:
    """spec.options as the task's own model; SpecInvalid names the key."""
    try:
        return kind.model_validate(spec.options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        known = ", ".join(kind.model_fields)
        raise SpecInvalid(f"{spec.name}: options.{where}: {first['msg']}; known options: {known}") from error
