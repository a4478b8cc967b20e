"""mAP is pycocotools' to the last digit, on boxes of all sizes, crowds and ties; what is no COCO file is refused."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from evaluation.metrics.detection import FAMILY, STATS, coco_documents, coco_stats, served_rates
from serving.errors import SpecInvalid
from serving.types import Detections


def scene(seed: int, images: int = 30) -> tuple[list[Detections], list[list[tuple[float, ...]]]]:
    """True boxes of 8 to 200 pixels in three classes; found ones are moved, doubled, misnamed and invented."""
    rng = np.random.default_rng(seed)
    found, truth = [], []
    for _ in range(images):
        count = int(rng.integers(0, 8))
        start, size = rng.uniform(0, 400, (count, 2)), rng.uniform(8, 200, (count, 2))
        classes = rng.integers(0, 3, count)
        rows = zip(classes.tolist(), np.c_[start, size].tolist(), rng.random(count) < 0.1, strict=True)
        truth.append([(c, *box, box[2] * box[3], int(crowd)) for c, box, crowd in rows])
        boxes = np.r_[np.c_[start, start + size], rng.uniform(0, 400, (3, 4))]
        boxes = np.repeat(boxes + rng.normal(0, 6, boxes.shape), 2, axis=0)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        names = np.repeat(np.r_[classes, rng.integers(0, 3, 3)], 2)
        names[rng.random(len(names)) < 0.1] = 2
        order = np.argsort(-(score := rng.integers(1, 20, len(boxes)) / 20), kind="stable")
        found.append(Detections(boxes[order].astype(np.float32), score[order].astype(np.float32), names[order]))
    return found, truth


@pytest.mark.parametrize("seed", range(3))
def test_all_twelve_figures_are_those_of_pycocotools(seed: int) -> None:
    found, truth = scene(seed)
    document, results = coco_documents(found, truth)
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = document
        reference.createIndex()
        judge = COCOeval(reference, reference.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    assert list(coco_stats(found, truth).values()) == pytest.approx(list(judge.stats), abs=1e-12)
    assert 0.05 < judge.stats[0] < 0.95


def test_perfect_nothing_and_no_truth() -> None:
    truth = [[(0, 10.0, 10.0, 20.0, 20.0, 400.0, 0)], []]
    box = Detections(np.array([[10, 10, 30, 30]], np.float32), np.array([0.9], np.float32), np.array([0]))
    found = coco_stats([box, Detections.empty()], truth)
    assert found["map"] == pytest.approx(1.0) and found["map_large"] == -1
    assert coco_stats([Detections.empty()] * 2, truth) == dict.fromkeys(STATS, 0.0)
    assert served_rates([box, box], truth) == {"precision": 0.5, "recall": 1.0}
    with pytest.raises(SpecInvalid, match="no true boxes"):
        coco_stats([box], [[]])


def test_a_coco_file_is_read_by_names_of_categories(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    tree = {
        "images": [{"id": 7, "file_name": "a.png"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 5, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 5, "name": "dog"}],
    }
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(tree), "utf-8")
    (item,) = FAMILY.read(tmp_path, ("cat", "dog"))
    assert item.truth == [(1, 1.0, 2.0, 3.0, 4.0, 12.0, 0)]
    with pytest.raises(SpecInvalid, match="category 'dog' is no label of the model .the model has cat"):
        FAMILY.read(tmp_path, ("cat",))
    path.write_text("[]", "utf-8")
    with pytest.raises(SpecInvalid, match="expected COCO's keys"):
        FAMILY.read(tmp_path, ("cat",))
