"""Box arithmetic shared by tasks: IoU, greedy non-maximum suppression, matching."""

from __future__ import annotations

import numpy as np

from serving.types import Array, FloatArray, IntArray


def iou_matrix(a: Array, b: Array) -> FloatArray:
    """Intersection over union of xyxy boxes `[n, 4]` and `[m, 4]` -> float32 [n, m]; 0 where a union is empty."""
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = np.prod(np.clip(bottom_right - top_left, 0, None), axis=2)
    union = _area(a)[:, None] + _area(b)[None, :] - inter
    return np.asarray(np.divide(inter, union, out=np.zeros(inter.shape), where=union > 0), np.float32)


def _area(boxes: Array) -> Array:
    return np.asarray(np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1))


def nms(
    xyxy: Array, confidence: Array, class_id: Array, threshold: float, *, agnostic: bool, limit: int
) -> tuple[IntArray, FloatArray]:
    """Greedy non-maximum suppression: (indices kept, best first, at most `limit`; confidence of each one's runner-up).

    A box goes when its IoU with a better kept box is over `threshold` (the rule of TensorFlow and torchvision).
    Class by class unless `agnostic`; ties in confidence go to the lower index. The runner-up is the best box that a
    kept one suppressed, 0 where there is none.
    """
    order = np.argsort(-confidence, kind="stable")
    kept: list[int] = []
    runner_up: list[float] = []
    while len(order) and len(kept) < limit:
        best, rest = int(order[0]), order[1:]
        close = iou_matrix(xyxy[best : best + 1], xyxy[rest])[0] > threshold
        if not agnostic:
            close &= class_id[rest] == class_id[best]
        kept.append(best)
        runner_up.append(float(confidence[rest[close][0]]) if close.any() else 0.0)
        order = rest[~close]
    return np.asarray(kept, np.int64), np.asarray(runner_up, np.float32)


def match_boxes(a: Array, a_class: Array, b: Array, b_class: Array) -> tuple[list[tuple[int, int, float]], list[int]]:
    """Match each box of `a`, in order, to the best free box of `b` of its class.

    Returns (index in a, index in b, IoU) triples and the indices of `a` that found none with IoU > 0.
    """
    table = iou_matrix(a, b)
    table[a_class[:, None] != b_class[None, :]] = 0.0
    pairs: list[tuple[int, int, float]] = []
    alone: list[int] = []
    for i in range(len(a)):
        j = int(table[i].argmax()) if len(b) else -1
        if j < 0 or table[i, j] <= 0:
            alone.append(i)
            continue
        pairs.append((i, j, float(table[i, j])))
        table[:, j] = 0.0
    return pairs, alone
