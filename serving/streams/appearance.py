"""What boxes look like, for trackers: each box's part of the picture through an embedding model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from serving.errors import ServingError
from serving.tasks.base import Infer
from serving.types import Detections, Embedding, FloatArray, InferRequest, InferResponse, PixelArray

Looks = Callable[[PixelArray, Detections], FloatArray | None]


class Appearance:
    """Asks `infer` once a frame for all boxes whose score is `least` or more.

    A frame whose model did not answer has no looks: its boxes are matched by overlap. `failures` counts them.
    """

    def __init__(self, infer: Infer, least: float = 0.5) -> None:
        self._infer, self._least = infer, least
        self.failures = 0

    def __call__(self, picture: PixelArray, boxes: Detections) -> FloatArray | None:
        """float32 [boxes, d], zeros for boxes that were not asked about; None where there are none."""
        parts = {n: _part(picture, boxes.xyxy[n]) for n in np.flatnonzero(boxes.confidence >= self._least).tolist()}
        asked = [n for n, part in parts.items() if part is not None]
        if not asked:
            return None
        try:
            answers = self._infer([InferRequest(frame=parts[n]) for n in asked])
        except ServingError:
            answers = []
        vectors = [a.result.vector for a in answers if isinstance(a, InferResponse) and isinstance(a.result, Embedding)]
        if len(vectors) != len(asked):
            self.failures += 1
            return None
        looks = np.zeros((len(boxes), len(vectors[0])), np.float32)
        looks[asked] = np.stack(vectors)
        return looks


def _part(picture: PixelArray, box: FloatArray) -> PixelArray | None:
    """The box's pixels, a copy; None where it has none."""
    height, width = picture.shape[:2]
    if not np.isfinite(box).all():
        return None
    x1, y1 = max(0, int(np.floor(box[0]))), max(0, int(np.floor(box[1])))
    x2, y2 = min(width, int(np.ceil(box[2]))), min(height, int(np.ceil(box[3])))
    return np.ascontiguousarray(picture[y1:y2, x1:x2]) if x2 > x1 and y2 > y1 else None
