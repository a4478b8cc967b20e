"""Detection: a network's boxes and scores -> boxes in source pixels after non-maximum suppression.

Three layouts of outputs are read (`options.decode`):
boxes_scores: two outputs, boxes [n, 4] and scores [n, classes];
yolov5: one output [n, 5 + classes] (cx, cy, w, h, objectness, class scores), as YOLOv5 and YOLOv7 export it;
yolov8: one output [4 + classes, n] (cx, cy, w, h, class scores), as YOLOv8 and later export it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from serving.errors import SpecInvalid
from serving.spec import ModelSpec
from serving.tasks import rules
from serving.tasks.base import Agreement, Gate, Parameter, for_each_class, parse_options
from serving.tasks.boxes import match_boxes, nms
from serving.tasks.classification import activate, label_of
from serving.types import Array, Detections, FloatArray, ImageTransform, TaskResult, TensorSpec


class DetectionOptions(BaseModel):
    """How boxes are read and thinned out. `nms_iou`, `max_detections` and `score_floor` are training-side constants."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    decode: Literal["boxes_scores", "yolov5", "yolov8"] = "boxes_scores"
    box_format: Literal["xyxy", "yxyx", "cxcywh"] = "xyxy"
    box_frame: Literal["pixels", "unit"] = Field("pixels", description="model pixels, or 0..1 of the model plane")
    activation: Literal["none", "sigmoid", "softmax"] = Field("none", description="what makes scores of logits")
    background_class: bool = Field(False, description="column 0 of the scores is 'nothing here' and is left out")
    nms: Literal["class_wise", "agnostic", "none"] = "class_wise"
    nms_iou: float = Field(0.45, ge=0, le=1)
    score_floor: float = Field(0.01, gt=0, le=1, description="boxes below are never looked at")
    pre_nms: int = Field(
        1000, ge=1, le=100_000, description="best boxes that enter suppression; max_detections if more"
    )
    max_detections: int = Field(100, ge=1, le=5000)


