"""Box arithmetic against torchvision, which did it first."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.tasks.boxes import iou_matrix, match_boxes, nms


def random_boxes(seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 80, (n, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 40, (n, 2))], 1).astype(np.float32)
    return boxes, rng.permutation(n).astype(np.float32) / n, rng.integers(0, 3, n)


@pytest.mark.needs("torch")
@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.integers(0, 10_000), st.sampled_from([1, 7, 127, 128, 129, 600]), st.sampled_from([0.3, 0.45, 0.5, 0.6]),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_nms_keeps_what_torchvision_keeps(seed: int, n: int, threshold: float, agnostic: bool, whole: bool) -> None:
    torch = pytest.importorskip("torch")
    from torchvision.ops import batched_nms

    boxes, confidence, class_id = random_boxes(seed, n)
    if whole:  # IoUs that are exactly the threshold, boxes without area, equal confidences
        boxes, confidence = np.rint(boxes), np.rint(confidence * 50) / np.float32(50)
    groups = np.zeros_like(class_id) if agnostic else class_id
    expected = batched_nms(torch.tensor(boxes), torch.tensor(confidence), torch.tensor(groups), threshold).tolist()
    kept, runner_up = nms(boxes, confidence, class_id, threshold, agnostic=agnostic, limit=n)
    assert kept.tolist() == expected
    assert (runner_up <= confidence[kept]).all()


@pytest.mark.parametrize("limit", [100, 500, 5000])
@pytest.mark.parametrize("agnostic", [False, True])
def test_nms_keeps_what_onnx_runtimes_operator_keeps_at_every_limit(limit: int, agnostic: bool) -> None:
    """ONNX's NonMaxSuppression limits each class by itself: its limit is ours where there is one class."""
    rng = np.random.default_rng(limit)
    corner = rng.uniform(0, 3000, (6000, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 60, (6000, 2))], 1).astype(np.float32)
    confidence = rng.permutation(6000).astype(np.float32) / 6000
    class_id = rng.integers(0, 3, 6000)
    floor = 0.1
    sure = np.flatnonzero(confidence >= floor)
    kept, _ = nms(boxes[sure], confidence[sure], class_id[sure], 0.5, agnostic=agnostic, limit=limit)
    scores = np.zeros((1, 1 if agnostic else 3, 6000), np.float32)
    scores[0, 0 if agnostic else class_id, np.arange(6000)] = confidence
    found = in_graph(boxes[None], scores, limit, 0.5, np.nextafter(np.float32(floor), np.float32(0)))
    best = found[np.argsort(-confidence[found[:, 2]], kind="stable"), 2][:limit]
    assert len(kept) == min(limit, len(best)) > 90
    assert sure[kept].tolist() == best.tolist()


def in_graph(boxes: np.ndarray, scores: np.ndarray, limit: int, iou: float, floor: float) -> np.ndarray:
    """What ONNX Runtime's NonMaxSuppression gives: [kept, (picture, class, box)]."""
    from onnx import TensorProto, helper
    from onnxruntime import InferenceSession

    given = {"boxes": boxes, "scores": scores, "limit": np.int64([limit]), "iou": np.float32([iou]),
             "floor": np.float32([floor])}  # fmt: skip
    kinds = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64}
    inputs = [helper.make_tensor_value_info(n, kinds[a.dtype], a.shape) for n, a in given.items()]
    output = helper.make_tensor_value_info("kept", TensorProto.INT64, [None, 3])
    graph = helper.make_graph([helper.make_node("NonMaxSuppression", list(given), ["kept"])], "nms", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return np.asarray(InferenceSession(model.SerializeToString()).run(None, given)[0])


def test_suppression_of_5000_boxes_takes_no_time_of_its_own() -> None:
    """One table a block, not one pass a box: 5000 boxes that are all kept took 3 s, box by box. Seen now: 0.2 s."""
    side = np.arange(5000, dtype=np.float32) * 10
    boxes = np.stack([side, side, side + 9, side + 9], 1)
    began = time.process_time()
    kept, _ = nms(boxes, np.linspace(1, 0.1, 5000), np.zeros(5000, np.int64), 0.5, agnostic=True, limit=5000)
    assert len(kept) == 5000
    assert time.process_time() - began < 1.5


def test_nms_stops_at_the_limit_and_takes_nothing_from_nothing() -> None:
    boxes, confidence, class_id = random_boxes(1, 20)
    assert len(nms(boxes, confidence, class_id, 1.0, agnostic=True, limit=5)[0]) == 5
    empty = np.zeros((0, 4), np.float32)
    assert len(nms(empty, np.zeros(0), np.zeros(0), 0.5, agnostic=True, limit=5)[0]) == 0


def test_the_runner_up_is_the_best_box_that_was_suppressed() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 11], [0, 0, 10, 9], [50, 50, 60, 60]], np.float32)
    kept, runner_up = nms(boxes, np.array([0.9, 0.5, 0.8, 0.7]), np.zeros(4), 0.5, agnostic=False, limit=9)
    assert kept.tolist() == [0, 3]
    assert np.allclose(runner_up, [0.8, 0.0])


def test_iou_of_boxes_without_area_is_zero() -> None:
    point = np.array([[1, 1, 1, 1]], np.float32)
    assert iou_matrix(point, point).tolist() == [[0.0]]
    assert iou_matrix(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 3, 2]]))[0, 0] == pytest.approx(1 / 3)


def test_a_partner_is_used_once_and_of_the_same_class() -> None:
    a = np.array([[0, 0, 10, 10], [0, 0, 10, 11]], np.float32)
    pairs, alone = match_boxes(a, np.array([0, 0]), a[:1], np.array([0]))
    assert pairs == [(0, 0, 1.0)] and alone == [1]
    assert match_boxes(a[:1], np.array([0]), a[:1], np.array([1])) == ([], [0])
