"""What each tracker costs by itself: `python -m serving.testing.tracker_bench` prints one JSON document.

CPU milliseconds a frame by number of objects; `deepsort_looks` compares appearances of 512 numbers as well, without the
embedder that makes them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

import numpy as np

from serving.ports import Tracker
from serving.trackers import TRACKERS
from serving.types import Detections

STEP_NS = 40_000_000
OBJECTS = (5, 20, 50)


def scene(objects: int, frames: int, looks: int = 0, seed: int = 3) -> Iterator[Detections]:
    """Objects that walk straight on with a pixel of noise, on a field where few overlap."""
    rng = np.random.default_rng(seed)
    place, speed = rng.uniform(0, 4000, (objects, 2)), rng.uniform(-4, 4, (objects, 2))
    size, faces = rng.uniform((30, 80), (50, 130), (objects, 2)), rng.normal(size=(objects, max(looks, 1)))
    score, kind = np.full(objects, 0.9, np.float32), np.zeros(objects, np.int64)
    for number in range(frames):
        corner = place + speed * number + rng.normal(0, 1, (objects, 2))
        xyxy = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
        look = (faces + rng.normal(0, 0.2, faces.shape)).astype(np.float32) if looks else None
        yield Detections(xyxy, score, kind, appearance=look)


def cost_ms(tracker: Tracker, objects: int, looks: int = 0, frames: int = 150, warm: int = 30) -> float:
    """CPU milliseconds a frame after `warm` frames. RuntimeError where it did not hold its tracks."""
    spent, found = 0.0, Detections.empty()
    for number, boxes in enumerate(scene(objects, warm + frames, looks)):
        started = time.thread_time()
        found = tracker.update(boxes, number * STEP_NS)
        spent += time.thread_time() - started if number >= warm else 0.0
    if found.tracker_id is None or (found.tracker_id < 0).mean() > 0.1:
        raise RuntimeError(f"tracker_bench: {objects} objects, tracks {found.tracker_id}")
    return spent * 1e3 / frames


def measure() -> dict[str, dict[int, float]]:
    """By tracker and number of objects."""
    costs = {name: {n: round(cost_ms(new(), n), 3) for n in OBJECTS} for name, new in TRACKERS.items()}
    costs["deepsort_looks"] = {n: round(cost_ms(TRACKERS["deepsort"](), n, 512), 3) for n in OBJECTS}
    return costs


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure()) + "\n")