class DetectionTask:
    """Boxes above a threshold, best first, in source pixels."""

    name = "detection"
    options_model = DetectionOptions
    parameters: Mapping[str, Parameter] = {
        "score_threshold": Parameter("float", 0.0, 1.0, 0.3, "boxes below this confidence are left out", by_class=True),
        "max_detections": Parameter("int", 1, 5000, None, "how many boxes, best first"),
    }
    default_gates: Mapping[str, Gate] = {
        "onnx_fp32": {"threshold": 0.3, "margin": 0.0, "iou": 0.999, "score": 1e-3},
        "onnx_fp16": {"cosine": 0.9995, "threshold": 0.3, "margin": 0.05, "iou": 0.95, "score": 0.02},
        "engine": {"cosine": 0.995, "threshold": 0.3, "margin": 0.10, "iou": 0.90, "score": 0.05},
        "transport": {"threshold": 0.3, "margin": 0.15, "iou": 0.80, "score": 0.15},
    }

    def check(self, spec: ModelSpec) -> None:
        """Known options, and the number of outputs that the layout has."""
        options = parse_options(DetectionOptions, spec)
        if options.decode == "yolov5" and options.activation != "none":
            raise SpecInvalid(f"{spec.name}: options.activation: decode yolov5 multiplies scores, it reads no logits")
        wanted = 2 if options.decode == "boxes_scores" else 1
        if spec.outputs and len(spec.outputs) != wanted:
            what = f"{spec.name}: outputs: decode {options.decode} reads {wanted}"
            raise SpecInvalid(f"{what}, got {list(spec.outputs)}", hint="boxes first, then scores")

    def outputs(self, spec: ModelSpec) -> tuple[TensorSpec, ...]:
        """xyxy FP32 [n, 4], confidence FP32 [n], class_id INT32 [n]."""
        return (
            TensorSpec("xyxy", "FP32", (-1, 4)),
            TensorSpec("confidence", "FP32", (-1,)),
            TensorSpec("class_id", "INT32", (-1,)),
        )

    def postprocess(
        self, raw: Mapping[str, Array], transform: ImageTransform | None, spec: ModelSpec, parameters: Mapping[str, Any]
    ) -> Detections:
        """Read, threshold, suppress, map to source pixels, clip; boxes without area are left out."""
        if transform is None:
            raise SpecInvalid(f"{spec.name}: detection needs the picture's transform")
        options = parse_options(DetectionOptions, spec)
        default, threshold = self.parameters["score_threshold"].default, parameters.get("score_threshold")
        classes = self.count_classes(raw, spec)
        floor = np.maximum(for_each_class(threshold, default, classes), np.float32(options.score_floor))
        limit = int(parameters.get("max_detections") or options.max_detections)
        boxes, confidence, class_id = read_boxes(raw, spec, options, transform, floor, limit)
        if options.nms == "none":
            keep = np.argsort(-confidence, kind="stable")[:limit]
            runner_up = np.zeros(len(keep), np.float32)
        else:
            agnostic = options.nms == "agnostic"
            keep, runner_up = nms(boxes, confidence, class_id, options.nms_iou, agnostic=agnostic, limit=limit)
        xyxy = transform.to_source(boxes[keep])
        solid = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
        keep = keep[solid]
        found = Detections(
            xyxy[solid],
            confidence[keep].astype(np.float32),
            class_id[keep].astype(np.int64),
            runner_up=runner_up[solid],
        )
        if not spec.rules:
            return found
        return rules.ruled(found, spec, str(parameters.get("scenario", "")), transform.source, options.nms_iou)

    def count_classes(self, raw: Mapping[str, Array], spec: ModelSpec) -> int:
        """Columns of the scores, without the background's."""
        options = parse_options(DetectionOptions, spec)
        return int(_boxes_and_scores(raw, spec, options)[1].shape[1]) - options.background_class

    def check_label(self, metric: str, label: str, labels: Sequence[str]) -> None:
        """A number of objects."""
        if not label.isdecimal():
            raise SpecInvalid(f"expected the number of objects, got {label!r}")

    def to_document(self, result: TaskResult, labels: Sequence[str]) -> dict[str, Any]:
        """`detections: [{xyxy, confidence, class_id, label, track_id?, origin}]`, best first."""
        assert isinstance(result, Detections)
        tracks: Sequence[int | None] = [None] * len(result)
        if result.tracker_id is not None:
            tracks = result.tracker_id.tolist()
        columns = zip(result.xyxy.tolist(), result.confidence.tolist(), result.class_id.tolist(), tracks, strict=True)
        return {"detections": [_row(labels, *row) for row in columns], **rules.to_document(result)}

    def from_document(self, document: Mapping[str, Any]) -> Detections:
        """`detections` back."""
        rows = document["detections"]
        boxes = np.array([row["xyxy"] for row in rows], np.float32).reshape(-1, 4)
        confidence = np.array([row["confidence"] for row in rows], np.float32)
        found = Detections(boxes, confidence, np.array([row["class_id"] for row in rows], np.int64))
        return rules.from_document(found, document)

    def to_tensors(self, result: TaskResult, spec: ModelSpec) -> dict[str, Array]:
        """xyxy, confidence, class_id."""
        assert isinstance(result, Detections)
        return {
            "xyxy": result.xyxy.astype(np.float32),
            "confidence": result.confidence,
            "class_id": result.class_id.astype(np.int32),
        }

    def agree(self, reference: TaskResult, candidate: TaskResult, gate: Gate, spec: ModelSpec) -> Agreement:
        """Every sure box of either side (confidence >= threshold + margin) has a partner of its class.

        A partner has IoU >= gate.iou and a confidence within gate.score. Where the suppressed runner-up was within
        gate.margin of the box, the choice between the two was a tie: the partner may be either, so it has to be one
        that suppression takes for the same object (IoU >= options.nms_iou). The figure `boxes` counts the sure ones.
        """
        assert isinstance(reference, Detections) and isinstance(candidate, Detections)
        same_object = parse_options(DetectionOptions, spec).nms_iou
        worst = {"boxes": 0.0, "iou": 1.0, "score": 0.0, "unmatched": 0.0, "ties": 0.0}
        for a, b in ((reference, candidate), (candidate, reference)):
            sure = np.flatnonzero(a.confidence >= gate.get("threshold", 0.3) + gate.get("margin", 0.0))
            worst["boxes"] += len(sure)
            pairs, alone = match_boxes(a.xyxy[sure], a.class_id[sure], b.xyxy, b.class_id)
            worst["unmatched"] += len(alone)
            for i, j, overlap in pairs:
                worst["score"] = max(worst["score"], abs(float(a.confidence[sure[i]] - b.confidence[j])))
                tie = is_tie(a, int(sure[i]), gate) or is_tie(b, j, gate)
                if tie and same_object <= overlap < gate.get("iou", 0.9):
                    worst["ties"] += 1
                else:
                    worst["iou"] = min(worst["iou"], overlap)
        close = worst["iou"] >= gate.get("iou", 0.9) and worst["score"] <= gate.get("score", 0.05)
        what = f"unmatched {worst['unmatched']:.0f}, IoU {worst['iou']:.3f}, score off {worst['score']:.3f}"
        ok = not worst["unmatched"] and close
        return Agreement(ok, worst, "" if ok else what)

    def score(self, metric: str, results: Sequence[TaskResult], labels: Sequence[str], spec: ModelSpec) -> float:
        """count_exact: share of samples with as many boxes as the label says; recall is for `evaluation`."""
        if metric not in ("count_exact", "count_recall"):
            raise SpecInvalid(f"{spec.name}: expect.metric: expected count_exact or count_recall, got {metric!r}")
        counts = [(len(r), int(label)) for r, label in zip(results, labels, strict=True) if isinstance(r, Detections)]
        if metric == "count_exact":
            return float(np.mean([found == wanted for found, wanted in counts]))
        return sum(min(found, wanted) for found, wanted in counts) / max(1, sum(wanted for _, wanted in counts))


