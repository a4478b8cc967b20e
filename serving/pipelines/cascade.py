"""Boxes on their way through a cascade of networks (Zhang et al., MTCNN, arXiv:1604.02878).

Boxes here are float32 [n, 4] as the paper's code has them: first and last pixel in x and y, counted from 1, so that a
side is x2 - x1 + 1; `settled` turns them into those of this project. The order of steps and the rounding are those
of facenet-pytorch 2.6.0, which a test runs beside this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from serving.preprocess.pyramid import LONGEST, AreaMeans, Level
from serving.tasks.boxes import nms
from serving.tasks.face import Faces
from serving.types import Array, FloatArray, ImageSize, IntArray, PixelArray

WINDOW, STRIDE = 12, 2  # what a cell of the proposal network sees, and how far it is to the next
MOST_WINDOWS = 1000  # the best of one level that enter suppression
SAME_WINDOW = 0.5  # IoU over which two windows of one level are one


@dataclass(frozen=True, slots=True)
class Rule:
    """Which candidates stay: over a probability, less than `overlap` of a better one, and how many."""

    threshold: float
    overlap: float
    most: int


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a stage found in one picture of `size`, best first. means: of the picture, or of a smaller one where it is
    very large; boxes are in its pixels. scores [n]; edges: int64 [n, 4], the part of each box that is in it."""

    size: ImageSize
    means: AreaMeans
    boxes: FloatArray
    scores: FloatArray
    edges: IntArray

    @property
    def scale(self) -> FloatArray:
        """Pixels of `means` a source pixel: [2]."""
        small, size = self.means.size, self.size
        return np.array([small.width / size.width, small.height / size.height], np.float32)


def opened(pixels: PixelArray) -> Candidates:
    """A picture without candidates yet."""
    height, width = pixels.shape[:2]
    size, scale = ImageSize(width, height), LONGEST / max(height, width)
    if scale < 1:
        sides = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels = np.asarray(cv2.resize(pixels, sides, interpolation=cv2.INTER_AREA), np.uint8)
    none = np.zeros((0, 4), np.float32)
    return Candidates(size, AreaMeans(pixels), none, np.zeros(0, np.float32), none.astype(np.int64))


def proposed(
    begun: Candidates, levels: Sequence[Level], probability: Array, regression: Array, rule: Rule
) -> Candidates:
    """Windows of all levels. probability [1, h, w], regression [4, h, w]: a cell for every second pixel of a plane."""
    parts = [_windows(level, probability[0], regression, rule.threshold) for level in levels]
    boxes, scores, shifts = (np.concatenate(column) for column in zip(*parts, strict=True))
    keep = _kept(boxes, scores, rule.overlap, rule.most)
    sides = np.tile(boxes[keep, 2:] - boxes[keep, :2], 2)
    return _ready(begun, boxes[keep] + shifts[keep] * sides, scores[keep])


def refined(asked: Candidates, outputs: Sequence[FloatArray], rule: Rule) -> Candidates:
    """The candidates that a second network takes for faces too. outputs: probability [n, 1], regression [n, 4]."""
    scores, shifts = outputs[0][:, 0], outputs[1]
    sure = np.flatnonzero(scores > rule.threshold)
    sure = sure[_kept(asked.boxes[sure], scores[sure], rule.overlap, rule.most)]
    return _ready(asked, calibrated(asked.boxes[sure], shifts[sure]), scores[sure])


def settled(asked: Candidates, outputs: Sequence[FloatArray], rule: Rule) -> Faces:
    """The faces that the last network sees, in source pixels. outputs: probability [n, 1], regression [n, 4], landmarks
    [n, 10] (five x, then five y, in parts of the box). The smaller of two boxes goes where the better one covers it."""
    scores, shifts, points = outputs[0][:, 0], outputs[1], outputs[2]
    sure = np.flatnonzero(scores > rule.threshold)
    boxes = asked.boxes[sure]
    sides = (boxes[:, 2:] - boxes[:, :2] + 1)[:, None]
    marks = points[sure].reshape(-1, 2, 5).transpose(0, 2, 1) * sides + boxes[:, None, :2] - 1
    boxes = calibrated(boxes, shifts[sure])
    keep = without_covered(boxes, scores[sure], rule.overlap)
    bounds = np.array([asked.size.width, asked.size.height] * 2, np.float32)
    xyxy = np.clip((boxes[keep] - np.array([1, 1, 0, 0], np.float32)) / np.tile(asked.scale, 2), 0, bounds)
    solid = (xyxy[:, 2:] > xyxy[:, :2]).all(axis=1)
    keep, xyxy = keep[solid][: rule.most], xyxy[solid][: rule.most]
    return Faces(
        np.asarray(xyxy, np.float32), scores[sure][keep], np.zeros(len(keep), np.int64),
        landmarks=np.asarray(marks[keep] / asked.scale, np.float32),
    )  # fmt: skip


