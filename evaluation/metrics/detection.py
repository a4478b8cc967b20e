"""Scores of detectors: COCO's average precision and recall, by faster-coco-eval (equal to pycocotools, held by a test).

Truth: `annotations.json` in the data folder, in COCO's layout (images, annotations with bbox [x, y, w, h] in pixels,
categories). Categories are matched to the model's labels by name; `iscrowd` regions are ignored as COCO does.
Source: Lin et al. 2014 and the COCO evaluation code; mAP is the mean over IoU 0.50:0.05:0.95, classes and 100 boxes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from evaluation.bad_cases import Verdict
from evaluation.family import Answers, Item, Parameters
from serving.errors import SpecInvalid
from serving.types import Detections, TaskResult

STATS = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large",
         "recall_1", "recall_10", "recall_100", "recall_small", "recall_medium", "recall_large")  # fmt: skip


class DetectionFamily:
    """open: every box down to a low score, as average precision needs; served: at the thresholds that users get."""

    asks: Mapping[str, Parameters] = {"open": {"score_threshold": 0.001}, "served": {}}

    def read(self, folder: Path, labels: Sequence[str]) -> list[Item]:
        """truth: the image's boxes as (class_id, x, y, w, h, area, iscrowd), in COCO's order."""
        tree = _tree(folder / "annotations.json")
        classes = _classes(tree["categories"], labels, folder)
        boxes: dict[Any, list[tuple[Any, ...]]] = {image["id"]: [] for image in tree["images"]}
        for row in tree["annotations"]:
            if row["image_id"] not in boxes or row["category_id"] not in classes or len(row["bbox"]) != 4:
                raise SpecInvalid(f"{folder}/annotations.json: annotation {row.get('id')}: unknown image or category")
            x, y, w, h = (float(v) for v in row["bbox"])
            area, crowd = float(row.get("area", w * h)), int(row.get("iscrowd", 0))
            boxes[row["image_id"]].append((classes[row["category_id"]], x, y, w, h, area, crowd))
        items = [Item(i["file_name"], folder / i["file_name"], boxes[i["id"]]) for i in tree["images"]]
        for item in items:
            if not item.path.is_file() or folder.resolve() not in item.path.resolve().parents:
                raise SpecInvalid(f"{folder}/annotations.json: {item.name}: no such file in {folder}")
        return items

    def score(
        self, answers: Mapping[str, Sequence[TaskResult]], items: Sequence[Item], labels: Sequence[str]
    ) -> dict[str, Any]:
        """COCO's twelve figures (map, map_50 ...), map_50 a class under `by_class`, and at the served thresholds
        precision and recall at IoU 0.5 (greedy by confidence, each true box once)."""
        found = [r for r in answers["open"] if isinstance(r, Detections)]
        truth = [item.truth for item in items]
        served = [r for r in answers["served"] if isinstance(r, Detections)]
        stats = coco_stats(found, truth)
        return {**stats, **served_rates(served, truth), "by_class": by_class(found, truth, labels)}

    def judge(self, answers: Answers, items: Sequence[Item], labels: Sequence[str]) -> list[Verdict]:
        """Objects without a box of their class (IoU 0.5), and boxes without an object, weighed by confidence."""
        pairs = zip(answers["served"], items, strict=True)
        return [_judged(r, item.truth) for r, item in pairs if isinstance(r, Detections)]


def _judged(found: Detections, truth: Sequence[Any]) -> Verdict:
    from serving.tasks.boxes import match_boxes

    real = [(c, x, y, x + w, y + h) for c, x, y, w, h, _, crowd in truth if not crowd]
    corners = np.array([box[1:] for box in real], np.float32).reshape(-1, 4)
    classes = np.array([box[0] for box in real], np.int64)
    pairs, _ = match_boxes(found.xyxy, found.class_id, corners, classes)
    right = [i for i, _, overlap in pairs if overlap >= 0.5]
    too_many = np.delete(found.confidence, right)
    missed = len(real) - len(right)
    told = [f"{missed} of {len(real)} objects missed"] * bool(missed)
    told += [f"{len(too_many)} false boxes (best {too_many.max():.2f})"] if len(too_many) else []
    return Verdict(missed + float(too_many.sum()), ", ".join(told), corners.tolist())


def coco_documents(found: Sequence[Detections], truth: Sequence[Sequence[Any]]) -> tuple[dict[str, Any], list[Any]]:
    """Truth and boxes in COCO's layout; image ids count from 1."""
    annotations = [
        {"image_id": i, "category_id": c, "bbox": [x, y, w, h], "area": area, "iscrowd": crowd}
        for i, boxes in enumerate(truth, 1)
        for c, x, y, w, h, area, crowd in boxes
    ]
    document = {
        "images": [{"id": i} for i in range(1, len(truth) + 1)],
        "annotations": [{"id": n, **a} for n, a in enumerate(annotations, 1)],
        "categories": [{"id": c, "name": str(c)} for c in sorted({a["category_id"] for a in annotations})],
    }
    results = [
        {"image_id": i, "category_id": int(c), "bbox": [x1, y1, x2 - x1, y2 - y1], "score": float(s)}
        for i, boxes in enumerate(found, 1)
        for (x1, y1, x2, y2), s, c in zip(
            boxes.xyxy.astype(np.float64).tolist(), boxes.confidence, boxes.class_id, strict=True
        )
    ]
    return document, results


