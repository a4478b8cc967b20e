"""infer: ask a model about the picture, or about every crop; crops of all pictures of a batch go together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict

from serving.errors import EngineFailed, ParameterInvalid, ServingError
from serving.pipelines.items import Failed, Item, Model, Tools
from serving.pipelines.plan import Plan, options_of
from serving.pipelines.tiles import Tile, TileOptions, joined, tiles_of
from serving.preprocess.chips import TEMPLATES
from serving.spec_steps import StepSpec
from serving.tasks import task_named
from serving.tasks.base import moved, parse_parameters
from serving.types import Detections, Embedding, InferRequest, InferResponse

# Request parameters of a pipeline that go to the step which gives its rows.
PASSED_ON = ("score_threshold", "max_detections")


class InferOptions(BaseModel):
    """tile: a detector is asked in tiles of a large picture too. Everything else is the model's: `parameters`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    tile: TileOptions | None = None


class Infer:
    """See the module."""

    def check(self, step: StepSpec, plan: Plan) -> None:
        """A model, pictures to ask it about, parameters it takes, chips of its template."""
        options = options_of(InferOptions, plan.name, step)
        if step.model is None:
            raise plan.wrong(step, "infer needs `model`")
        part, source = plan.parts[step.name], plan.source(step)
        if not part.spec.takes_pictures:
            raise plan.wrong(step, f"model: {step.model} takes no pictures")
        if options.tile is not None and not part.boxes:
            raise plan.wrong(step, f"options.tile: {step.model} gives no boxes to join")
        if options.tile is not None and part.spec.rules:
            raise plan.wrong(
                step, f"options.tile: the rules of {step.model} would be asked about tiles, not the picture"
            )
        if source is not None and source.do != "crop":
            raise plan.wrong(step, f"of: {source.name} gives no pictures", hint="put a `crop` step between them")
        try:
            parse_parameters(task_named(part.spec.task), part.spec, step.parameters)
        except ParameterInvalid as error:
            raise plan.wrong(step, f"parameters: {error}") from error
        template = str(part.spec.options.get("align", ""))
        made_for = plan.parts.get(source.name) if source is not None else None
        made = str(made_for.spec.options.get("align", "")) if made_for is not None else ""
        if template and template != made:
            raise plan.wrong(
                step, f"{step.model} takes chips of {template}, it gets {made or 'pictures that are not aligned'}",
                hint=f"a `crop` step with model: {step.model}",
            )  # fmt: skip
        rule = part.spec.preprocess
        if source is not None and rule is not None and rule.resize == "none" and rule.width:
            size = TEMPLATES[made].size if made else 0
            if (rule.width, rule.height) != (size, size):
                given = f"{size}x{size}" if size else "any size"
                raise plan.wrong(step, f"{step.model} takes {rule.width}x{rule.height} only, the crops are of {given}")

    def run(self, step: StepSpec, items: Sequence[Item], tools: Tools) -> list[Item | Failed]:
        """An answer for each item, in the model's own batches."""
        model, tile = tools.models[step.name], options_of(InferOptions, "", step).tile
        tiles = [tiles_of(item.value, tile) if tile is not None else [Tile(item.value)] for item in items]
        requests = [
            InferRequest(frame=part.pixels, parameters=_parameters(step, item, tools))
            for item, parts in zip(items, tiles, strict=True)
            for part in parts
        ]
        answers = ask(model, requests)
        return [
            _found(model, item, _whole([next(answers) for _ in parts], parts, tile, _parameters(step, item, tools)))
            for item, parts in zip(items, tiles, strict=True)
        ]

    def tell(self, step: StepSpec, item: Item, tools: Tools) -> dict[str, Any] | None:
        """The fields of the model's own document; of an embedding with the mark of its chain."""
        bundle = tools.models[step.name].bundle
        told = task_named(bundle.spec.task).to_document(item.value, bundle.labels)
        return {**told, "fingerprint": tools.chain[step.name]} if isinstance(item.value, Embedding) else told


def _parameters(step: StepSpec, item: Item, tools: Tools) -> Mapping[str, Any]:
    if step.name != tools.answer:
        return step.parameters
    asked = tools.parameters[item.request]
    return {**step.parameters, **{n: asked[n] for n in PASSED_ON if asked.get(n) is not None}}


def _whole(
    answers: Sequence[InferResponse | ServingError],
    tiles: Sequence[Tile],
    options: TileOptions | None,
    parameters: Mapping[str, Any],
) -> InferResponse | ServingError:
    """The answer about the picture; a tile's error is the picture's."""
    found: list[Detections] = []
    for answer in answers:
        if isinstance(answer, ServingError) or len(answers) == 1:
            return answer
        assert isinstance(answer.result, Detections)
        found.append(answer.result)
    first = answers[0]
    assert options is not None and isinstance(first, InferResponse)
    return replace(first, result=joined(tiles, found, options, parameters.get("max_detections")))


def ask(model: Model, requests: Sequence[InferRequest]) -> Iterator[InferResponse | ServingError]:
    """An answer for each request, in batches that the model takes; what fails as a whole is the error of each."""
    most = model.bundle.spec.batch.max
    for start in range(0, len(requests), most):
        part = requests[start : start + most]
        try:
            answers = model.infer(part)
        except ServingError as error:
            answers = [error] * len(part)
        if len(answers) != len(part):
            answers = [EngineFailed(f"{model.bundle.name}: {len(part)} asked, {len(answers)} answered")] * len(part)
        yield from answers


def _found(model: Model, item: Item, answer: InferResponse | ServingError) -> Item | Failed:
    if isinstance(answer, ServingError):
        return Failed(item.request, item.path, answer)
    result = answer.result
    if item.offset not in (None, (0.0, 0.0)):
        assert item.offset is not None
        result = moved(task_named(model.bundle.spec.task), result, offset=item.offset)
    return replace(item, value=result)


KIND = Infer()
