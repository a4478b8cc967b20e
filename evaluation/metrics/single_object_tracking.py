"""Scores of single-object tracking: success and precision curves, one-pass evaluation as in OTB.

Source: Wu, Lim, Yang, "Online Object Tracking: A Benchmark" (CVPR 2013) and "Object Tracking Benchmark" (PAMI 2015).
Success: share of pictures whose IoU with the truth is above a threshold, thresholds 0 to 1 by 0.05; its area under the
curve is the mean of those 21 shares. Precision: share whose centre is at most so many pixels away, 0 to 50; the figure
at 20 pixels is the one told. Pictures in which the object cannot be seen are in neither curve; they count for `false`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.errors import InputError

OVERLAPS = np.linspace(0, 1, 21)
PIXELS = np.arange(51)
Boxes = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FollowScores:
    """success: at OVERLAPS; precision: at PIXELS; shares in 0..1 of the pictures with truth.

    auc: of success; precision_20: within 20 pixels; false: share of pictures without the object that have a box all the
    same, 0 where there is none; frames: pictures with truth.
    """

    success: npt.NDArray[np.float64]
    precision: npt.NDArray[np.float64]
    auc: float
    precision_20: float
    false: float
    frames: int


def score_following(truth: Sequence[Sequence[float] | None], found: Sequence[Sequence[float] | None]) -> FollowScores:
    """Boxes x1, y1, x2, y2 of one sequence, picture by picture; None: not to be seen, or no box. The first picture gave
    the box and is not scored. Raises InputError for lengths that differ, or nothing to score."""
    if len(truth) != len(found):
        raise InputError(f"single-object tracking: {len(truth)} pictures have truth, {len(found)} have an answer")
    rows = list(zip(truth, found, strict=True))[1:]
    seen = [(real, box) for real, box in rows if real is not None]
    absent = [box for real, box in rows if real is None]
    if not seen:
        raise InputError("single-object tracking: expected a picture behind the first one with a true box")
    real = np.array([row[0] for row in seen], np.float64)
    nowhere = (np.nan,) * 4
    ours = np.array([row[1] if row[1] is not None else nowhere for row in seen], np.float64)
    overlap, away = np.nan_to_num(iou(real, ours), nan=0.0), np.nan_to_num(_distance(real, ours), nan=np.inf)
    success = (overlap[None, :] > OVERLAPS[:, None]).mean(axis=1)
    precision = (away[None, :] <= PIXELS[:, None]).mean(axis=1)
    wrong = float(np.mean([box is not None for box in absent])) if absent else 0.0
    return FollowScores(success, precision, float(success.mean()), float(precision[20]), wrong, len(seen))


def iou(one: Boxes, other: Boxes) -> npt.NDArray[np.float64]:
    """Intersection over union, row by row: [n, 4], [n, 4] -> [n]."""
    sides = np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2])
    shared = np.prod(np.clip(sides, 0, None), axis=1)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (one, other)]
    return np.asarray(shared / np.maximum(areas[0] + areas[1] - shared, 1e-12))


def _distance(one: Boxes, other: Boxes) -> npt.NDArray[np.float64]:
    return np.asarray(np.linalg.norm((one[:, :2] + one[:, 2:] - other[:, :2] - other[:, 2:]) / 2, axis=1))
