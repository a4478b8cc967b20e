"""Box arithmetic against torchvision, which did it first."""

from __future__ import annotations

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
@given(st.integers(0, 10_000), st.integers(1, 60), st.sampled_from([0.3, 0.45, 0.6]), st.booleans())
def test_nms_keeps_what_torchvision_keeps(seed: int, n: int, threshold: float, agnostic: bool) -> None:
    torch = pytest.importorskip("torch")
    from torchvision.ops import batched_nms

    boxes, confidence, class_id = random_boxes(seed, n)
    groups = np.zeros_like(class_id) if agnostic else class_id
    expected = batched_nms(torch.tensor(boxes), torch.tensor(confidence), torch.tensor(groups), threshold).tolist()
    kept, runner_up = nms(boxes, confidence, class_id, threshold, agnostic=agnostic, limit=n)
    assert kept.tolist() == expected
    assert (runner_up <= confidence[kept]).all()


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
