"""A pipeline in one process: asked like a model, answers like one. The Triton backend, `lockstep infer`, `run` and the
Kafka workers call this one object.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.bundle import ModelBundle
from serving.errors import ParameterInvalid, ServingError
from serving.gallery import Galleries
from serving.pipelines.answer import answer_of
from serving.pipelines.items import Failed, Item, Model, Tools
from serving.pipelines.plan import Part, Plan
from serving.preprocess.decode import DecodeLimits, decode
from serving.preprocess.region import crop, parse_roi
from serving.spec_steps import IMAGE
from serving.stage_costs import StageCosts
from serving.tasks import task_named
from serving.tasks.base import FromSteps, parse_parameters
from serving.types import ImageSize, InferRequest, InferResponse, PixelArray


@dataclass(slots=True)
class _Opened:
    """One picture, decoded once for all steps."""

    picture: PixelArray
    item: PixelArray
    offset: tuple[float, float]
    parameters: dict[str, Any]
    decode_ms: float


@dataclass(slots=True)
class Findings:
    """What the steps of one batch found. skipped: by step, why it had nothing to do, for each request."""

    items: dict[str, list[Item]] = field(default_factory=dict)
    failed: dict[str, list[Failed]] = field(default_factory=dict)
    milliseconds: dict[str, float] = field(default_factory=dict)


class PipelineModel:
    """Steps over models. models: by name, each belongs to this object; one thread."""

    def __init__(
        self, bundle: ModelBundle, models: Mapping[str, Model], galleries: Galleries, limits: DecodeLimits | None = None
    ) -> None:
        self.bundle = bundle
        self.task = task_named(bundle.spec.task)
        self.plan = Plan.of(bundle.spec, {name: Part.of(model.bundle) for name, model in models.items()})
        self._models, self._galleries, self._limits = models, galleries, limits or DecodeLimits()
        by_step = {s.name: models[s.model] for s in self.plan.steps if s.model is not None}
        self._by_step: Mapping[str, Model] = by_step
        self._chain = {step.name: self.plan.chain(step.name) for step in self.plan.steps}

    def infer(self, requests: Sequence[InferRequest]) -> list[InferResponse | ServingError]:
        """Answer each request, in order; each step works on all of them at once. A request's error is its own."""
        opened = [self._opened(request) for request in requests]
        good = [one for one in opened if isinstance(one, _Opened)]
        tools = self._tools(good)
        findings = self._run(good, tools)
        answers = iter([self._answer(number, one, findings, tools, len(good)) for number, one in enumerate(good)])
        return [one if isinstance(one, ServingError) else next(answers) for one in opened]

    def document(self, response: InferResponse) -> dict[str, Any]:
        """The result document (docs/results.schema.json) of one response."""
        return self.bundle.document(response, self.task.to_document(response.result, self.bundle.labels))

    @property
    def costs(self) -> StageCosts:
        """What its models spent, by stage; the steps between them are not in it."""
        return StageCosts.total([model.costs for model in self._models.values()])

    def close(self) -> None:
        """Give the models back."""
        for model in self._models.values():
            model.close()

    def _opened(self, request: InferRequest) -> _Opened | ServingError:
        try:
            parameters = parse_parameters(self.task, self.bundle.spec, request.parameters)
            if request.tensors is not None:
                raise ParameterInvalid(f"{self.bundle.name}: a pipeline takes a picture, got named tensors")
            started = time.perf_counter()
            picture = decode(request.encoded, self._limits) if request.encoded is not None else request.frame
            assert picture is not None
            milliseconds = (time.perf_counter() - started) * 1e3
            roi = parse_roi(request.parameters.get("roi"), ImageSize(picture.shape[1], picture.shape[0]))
            corner = (float(roi[0]), float(roi[1])) if roi else (0.0, 0.0)
            return _Opened(picture, crop(picture, roi), corner, parameters, milliseconds)
        except ServingError as error:
            return error

    def _tools(self, opened: Sequence[_Opened]) -> Tools:
        labels = {f"labels {name}": model.bundle.labels for name, model in self._by_step.items()}
        return Tools(
            [one.picture for one in opened], [(one.item, one.offset) for one in opened], self._by_step, self._galleries,
            [one.parameters for one in opened], self._chain, self.bundle.spec.answer.detections, labels,
        )  # fmt: skip

    def _run(self, opened: Sequence[_Opened], tools: Tools) -> Findings:
        """Step after step. A step without items costs nothing: its model is not asked."""
        findings = Findings({IMAGE: [Item(n, one.item, offset=one.offset) for n, one in enumerate(opened)]})
        broken: set[int] = set()
        for step in self.plan.steps:
            items = [item for item in findings.items[step.of] if item.request not in broken]
            started = time.perf_counter()
            found = self.plan.kinds[step.name].run(step, items, tools) if items else []
            findings.milliseconds[step.name] = (time.perf_counter() - started) * 1e3
            findings.items[step.name] = [one for one in found if isinstance(one, Item)]
            failed = [one for one in found if isinstance(one, Failed)]
            findings.failed[step.name] = failed
            if step.on_error == "fail" or step.name == tools.answer:
                broken |= {one.request for one in failed}
        return findings

    def _answer(
        self, number: int, one: _Opened, findings: Findings, tools: Tools, batch: int
    ) -> InferResponse | ServingError:
        for step in self.plan.steps:
            broken = next((f for f in findings.failed[step.name] if f.request == number), None)
            needed = step.on_error == "fail" or step.name == tools.answer or isinstance(self.task, FromSteps)
            if broken is not None and needed:
                return broken.error
        started = time.perf_counter()
        joined = answer_of(self.plan, self.bundle.spec.answer, number, findings.items, findings.failed, tools)
        result = self.task.from_steps(joined.whole) if isinstance(self.task, FromSteps) else joined
        steps = {name: ms / batch for name, ms in findings.milliseconds.items()}
        total = {"infer": sum(steps.values()), "postprocess": (time.perf_counter() - started) * 1e3}
        size = ImageSize(one.picture.shape[1], one.picture.shape[0])
        return InferResponse(result, size, {"decode": one.decode_ms, **total, **steps})
