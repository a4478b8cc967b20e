"""Boxes between measurements: where tracks were at a moment at which nobody looked (docs/alignment.md, "Fill").

Between two measurements centre and logarithm of size move linearly in PTS; after the last one the centre goes on with
the velocity of the last two, and the size stays. Both are of the form `start + delta * (pts - since) / span` on rows of
(centre x, centre y, log width, log height), so a plan is made once per pair of measurements and evaluated per frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from serving.frames import Origin
from serving.types import Detections, FloatArray, IntArray, PixelArray

Rows = npt.NDArray[np.float64]
MIN_SIDE = 0.01  # pixels; a box needs some size to have a logarithm of it


class Way(NamedTuple):
    """One track from `start` at `since_ns`, heading for where `towards` was or will be `span_ns` away from it.

    interpolated: `towards` is the next measurement; else it is the one before, and the centre moves on from it.
    """

    track: int
    confidence: float
    class_id: int
    start: list[float]
    since_ns: int
    towards: list[float]
    span_ns: int
    interpolated: bool


@dataclass(frozen=True, slots=True)
class FillPlan:
    """Where a set of tracks goes. Evaluate with `at`."""

    start: Rows
    delta: Rows
    since_ns: npt.NDArray[np.int64]
    per_ns: Rows
    confidence: FloatArray
    class_id: IntArray
    tracker_id: IntArray
    origin: PixelArray

    @classmethod
    def of(cls, ways: list[Way]) -> FillPlan:
        """One row for each way, in their order."""
        start = _rows([way.start for way in ways])
        towards = _rows([way.towards for way in ways])
        onward = np.array([not way.interpolated for way in ways])
        delta = towards - start
        delta[onward, :2] *= -1.0
        delta[onward, 2:] = 0.0
        return cls(
            start,
            delta,
            np.array([way.since_ns for way in ways], np.int64),
            1.0 / np.array([way.span_ns for way in ways], np.float64),
            np.array([way.confidence for way in ways], np.float32),
            np.array([way.class_id for way in ways], np.int64),
            np.array([way.track for way in ways], np.int64),
            np.where(onward, Origin.EXTRAPOLATED.value, Origin.INTERPOLATED.value).astype(np.uint8),
        )

    def at(self, pts_ns: int) -> Detections:
        """The boxes at `pts_ns`, xyxy float32 [n, 4]."""
        rows = self.delta * ((pts_ns - self.since_ns) * self.per_ns)[:, None]
        rows += self.start
        half = np.exp(rows[:, 2:])
        half *= 0.5
        boxes = np.empty((len(rows), 4), np.float32)
        np.subtract(rows[:, :2], half, out=boxes[:, :2], casting="same_kind")
        np.add(rows[:, :2], half, out=boxes[:, 2:], casting="same_kind")
        return Detections(boxes, self.confidence, self.class_id, self.tracker_id)


def _rows(boxes: list[list[float]]) -> Rows:
    """xyxy -> centre and log size, float64 [n, 4]."""
    xyxy = np.array(boxes, np.float64)
    rows = np.empty_like(xyxy)
    rows[:, :2] = (xyxy[:, :2] + xyxy[:, 2:]) * 0.5
    rows[:, 2:] = np.log(np.maximum(xyxy[:, 2:] - xyxy[:, :2], MIN_SIDE))
    return rows
