"""The join: what the steps found becomes rows of boxes, fields of the whole picture, failures by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serving.pipelines.items import Failed, Item, Tools
from serving.pipelines.plan import Plan
from serving.spec_steps import AnswerSpec
from serving.tasks.pipeline import PipelineResult
from serving.types import Detections, Embedding, FloatArray

_OF_EVERY_BOX = frozenset({"xyxy", "confidence", "class_id", "label", "track_id", "origin"})


def answer_of(
    plan: Plan, answer: AnswerSpec, request: int, found: Mapping[str, Sequence[Item]],
    failed: Mapping[str, Sequence[Failed]], tools: Tools,
) -> PipelineResult:  # fmt: skip
    """The answer about one picture of the batch. Zero boxes are an answer like any other."""
    rows = next((i for i in found.get(answer.detections or "", ()) if i.request == request), None)
    boxes = rows.value if rows is not None else Detections.empty()
    joined: list[dict[str, Any]] = [{} for _ in range(len(boxes))]
    names = [""] * len(boxes)
    whole: dict[str, Any] = {}
    if rows is not None and answer.detections is not None:
        told = plan.kinds[answer.detections].tell(plan.step(answer.detections), rows, tools) or {}
        for place, row in enumerate(told.get("detections", ())):
            joined[place] |= {name: value for name, value in row.items() if name not in _OF_EVERY_BOX}
    for step in plan.steps:
        if step.name == answer.detections:
            continue
        for item in (i for i in found[step.name] if i.request == request):
            wanted = step.name in answer.fields or _embedding_wanted(item, tools)
            document = plan.kinds[step.name].tell(step, item, tools) if wanted else None
            if document is None:
                continue
            if item.path and answer.detections is not None and _of_rows(plan, step.name, answer.detections):
                _put(joined[item.path[0]], step.name, document, nested=len(item.path) > 1)
                if len(item.path) == 1 and document.get("status") in ("known", "unknown"):
                    names[item.path[0]] = str(document["label"])
            else:
                _put(whole, step.name, document, nested=bool(item.path))
    return PipelineResult(
        boxes.xyxy, boxes.confidence, boxes.class_id, joined=tuple(joined), names=tuple(names), whole=whole,
        appearance=appearance_of(found.get(answer.appearance or "", ()), request, len(boxes)),
        failures=tuple(_failures(plan, request, failed)), has_rows=answer.detections is not None,
    )  # fmt: skip


def appearance_of(items: Sequence[Item], request: int, boxes: int) -> FloatArray | None:
    """float32 [boxes, d] of one picture's embedded crops, zeros for boxes without; None where no box has any."""
    vectors = {item.path[0]: item.value.vector for item in items if item.request == request}
    if not vectors:
        return None
    looks = np.zeros((boxes, len(next(iter(vectors.values())))), np.float32)
    looks[list(vectors)] = np.stack(list(vectors.values()))
    return looks


def _embedding_wanted(item: Item, tools: Tools) -> bool:
    return bool(tools.parameters[item.request].get("embeddings")) and isinstance(item.value, Embedding)


def _of_rows(plan: Plan, name: str, rows: str) -> bool:
    """Whether the first box on the way of the step's items is one of the rows'."""
    first, at = None, plan.step(name)
    while (boxes := plan.boxes_of(at)) is not None:
        first = at = boxes
    return first is not None and first.name == rows


def _put(row: dict[str, Any], name: str, document: dict[str, Any], nested: bool) -> None:
    if nested:
        row.setdefault(name, []).append(document)
    else:
        row[name] = document


def _failures(plan: Plan, request: int, failed: Mapping[str, Sequence[Failed]]) -> list[dict[str, Any]]:
    told = []
    for step in plan.steps:
        mine = [f for f in failed[step.name] if f.request == request]
        seen: dict[str, dict[str, Any]] = {}
        for one in mine:
            entry = seen.setdefault(one.error.code, {"step": step.name, "code": one.error.code, "boxes": []})
            entry["boxes"] += [one.path[0]] if one.path else []
        told += list(seen.values())
    return told
