"""Rules for boxes (serving/spec_rules.py): bounds on area and aspect, zones, merged classes, votes over frames.

Rules work in the order of the YAML, on boxes in source pixels, after suppression. Each counts the boxes that it took
away (merge_into: that it renamed), by its name. Votes need more than one picture: they work on streams only.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from serving.spec import ModelSpec
from serving.spec_rules import RuleSpec, VoteSpec
from serving.tasks.boxes import iou_matrix, nms
from serving.types import Detections, ImageSize, PixelArray, TaskResult

Mask = npt.NDArray[np.bool_]
DEFAULT = "default"
Boxes = TypeVar("Boxes", bound=Detections)


@dataclass(frozen=True, slots=True)
class RuledDetections(Detections):
    """Boxes that rules have seen. scenario: whose rules; counted: by rule, the boxes that it took away or renamed."""

    scenario: str = DEFAULT
    counted: Mapping[str, int] = field(default_factory=dict)


def rules_of(spec: ModelSpec, scenario: str) -> Sequence[RuleSpec]:
    """The rules of a scenario; `default` where it has none of its own."""
    return spec.rules.get(scenario, spec.rules.get(DEFAULT, ()))


def ruled(boxes: Detections, spec: ModelSpec, scenario: str, size: ImageSize, nms_iou: float) -> Detections:
    """The boxes that the scenario's rules leave. size: of the picture that zones are parts of."""
    counted: dict[str, int] = {}
    for rule in rules_of(spec, scenario):
        if rule.vote is not None:
            continue
        before = len(boxes)
        if rule.merge_into is None:
            boxes = _taken(boxes, ~_concerned(boxes, rule) | _fits(boxes, rule, size))
            counted[rule.name] = before - len(boxes)
        else:
            boxes, counted[rule.name] = _merged(boxes, rule, nms_iou)
    return _with_counts(boxes, scenario, counted)


def _with_counts(boxes: Detections, scenario: str, counted: Mapping[str, int]) -> RuledDetections:
    columns = {f.name: getattr(boxes, f.name) for f in fields(Detections)}
    return RuledDetections(**columns, scenario=scenario, counted=counted)


def _taken(boxes: Boxes, keep: Mask) -> Boxes:
    """Some of the boxes, with every column that they have."""
    columns: dict[str, Any] = {f.name: getattr(boxes, f.name) for f in fields(Detections)}
    kept: dict[str, Any] = {name: None if column is None else column[keep] for name, column in columns.items()}
    return replace(boxes, **kept)


def _concerned(boxes: Detections, rule: RuleSpec) -> Mask:
    if not rule.labels:
        return np.ones(len(boxes), bool)
    return np.asarray(np.isin(boxes.class_id, [int(label) for label in rule.labels]))


def _fits(boxes: Detections, rule: RuleSpec, size: ImageSize) -> Mask:
    width, height = boxes.xyxy[:, 2] - boxes.xyxy[:, 0], boxes.xyxy[:, 3] - boxes.xyxy[:, 1]
    area, aspect = width * height, width / np.maximum(height, 1e-6)
    fits = (area >= rule.min_area) & (aspect >= rule.min_aspect)
    fits &= area <= (np.inf if rule.max_area is None else rule.max_area)
    fits &= aspect <= (np.inf if rule.max_aspect is None else rule.max_aspect)
    return np.asarray(fits & _in_zone(boxes, rule, size) if rule.zone else fits)


def _in_zone(boxes: Detections, rule: RuleSpec, size: ImageSize) -> Mask:
    corners = (np.array(rule.zone) * [size.width, size.height]).astype(np.float32).reshape(-1, 1, 2)
    x = (boxes.xyxy[:, 0] + boxes.xyxy[:, 2]) / 2
    y = boxes.xyxy[:, 3] if rule.point == "bottom" else (boxes.xyxy[:, 1] + boxes.xyxy[:, 3]) / 2
    places = zip(x.tolist(), y.tolist(), strict=True)
    inside = np.array([cv2.pointPolygonTest(corners, place, False) >= 0 for place in places], bool)
    return inside if rule.keep == "inside" else ~inside


def _merged(boxes: Detections, rule: RuleSpec, nms_iou: float) -> tuple[Detections, int]:
    """The classes under one name; of boxes that are one object under it, the best stays."""
    into = int(rule.merge_into or 0)
    class_id = np.where(_concerned(boxes, rule), into, boxes.class_id).astype(np.int64)
    renamed = int((class_id != boxes.class_id).sum())
    boxes = replace(boxes, class_id=class_id)
    target = np.flatnonzero(class_id == into)
    kept, _ = nms(
        boxes.xyxy[target], boxes.confidence[target], class_id[target], nms_iou, agnostic=True, limit=len(target)
    )
    keep = class_id != into
    keep[target[kept]] = True
    return _taken(boxes, keep), renamed


class VoteSession:
    """Votes of one timeline: what was found in the last frames, before any vote took boxes away."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        longest = max(r.vote.of for rules in spec.rules.values() for r in rules if r.vote is not None)
        self._seen: deque[Detections] = deque(maxlen=longest)

    def update(self, result: TaskResult, pts_ns: int, picture: PixelArray) -> TaskResult:
        """The boxes that have enough votes; the first frames of a timeline cannot have them."""
        if not isinstance(result, RuledDetections):
            return result
        self._seen.append(result)
        boxes, counted = result, Counter(result.counted)
        for rule in rules_of(self._spec, result.scenario):
            if rule.vote is not None:
                enough = ~_concerned(boxes, rule) | (self._votes(boxes, rule.vote) >= rule.vote.at_least)
                counted[rule.name] = int((~enough).sum())
                boxes = _taken(boxes, enough)
        return replace(boxes, counted=dict(counted))

    def _votes(self, boxes: Detections, vote: VoteSpec) -> npt.NDArray[np.int64]:
        votes = np.zeros(len(boxes), np.int64)
        for seen in list(self._seen)[-vote.of :]:
            same = boxes.class_id[:, None] == seen.class_id[None, :]
            votes += ((iou_matrix(boxes.xyxy, seen.xyxy) >= vote.iou) & same).any(axis=1)
        return votes


def has_votes(spec: ModelSpec) -> bool:
    """Whether a stream of this model has to remember frames."""
    return any(rule.vote is not None for rules in spec.rules.values() for rule in rules)


def to_document(result: Detections) -> dict[str, Any]:
    """`rules: {scenario, counted: {rule: boxes}}` where rules have seen the boxes."""
    if not isinstance(result, RuledDetections):
        return {}
    return {"rules": {"scenario": result.scenario, "counted": dict(result.counted)}}


def from_document(boxes: Detections, document: Mapping[str, Any]) -> Detections:
    """The boxes with what the document tells of rules."""
    told = document.get("rules")
    if told is None:
        return boxes
    counted = {str(name): int(count) for name, count in told["counted"].items()}
    return _with_counts(boxes, str(told["scenario"]), counted)