def coco_stats(found: Sequence[Detections], truth: Sequence[Sequence[Any]]) -> dict[str, float]:
    """COCO's figures by name; -1 where a size does not occur, as COCO writes it. No truth at all: SpecInvalid."""
    document, results = coco_documents(found, truth)
    if not document["annotations"]:
        raise SpecInvalid("no true boxes: average precision is not defined")
    if not results:
        return dict.fromkeys(STATS, 0.0)
    ours = COCO(document)
    judge = COCOeval_faster(ours, ours.loadRes(results), iouType="bbox", print_function=lambda *_: None)
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return {name: float(value) for name, value in zip(STATS, judge.stats[:12], strict=True)}


def by_class(found: Sequence[Detections], truth: Sequence[Sequence[Any]], labels: Sequence[str]) -> dict[str, float]:
    """map_50 of each class that occurs in the truth."""
    scores = {}
    for class_id in sorted({box[0] for boxes in truth for box in boxes}):
        alone = [Detections(r.xyxy[k], r.confidence[k], r.class_id[k]) for r in found for k in [r.class_id == class_id]]
        boxes = [[box for box in row if box[0] == class_id] for row in truth]
        scores[labels[class_id] if class_id < len(labels) else str(class_id)] = coco_stats(alone, boxes)["map_50"]
    return scores


def served_rates(found: Sequence[Detections], truth: Sequence[Sequence[Any]]) -> dict[str, float]:
    """precision and recall of the boxes that users get, at IoU 0.5."""
    from serving.tasks.boxes import match_boxes

    right, given, wanted = 0, 0, 0
    for result, boxes in zip(found, truth, strict=True):
        real = [(c, x, y, x + w, y + h) for c, x, y, w, h, _, crowd in boxes if not crowd]
        corners = np.array([box[1:] for box in real], np.float32).reshape(-1, 4)
        pairs, _ = match_boxes(result.xyxy, result.class_id, corners, np.array([box[0] for box in real], np.int64))
        right += sum(overlap >= 0.5 for _, _, overlap in pairs)
        given, wanted = given + len(result), wanted + len(real)
    return {"precision": right / max(1, given), "recall": right / max(1, wanted)}


def _tree(path: Path) -> Any:
    try:
        tree = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SpecInvalid(f"{path}: cannot be read: {error}", hint="boxes are given in COCO's layout") from error
    if not isinstance(tree, dict) or {"images", "annotations", "categories"} - tree.keys():
        raise SpecInvalid(f"{path}: expected COCO's keys images, annotations, categories")
    return tree


def _classes(categories: Sequence[Any], labels: Sequence[str], folder: Path) -> dict[Any, int]:
    unknown = [c["name"] for c in categories if c["name"] not in labels]
    if unknown:
        hint = f"the model has {', '.join(labels[:20])}"
        raise SpecInvalid(f"{folder}/annotations.json: category {unknown[0]!r} is no label of the model", hint=hint)
    return {c["id"]: list(labels).index(c["name"]) for c in categories}


FAMILY = DetectionFamily()
