"""Detections for trackers: true boxes with drops, noise and false boxes, and synthetic walks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from evaluation.metrics.tracking import TrackedBoxes
from serving.types import Detections

MS = 1_000_000


def noised(
    truth: Mapping[int, TrackedBoxes], seed: int, drop: float = 0.1, pixels: float = 2.0, looks: int = 0
) -> Iterator[tuple[int, Detections]]:
    """Frame number and detections: a share dropped, corners moved, scores low now and then, in random order.

    looks: dimensions of an appearance that tells people apart, with noise.
    """
    rng = np.random.default_rng(seed)
    faces = rng.normal(size=(1000, max(looks, 1)))
    for frame in range(min(truth), max(truth) + 1):
        boxes = truth.get(frame)
        if boxes is None:
            yield frame, Detections.empty()
            continue
        kept = rng.permutation(np.flatnonzero(rng.random(len(boxes.ids)) >= drop))
        xyxy = (boxes.xyxy[kept] + rng.normal(0, pixels, (len(kept), 4))).astype(np.float32)
        score = np.where(rng.random(len(kept)) < 0.1, 0.3, 0.9).astype(np.float32)
        look = faces[boxes.ids[kept]] + rng.normal(0, 0.3, (len(kept), faces.shape[1]))
        yield (
            frame,
            Detections(
                xyxy, score, np.zeros(len(kept), np.int64), appearance=look.astype(np.float32) if looks else None
            ),
        )


def found_tracks(frames: Iterator[tuple[int, Detections]]) -> dict[int, TrackedBoxes]:
    """What a tracker gave, as the metrics take it: boxes without a track are left out."""
    out = {}
    for frame, boxes in frames:
        assert boxes.tracker_id is not None
        sure = boxes.tracker_id >= 0
        out[frame] = TrackedBoxes(boxes.tracker_id[sure], boxes.xyxy[sure])
    return out
