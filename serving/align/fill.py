"""Boxes between measurements: where tracks were at a moment at which nobody looked (docs/alignment.md, "Fill").

Between two measurements centre and logarithm of size move linearly in PTS; after the last one the centre goes on with
the velocity of the last two, and the size stays. Both are of the form `start + step * (pts - since) / span` on centre
and log size, so a plan is made once per pair of measurements and evaluated per frame.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from serving.frames import Origin
from serving.types import Detections

LOG_2 = math.log(2.0)
MIN_SIDE = 0.01  # pixels; a box needs some size to have a logarithm of it


class Way(NamedTuple):
    """One track from `start` at `since_ns`, heading for where `towards` was or will be `span_ns` away from it.

    interpolated: `towards` is the next measurement; else it is the one before, and the centre moves on from it.
    """

    start: list[float]
    towards: list[float]
    since_ns: int
    span_ns: int
    confidence: float
    class_id: int
    track: int
    interpolated: bool


class FillPlan:
    """Where a set of tracks goes. Made once per pair of measurements, evaluated with `at` for each frame."""

    __slots__ = (
        "_base_ns",
        "_centre",
        "_centre_step",
        "_class_id",
        "_confidence",
        "_per_ns",
        "_since",
        "_size",
        "_size_step",
        "_tracker_id",
        "origin",
    )

    def __init__(self, ways: list[Way]) -> None:
        base = ways[0].since_ns
        table = np.array([(*w[0], *w[1], w[2] - base, *w[3:]) for w in ways], np.float64)
        start, towards = table[:, :4], table[:, 4:8]
        onward = table[:, 13] == 0.0
        self._centre = (start[:, :2] + start[:, 2:]) * 0.5
        self._centre_step = (towards[:, :2] + towards[:, 2:]) * 0.5 - self._centre
        size, end = np.log(
            np.maximum(np.stack([start[:, 2:] - start[:, :2], towards[:, 2:] - towards[:, :2]]), MIN_SIDE)
        )
        self._size = size - LOG_2
        self._size_step = end - size
        if onward.any():
            self._centre_step[onward] *= -1.0
            self._size_step[onward] = 0.0
        self._base_ns = base
        self._since = table[:, 8:9]
        self._per_ns = 1.0 / table[:, 9:10]
        self._confidence = table[:, 10].astype(np.float32)
        self._class_id = table[:, 11].astype(np.int64)
        self._tracker_id = np.array([w.track for w in ways], np.int64)
        self.origin = (onward + np.uint8(Origin.INTERPOLATED.value)).astype(np.uint8)

    def at(self, pts_ns: int) -> Detections:
        """The boxes at `pts_ns`, xyxy float32 [n, 4], in the order of the ways."""
        share = (pts_ns - self._base_ns - self._since) * self._per_ns
        centre = self._centre_step * share
        centre += self._centre
        half = self._size_step * share
        half += self._size
        np.exp(half, out=half)
        boxes = np.empty((len(half), 4), np.float32)
        boxes[:, :2] = centre - half
        centre += half
        boxes[:, 2:] = centre
        return Detections(boxes, self._confidence, self._class_id, self._tracker_id)


def box_at(way: Way, pts_ns: int) -> tuple[float, float, float, float]:
    """The same for one track, without arrays: cheaper for a few."""
    x1, y1, x2, y2 = way.start
    a1, b1, a2, b2 = way.towards
    share = (pts_ns - way.since_ns) / way.span_ns
    if not way.interpolated:
        dx, dy = (x1 + x2 - a1 - a2) * 0.5 * share, (y1 + y2 - b1 - b2) * 0.5 * share
        return x1 + dx, y1 + dy, x2 + dx, y2 + dy
    width, height = max(x2 - x1, MIN_SIDE), max(y2 - y1, MIN_SIDE)
    half_w = 0.5 * width * (max(a2 - a1, MIN_SIDE) / width) ** share
    half_h = 0.5 * height * (max(b2 - b1, MIN_SIDE) / height) ** share
    x = 0.5 * (x1 + x2 + (a1 + a2 - x1 - x2) * share)
    y = 0.5 * (y1 + y2 + (b1 + b2 - y1 - y2) * share)
    return x - half_w, y - half_h, x + half_w, y + half_h
