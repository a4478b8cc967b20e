"""Face: boxes of faces with five landmarks each (left eye, right eye, nose tip, corners of the mouth).

The network gives boxes [n, 4], scores [n, classes] and landmarks [n, 10] (x, y of each point), the last in the frame of
the boxes. Everything that boxes need is the detection task's; landmarks go where their box goes. In place of a network
there may be steps: a cascade of several (serving/pipelines/kinds/cascade.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from serving.errors import SpecInvalid
from serving.preprocess.chips import POINTS
from serving.spec import ModelSpec
from serving.tasks.base import Agreement, Gate, for_each_class, parse_options
from serving.tasks.boxes import match_boxes, nms
from serving.tasks.classification import activate
from serving.tasks.detection import DetectionOptions, DetectionTask
from serving.types import Array, Detections, FloatArray, ImageTransform, TaskResult, TensorSpec

CASCADE = "cascade"  # the kind of step that a face detector of several networks has


@dataclass(frozen=True, slots=True)
class Faces(Detections):
    """Boxes of faces; landmarks: float32 [n, 5, 2] in source pixels, not clipped to the picture."""

    landmarks: FloatArray | None = None

    def __post_init__(self) -> None:
        Detections.__post_init__(self)
        if self.landmarks is None or self.landmarks.shape != (len(self), POINTS, 2):
            got = None if self.landmarks is None else list(self.landmarks.shape)
            raise ValueError(f"Faces.landmarks: expected shape [{len(self)}, {POINTS}, 2], got {got}")


class FaceTask(DetectionTask):
    """Detection with landmarks. Its gates have one bound more: `landmarks`, in parts of the box's longer side."""

    name = "face"
    default_gates: Mapping[str, Gate] = {
        "onnx_fp32": {**DetectionTask.default_gates["onnx_fp32"], "landmarks": 0.01},
        "onnx_fp16": {**DetectionTask.default_gates["onnx_fp16"], "landmarks": 0.05},
        "engine": {**DetectionTask.default_gates["engine"], "landmarks": 0.05},
        "transport": {**DetectionTask.default_gates["transport"], "landmarks": 0.10},
    }

    def check(self, spec: ModelSpec) -> None:
        """Known options, three outputs: boxes, scores, landmarks; or the steps of a cascade, one of them told."""
        if spec.steps:
            _check_steps(spec)
            return
        options = parse_options(DetectionOptions, spec)
        if options.decode != "boxes_scores" or len(spec.outputs) != 3:
            what = f"{spec.name}: task face reads outputs boxes, scores, landmarks (decode boxes_scores)"
            raise SpecInvalid(f"{what}, got {list(spec.outputs)} (decode {options.decode})")
        if options.nms == "none":
            raise SpecInvalid(f"{spec.name}: options.nms: task face needs class_wise or agnostic")

    def outputs(self, spec: ModelSpec) -> tuple[TensorSpec, ...]:
        """Detection's tensors and landmarks FP32 [n, 5, 2]."""
        return (*DetectionTask.outputs(self, spec), TensorSpec("landmarks", "FP32", (-1, POINTS, 2)))

    def postprocess(
        self, raw: Mapping[str, Array], transform: ImageTransform | None, spec: ModelSpec, parameters: Mapping[str, Any]
    ) -> Faces:
        """Threshold, suppress, map boxes and landmarks to source pixels; boxes without area are left out."""
        assert transform is not None
        options = parse_options(DetectionOptions, spec)
        boxes, scores, points = self._arrays(raw, spec, options, transform)
        default, threshold = self.parameters["score_threshold"].default, parameters.get("score_threshold")
        floor = np.maximum(for_each_class(threshold, default, scores.shape[1]), np.float32(options.score_floor))
        index, class_id = np.nonzero(scores >= floor)
        limit = int(parameters.get("max_detections") or options.max_detections)
        best = np.argsort(-scores[index, class_id], kind="stable")[: max(options.pre_nms, limit)]
        index, class_id = index[best], class_id[best]
        confidence = scores[index, class_id]
        agnostic = options.nms == "agnostic"
        keep, runner_up = nms(boxes[index], confidence, class_id, options.nms_iou, agnostic=agnostic, limit=limit)
        xyxy = transform.to_source(boxes[index[keep]])
        marks = ((points[index[keep]] - transform.offset) / transform.scale).astype(np.float32)
        solid = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
        keep = keep[solid]
        return Faces(
            xyxy[solid],
            confidence[keep].astype(np.float32),
            class_id[keep].astype(np.int64),
            runner_up=runner_up[solid],
            landmarks=marks[solid],
        )

    def _arrays(
        self, raw: Mapping[str, Array], spec: ModelSpec, options: DetectionOptions, transform: ImageTransform
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """boxes xyxy [n, 4], scores [n, classes], landmarks [n, 5, 2], in pixels of the model's plane."""
        given = [np.asarray(raw[name], np.float32) for name in spec.outputs]
        count = given[0].size // 4
        if given[0].size != count * 4 or given[1].size % max(1, count) or given[2].size != count * 2 * POINTS:
            found = ", ".join(f"{name} {list(np.shape(raw[name]))}" for name in spec.outputs)
            raise SpecInvalid(
                f"{spec.name}: expected boxes [n, 4], scores [n, classes], landmarks [n, 10]; got {found}"
            )
        boxes, scores = given[0].reshape(-1, 4), activate(given[1].reshape(count, -1), options.activation)
        scores = scores[:, 1:] if options.background_class else scores
        if options.box_format == "cxcywh":
            boxes = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
        elif options.box_format == "yxyx":
            boxes = boxes[:, [1, 0, 3, 2]]
        points = given[2].reshape(-1, POINTS, 2)
        if options.box_frame == "unit":
            side = np.array([transform.model.width, transform.model.height], np.float32)
            boxes, points = boxes * np.tile(side, 2), points * side
        return boxes.astype(np.float32), scores, points

    def move(self, result: TaskResult, scale: float, offset: tuple[float, float]) -> TaskResult:
        """Boxes and landmarks in coordinates `place * scale + offset`; boxes from the log have none and move alone."""
        assert isinstance(result, Detections)
        shift = np.array(offset, np.float32)
        xyxy = (result.xyxy * np.float32(scale) + np.tile(shift, 2)).astype(np.float32)
        if not isinstance(result, Faces) or result.landmarks is None:
            return replace(result, xyxy=xyxy)
        return replace(result, xyxy=xyxy, landmarks=(result.landmarks * np.float32(scale) + shift).astype(np.float32))

    def to_document(self, result: TaskResult, labels: Sequence[str]) -> dict[str, Any]:
        """Detection's rows, each with `landmarks: [[x, y] x 5]`."""
        document = DetectionTask.to_document(self, result, labels)
        if isinstance(result, Faces) and result.landmarks is not None:
            for row, points in zip(document["detections"], result.landmarks.tolist(), strict=True):
                row["landmarks"] = [[round(v, 2) for v in point] for point in points]
        return document

    def from_steps(self, told: Mapping[str, Any]) -> Faces:
        """told: what the last stage of a cascade found in the whole picture, by the step's name."""
        return self.from_document(next(iter(told.values())))

    def from_document(self, document: Mapping[str, Any]) -> Faces:
        """`detections` back."""
        found = DetectionTask.from_document(self, document)
        points = np.array([row["landmarks"] for row in document["detections"]], np.float32).reshape(-1, POINTS, 2)
        return Faces(found.xyxy, found.confidence, found.class_id, landmarks=points)

    def to_tensors(self, result: TaskResult, spec: ModelSpec) -> dict[str, Array]:
        """Detection's tensors and landmarks."""
        assert isinstance(result, Faces) and result.landmarks is not None
        return {**DetectionTask.to_tensors(self, result, spec), "landmarks": result.landmarks}

    def count_classes(self, raw: Mapping[str, Array], spec: ModelSpec) -> int:
        """Columns of the scores, without the background's."""
        boxes, scores = (np.asarray(raw[name]) for name in spec.outputs[:2])
        background = parse_options(DetectionOptions, spec).background_class
        return int(scores.size // max(1, boxes.size // 4)) - background

    def agree(self, reference: TaskResult, candidate: TaskResult, gate: Gate, spec: ModelSpec) -> Agreement:
        """Detection's agreement, and the landmarks of matched sure boxes within gate.landmarks of the box's side."""
        assert isinstance(reference, Faces) and isinstance(candidate, Faces)
        boxes = DetectionTask.agree(self, reference, candidate, gate, spec)
        sure = np.flatnonzero(reference.confidence >= gate.get("threshold", 0.3) + gate.get("margin", 0.0))
        pairs, _ = match_boxes(reference.xyxy[sure], reference.class_id[sure], candidate.xyxy, candidate.class_id)
        assert reference.landmarks is not None and candidate.landmarks is not None
        off = 0.0
        for i, j, overlap in pairs:
            if overlap < gate.get("iou", 0.9):
                continue  # another box of the same face was chosen: a tie, or detection's own complaint
            sides = reference.xyxy[sure[i], 2:] - reference.xyxy[sure[i], :2]
            distance = np.linalg.norm(reference.landmarks[sure[i]] - candidate.landmarks[j], axis=1).max()
            off = max(off, float(distance / max(1e-6, float(sides.max()))))
        ok = off <= gate.get("landmarks", 0.05)
        figures = {**boxes.figures, "landmarks": off}
        why = [boxes.why] if not boxes.ok else []
        why += [] if ok else [f"landmarks off by {off:.3f} of the box"]
        return Agreement(boxes.ok and ok, figures, "; ".join(why))


def _check_steps(spec: ModelSpec) -> None:
    stages, told = [step.name for step in spec.steps if step.do == CASCADE], spec.answer.fields
    if len(stages) != len(spec.steps) or len(told) != 1 or told[0] not in stages or spec.answer.detections:
        raise SpecInvalid(f"{spec.name}: task face has steps `do: {CASCADE}`, the last one told by answer.fields")
    if told[0] in {step.of for step in spec.steps}:
        raise SpecInvalid(f"{spec.name}: answer.fields: step {told[0]!r} is not the last one")
    if spec.options:
        raise SpecInvalid(f"{spec.name}: options: they stand in the steps")


TASK = FaceTask()