def is_tie(boxes: Detections, index: int, gate: Gate) -> bool:
    """Whether suppression chose this box over a runner-up by less than the gate's margin."""
    if boxes.runner_up is None or not boxes.runner_up[index]:
        return False
    return float(boxes.confidence[index] - boxes.runner_up[index]) < gate.get("margin", 0.0)


def read_boxes(
    raw: Mapping[str, Array], spec: ModelSpec, options: DetectionOptions, transform: ImageTransform, floor: FloatArray,
    limit: int = 0,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Network outputs -> xyxy in model pixels, confidence, class_id of the best boxes at or above `floor`.

    floor: float32 [classes]. As many as `pre_nms`, or as `limit` where that is more: suppression cannot keep what it
    never saw, and more candidates never change which of the better ones it keeps.
    """
    boxes, scores = _boxes_and_scores(raw, spec, options)
    scores = activate(scores, options.activation)
    if options.background_class:
        scores = scores[:, 1:]
    index, class_id = np.nonzero(scores >= floor)
    confidence = scores[index, class_id]
    best = np.argsort(-confidence, kind="stable")[: max(options.pre_nms, limit)]
    boxes, confidence, class_id = boxes[index[best]], confidence[best], class_id[best]
    if options.box_format == "cxcywh" or options.decode != "boxes_scores":
        boxes = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
    elif options.box_format == "yxyx":
        boxes = boxes[:, [1, 0, 3, 2]]
    if options.box_frame == "unit":
        boxes = boxes * np.array([transform.model.width, transform.model.height] * 2, boxes.dtype)
    return boxes.astype(np.float32), confidence.astype(np.float32), class_id


_LAYOUTS = {
    "boxes_scores": "two outputs, boxes [n, 4] and scores [n, classes]",
    "yolov5": "one output [n, 5 + classes]",
    "yolov8": "one output [4 + classes, n]",
}


def _is_layout(arrays: Sequence[Array], decode: str) -> bool:
    """Whether one sample's outputs have the layout's number and shape."""
    if decode == "boxes_scores":
        sizes = [int(array.size) for array in arrays]
        return len(sizes) == 2 and not sizes[0] % 4 and not sizes[1] % max(1, sizes[0] // 4)
    if len(arrays) != 1 or arrays[0].ndim != 2:
        return False
    rows, columns = (int(side) for side in arrays[0].shape)
    return columns > 5 if decode == "yolov5" else rows > 4


def _boxes_and_scores(raw: Mapping[str, Array], spec: ModelSpec, options: DetectionOptions) -> tuple[Array, Array]:
    arrays = [np.asarray(raw[name]) for name in spec.outputs or tuple(raw)]
    if not _is_layout(arrays, options.decode):
        found = ", ".join(f"{name} {list(np.shape(value))}" for name, value in raw.items())
        raise SpecInvalid(
            f"{spec.name}: options.decode {options.decode} reads {_LAYOUTS[options.decode]}; the network gives {found}",
            hint="set options.decode to the network's layout, or task: raw for another one",
        )
    first = arrays[0]
    if options.decode == "boxes_scores":
        boxes = first.reshape(-1, 4)
        return boxes, arrays[1].reshape(len(boxes), -1)
    if options.decode == "yolov8":
        first = first.T
        return first[:, :4], first[:, 4:]
    return first[:, :4], first[:, 5:] * first[:, 4:5]


def _row(
    labels: Sequence[str], xyxy: list[float], confidence: float, class_id: int, track: int | None
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "xyxy": [round(v, 3) for v in xyxy],
        "confidence": round(confidence, 6),
        "class_id": class_id,
        "label": label_of(labels, class_id),
    }
    if track is not None and track >= 0:
        row["track_id"] = track
    return {**row, "origin": "measured"}


TASK = DetectionTask()
