"""cascade: one stage of a cascade of networks that finds faces (serving/pipelines/cascade.py); `model` is its network.

`of: image`: proposals. The network sees the picture in many sizes on one plane and says of each window of 12 pixels
whether it holds a face. `of` another cascade step: its candidates, cut out, are asked about one by one, all of a batch
together. The stage whose network gives landmarks is the last one: its finding is that of task face.

options: `threshold`, `overlap` and `most` say which candidates stay, `smallest` and `factor` which sizes are looked at.
The last stage takes the request's `score_threshold` and `max_detections` in place of `threshold` and `most`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from serving.errors import ServingError
from serving.pipelines.cascade import WINDOW, Candidates, Rule, opened, proposed, refined, settled
from serving.pipelines.items import Failed, Item, Model, Tools
from serving.pipelines.kinds.infer import ask
from serving.pipelines.plan import Plan, options_of
from serving.preprocess.pyramid import Level, on_plane, pyramid
from serving.spec import ModelSpec
from serving.spec_steps import IMAGE, StepSpec
from serving.tasks.base import for_each_class, moved
from serving.tasks.face import TASK, Faces
from serving.types import Array, FloatArray, ImageSize, InferRequest, InferResponse, RawTensors

LANDMARKS = 3  # outputs of a last stage: probability, regression, landmarks


class CascadeOptions(BaseModel):
    """See the module."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    threshold: float = Field(0.7, ge=0, le=1, description="least probability")
    overlap: float = Field(0.7, gt=0, le=1, description="IoU with a better box from which one goes; last stage: part")
    most: int = Field(400, ge=1, le=2000, description="candidates of a picture, the best ones")
    smallest: int = Field(20, ge=WINDOW, le=2000, description="proposals: side of the smallest face, source pixels")
    factor: float = Field(0.709, ge=0.3, le=0.9, description="proposals: from one size of the picture to the next")


class Cascade:
    """See the module."""

    def check(self, step: StepSpec, plan: Plan) -> None:
        """A network of named tensors with the outputs of a stage, and a stage before it or the picture."""
        options_of(CascadeOptions, plan.name, step)
        if step.model is None:
            raise plan.wrong(step, "cascade needs `model`")
        spec, source = plan.parts[step.name].spec, plan.source(step)
        shapes = [tensor.shape for tensor in spec.inputs]
        wanted = (2,) if source is None else (2, LANDMARKS)
        if spec.task != "raw" or [len(shape) for shape in shapes] != [3] or len(spec.outputs) not in wanted:
            what = "probability, regression" + (", landmarks of a crop" if source is not None else " of a plane")
            raise plan.wrong(step, f"model: {step.model} is no network of a cascade", hint=f"task raw, outputs {what}")
        if source is None:
            return
        if source.do != "cascade" or len(plan.parts[source.name].spec.outputs) == LANDMARKS:
            raise plan.wrong(step, f"of: {source.name} gives no candidates", hint="name an earlier cascade step")
        if shapes[0][1] != shapes[0][2]:
            raise plan.wrong(step, f"model: {step.model} takes {list(shapes[0])}, candidates are square")

    def run(self, step: StepSpec, items: Sequence[Item], tools: Tools) -> list[Item | Failed]:
        """Candidates of each picture, or its faces."""
        options, model = options_of(CascadeOptions, "", step), tools.models[step.name]
        if step.of == IMAGE:
            return _proposals(items, model, options)
        last = len(model.bundle.spec.outputs) == LANDMARKS
        found: list[Item | Failed] = []
        for item, outputs in zip(items, _asked_crops(items, model), strict=True):
            if isinstance(outputs, ServingError):
                found.append(Failed(item.request, item.path, outputs))
            elif last:
                faces = settled(item.value, outputs, _last_rule(options, tools.parameters[item.request]))
                found.append(replace(item, value=moved(TASK, faces, offset=item.offset or (0.0, 0.0))))
            else:
                found.append(replace(item, value=refined(item.value, outputs, _rule(options))))
        return found

    def tell(self, step: StepSpec, item: Item, tools: Tools) -> dict[str, Any] | None:
        """The faces as task face tells them; candidates are not told."""
        if not isinstance(item.value, Faces):
            return None
        return TASK.to_document(item.value, tools.models[step.name].bundle.labels)


def _rule(options: CascadeOptions) -> Rule:
    return Rule(options.threshold, options.overlap, options.most)


def _last_rule(options: CascadeOptions, asked: Any) -> Rule:
    threshold = float(for_each_class(asked.get("score_threshold"), options.threshold, 1)[0])
    return Rule(threshold, options.overlap, int(asked.get("max_detections") or options.most))


def _proposals(items: Sequence[Item], model: Model, options: CascadeOptions) -> list[Item | Failed]:
    plane = _side_of(model.bundle.spec)
    begun = [opened(item.value) for item in items]
    levels = [
        pyramid(one.means.size, plane, WINDOW, float(options.smallest * one.scale.min()), options.factor)
        for one in begun
    ]
    looked = [n for n, sizes in enumerate(levels) if sizes]  # the others are too small to hold a face
    planes = [on_plane(begun[n].means, levels[n], plane) for n in looked]
    answers: dict[int, InferResponse | ServingError] = dict(zip(looked, _ask(model, planes), strict=True))
    return [
        _proposed(item, one, sizes, answers.get(n), _rule(options), model.bundle.spec)
        for n, (item, one, sizes) in enumerate(zip(items, begun, levels, strict=True))
    ]


def _proposed(
    item: Item, one: Candidates, levels: Sequence[Level], answer: InferResponse | ServingError | None, rule: Rule,
    spec: ModelSpec,
) -> Item | Failed:  # fmt: skip
    if answer is None:
        return replace(item, value=one)
    if isinstance(answer, ServingError):
        return Failed(item.request, item.path, answer)
    probability, regression = _outputs(answer, spec)
    return replace(item, value=proposed(one, levels, probability, regression, rule))


def _asked_crops(items: Sequence[Item], model: Model) -> list[list[FloatArray] | ServingError]:
    """For each picture the network's outputs about its candidates, a row each."""
    spec = model.bundle.spec
    crops = [item.value.means.crops(item.value.edges, _side_of(spec).width) for item in items]
    answers = _ask(model, [crop for of_one in crops for crop in of_one])
    found: list[list[FloatArray] | ServingError] = []
    for of_one in crops:
        own, answers = answers[: len(of_one)], answers[len(of_one) :]
        failed = next((answer for answer in own if isinstance(answer, ServingError)), None)
        rows = [_outputs(answer, spec) for answer in own if isinstance(answer, InferResponse)]
        widths = (1, 4, 10)[: len(spec.outputs)]
        columns = [np.array([row[k] for row in rows], np.float32).reshape(-1, width) for k, width in enumerate(widths)]
        found.append(failed or columns)
    return found


def _ask(model: Model, tensors: Sequence[FloatArray]) -> list[InferResponse | ServingError]:
    name = model.bundle.spec.inputs[0].name
    return list(ask(model, [InferRequest(tensors={name: tensor}) for tensor in tensors]))


def _outputs(answer: InferResponse, spec: ModelSpec) -> list[Array]:
    assert isinstance(answer.result, RawTensors)
    return [answer.result.tensors[name] for name in spec.outputs]


def _side_of(spec: ModelSpec) -> ImageSize:
    _, height, width = spec.inputs[0].shape
    return ImageSize(width, height)


KIND = Cascade()
