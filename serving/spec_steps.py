"""Steps of a pipeline as its YAML says them: names, references, conditions. What a step does is its kind's own file.

The order of the list has no meaning: a step runs after the one that it names in `of`.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.errors import SpecInvalid

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
IMAGE = "image"
# Tasks without a network of their own: what they do are steps. A face detector may be a network or a cascade of them.
OF_STEPS = ("pipeline", "homography")
MAY_HAVE_STEPS = (*OF_STEPS, "face")
# Names that answers use for something else.
RESERVED = frozenset({IMAGE, "decode", "preprocess", "infer", "postprocess", "server", "xyxy", "confidence", "class_id",
                      "label", "track_id", "origin", "landmarks"})  # fmt: skip


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WhenSpec(_Strict):
    """What must hold for a box (labels, min_confidence, min_side), and for their number (at_least, at_most)."""

    labels: tuple[str, ...] = Field((), description="only boxes of these classes")
    min_confidence: float = Field(0.0, ge=0, le=1)
    min_side: float = Field(0.0, ge=0, description="shorter side of the box, source pixels")
    at_least: int = Field(0, ge=0, description="fewer boxes than this: the step is skipped")
    at_most: int = Field(0, ge=0, description="the most confident boxes are taken, no more; 0: all")


class StepSpec(_Strict):
    """One step. `do` names its kind: infer, crop, match, cascade, or another file of serving/pipelines/kinds."""

    name: Name
    do: Name
    of: Name = Field(IMAGE, description="the step whose items this one works on; image: the whole picture")
    model: Name | None = Field(None, description="infer, cascade: a published model")
    gallery: Name | None = Field(None, description="match: the gallery that is asked")
    parameters: dict[str, Any] = Field(default_factory=dict, description="infer: request parameters of the model")
    options: dict[str, Any] = Field(default_factory=dict, description="the kind's own settings, checked by the kind")
    when: WhenSpec = WhenSpec()
    on_error: Literal["skip", "fail"] = Field("skip", description="an item's error: leave the item out, or fail")


class AnswerSpec(_Strict):
    """Which step's boxes are the answer; what other steps found in a box is put into the box's row by their names."""

    detections: Name | None = Field(None, description="the step that gives the rows")
    fields: tuple[Name, ...] = Field((), description="steps whose findings are told")
    appearance: Name | None = Field(None, description="the step that embeds each row's crop, for trackers; not told")


def in_order(pipeline: str, steps: Sequence[StepSpec]) -> tuple[StepSpec, ...]:
    """The steps so that each comes after the one it works on. Raises SpecInvalid: a name twice, a reference to no
    step, a cycle (each step of it named)."""
    by_name: dict[str, StepSpec] = {}
    for step in steps:
        if step.name in by_name or step.name in RESERVED:
            why = "given twice" if step.name in by_name else "is reserved"
            raise SpecInvalid(f"{pipeline}: steps: name {step.name!r} {why}")
        by_name[step.name] = step
    done: dict[str, StepSpec] = {}
    for step in steps:
        way: list[StepSpec] = []
        while step.name not in done:
            if step in way:
                circle = [s.name for s in way[way.index(step) :]] + [step.name]
                raise SpecInvalid(f"{pipeline}: steps: a cycle: {' of '.join(circle)}", hint="one must be `of: image`")
            way.append(step)
            if step.of == IMAGE:
                break
            step = step_named(pipeline, by_name, step.of, f"steps.{step.name}.of")
        done.update({s.name: s for s in reversed(way)})
    return tuple(done.values())


def step_named(pipeline: str, steps: dict[str, StepSpec], name: str, where: str) -> StepSpec:
    """The step of that name; SpecInvalid with the nearest one."""
    if name not in steps:
        close = difflib.get_close_matches(name, list(steps), n=1, cutoff=0.5)
        known = f"did you mean {close[0]!r}?" if close else f"steps: {', '.join(steps)}"
        raise SpecInvalid(f"{pipeline}: {where}: no step {name!r}; {known}")
    return steps[name]