def calibrated(boxes: FloatArray, shifts: FloatArray) -> FloatArray:
    """Sides moved by parts of the box's own."""
    sides = np.tile(boxes[:, 2:] - boxes[:, :2] + 1, 2)
    return boxes + shifts * sides


def squared(boxes: FloatArray) -> FloatArray:
    """Around the same middle, as wide as high."""
    sides = boxes[:, 2:] - boxes[:, :2]
    longer = sides.max(axis=1, keepdims=True, initial=0)
    first = boxes[:, :2] + (sides - longer) * np.float32(0.5)
    return np.concatenate([first, first + longer], axis=1)


def inside(boxes: FloatArray, size: ImageSize) -> IntArray:
    """The part of each box that is in the picture, as edges x1, y1, x2, y2 [n, 4] counted from 0. What lies outside is
    cut off, not filled: the networks see the rest stretched, as they do in facenet-pytorch."""
    whole = np.trunc(boxes).astype(np.int64)
    first, last = np.maximum(whole[:, :2], 1) - 1, np.minimum(whole[:, 2:], (size.width, size.height))
    return np.concatenate([first, last], axis=1)


def without_covered(boxes: FloatArray, scores: FloatArray, overlap: float) -> IntArray:
    """Greedy suppression by the part of the smaller box that two share: indices kept, best first. One face inside
    another's box is no second face."""
    areas = np.prod(boxes[:, 2:] - boxes[:, :2] + 1, axis=1)
    left, kept = np.argsort(-scores, kind="stable"), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        low, high = np.maximum(boxes[best, :2], boxes[left, :2]), np.minimum(boxes[best, 2:], boxes[left, 2:])
        shared = np.prod(np.clip(high - low + 1, 0, None), axis=1)
        left = left[shared <= overlap * np.minimum(areas[best], areas[left])]
    return np.array(kept, np.int64)


def _windows(level: Level, probability: Array, regression: Array, threshold: float) -> tuple[Array, Array, Array]:
    """Boxes, scores and shifts of one level's windows, without those that are the same. Only cells whose window lies
    wholly in the level are looked at: the next ones see its neighbours on the plane."""
    rows, columns = ((side - WINDOW) // STRIDE + 1 for side in (level.height, level.width))
    top, left = level.y // STRIDE, level.x // STRIDE
    there = (slice(top, top + rows), slice(left, left + columns))
    row, column = np.nonzero(probability[there] >= threshold)
    scores = probability[there][row, column].astype(np.float32)
    best = np.argsort(-scores, kind="stable")[:MOST_WINDOWS]
    cells, scores = np.stack([column[best], row[best]], axis=1).astype(np.float32), scores[best]
    first = np.floor((STRIDE * cells + 1) / np.float32(level.scale))
    last = np.floor((STRIDE * cells + WINDOW) / np.float32(level.scale))
    boxes = np.concatenate([first, last], axis=1)
    keep = _kept(boxes, scores, SAME_WINDOW, MOST_WINDOWS)
    shifts = regression[(slice(None), *there)][:, row[best], column[best]].T
    return boxes[keep], scores[keep], shifts[keep].astype(np.float32)


def _kept(boxes: Array, scores: Array, overlap: float, most: int) -> IntArray:
    return nms(boxes, scores, np.zeros(len(boxes), np.int64), overlap, agnostic=True, limit=most)[0]


def _ready(before: Candidates, boxes: FloatArray, scores: FloatArray) -> Candidates:
    """Squares for the next network; those outside the picture are left out."""
    boxes = squared(boxes)
    edges = inside(boxes, before.means.size)
    some = (edges[:, 2:] > edges[:, :2]).all(axis=1)
    return replace(before, boxes=boxes[some], scores=scores[some], edges=edges[some])
