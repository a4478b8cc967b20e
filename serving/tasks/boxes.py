"""Box arithmetic shared by tasks: IoU, greedy non-maximum suppression, matching."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from serving.types import Array, FloatArray, IntArray

BLOCK = 128


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
    kept one suppressed, 0 where there is none. Boxes are taken in blocks: each is thinned out in itself, then those
    it keeps are compared with all that follow, in one table.
    """
    order = np.argsort(-confidence, kind="stable")
    sure = confidence[order]
    sides = _Sides(xyxy[order], None if agnostic else class_id[order], threshold)
    runner_up = np.zeros(len(order), np.float32)
    kept: list[int] = []
    left = np.arange(len(order))
    while len(left) and len(kept) < limit:
        block, left = left[:BLOCK], left[BLOCK:]
        mine = block[_thinned(sides.over(block, block), sure[block], runner_up, block)]
        kept += mine.tolist()
        if len(left):
            over = sides.over(mine, left)
            gone = over.any(axis=0)
            np.maximum.at(runner_up, mine[over[:, gone].argmax(axis=0)], sure[left[gone]])
            left = left[~gone]
    best = np.asarray(kept[:limit], np.int64)
    return order[best], runner_up[best]


class _Sides:
    """Boxes by their sides, so that a table of overlaps costs no copies."""

    def __init__(self, xyxy: Array, class_id: Array | None, threshold: float) -> None:
        self._x1, self._y1, self._x2, self._y2 = np.ascontiguousarray(xyxy.T)
        self._areas, self._class_id = _area(xyxy), class_id
        bound = np.asarray(threshold, xyxy.dtype)
        if float(bound) > threshold:  # so that no float32 between the two is taken for one that is not over
            bound = np.nextafter(bound, np.asarray(-np.inf, xyxy.dtype))
        self._threshold = bound

    def over(self, a: IntArray, b: IntArray) -> npt.NDArray[np.bool_]:
        """Whether boxes at `a` [n] and `b` [m] overlap by more than the threshold and are of one class [n, m]."""
        a = a[:, None]
        width = np.minimum(self._x2[a], self._x2[b]) - np.maximum(self._x1[a], self._x1[b])
        height = np.minimum(self._y2[a], self._y2[b]) - np.maximum(self._y1[a], self._y1[b])
        inter = np.maximum(width, 0) * np.maximum(height, 0)
        with np.errstate(invalid="ignore"):  # 0 / 0: boxes without area overlap with nothing
            found = np.asarray(inter / (self._areas[a] + self._areas[b] - inter) > self._threshold)
        return found if self._class_id is None else found & (self._class_id[a] == self._class_id[b])


def _thinned(over: npt.NDArray[np.bool_], sure: Array, runner_up: FloatArray, block: IntArray) -> list[int]:
    """Rows of one block that are kept; their runner-ups go into `runner_up` at the places `block`."""
    free, kept = np.ones(len(block), bool), []
    for row in range(len(block)):
        if free[row]:
            free[row] = False
            gone = over[row] & free
            if gone.any():
                runner_up[block[row]] = sure[gone.argmax()]
                free &= ~gone
            kept.append(row)
    return kept


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
