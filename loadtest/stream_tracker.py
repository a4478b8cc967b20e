"""ByteTrack of the `trackers` library as the server sets it, and its cost by number of objects."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
import supervision as sv
from trackers import ByteTrackTracker

OBJECTS = (5, 20, 50)
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def new_tracker() -> Any:
    """The server's settings (docs/run.md): a lost track is kept 1 s, two matches confirm, activation at 0.5."""
    return ByteTrackTracker(
        lost_track_buffer=30, frame_rate=30.0, track_activation_threshold=0.5, high_conf_det_threshold=0.5,
        minimum_iou_threshold=0.1, minimum_consecutive_frames=2,
    )  # fmt: skip


def tracked(tracker: Any, xyxy: Floats, confidence: Floats, class_id: Ints, seconds: float) -> list[int]:
    """The track of every box, -1 where it has none."""
    data: dict[str, Any] = {"place": np.arange(len(xyxy))}
    given = sv.Detections(xyxy=xyxy, confidence=confidence, class_id=class_id.astype(int), data=data)
    found = tracker.update(given, timestamp=seconds)
    ids = [-1] * len(xyxy)
    if len(found) and found.tracker_id is not None:
        for place, track in zip(found.data["place"], found.tracker_id, strict=True):
            ids[int(place)] = int(track)
    return ids


def scene(objects: int, frames: int, seed: int = 3) -> list[Floats]:
    """Boxes [objects, 4] a frame: each walks straight on, with a pixel of noise, on a field where few overlap."""
    rng = np.random.default_rng(seed)
    place = rng.uniform(0, 4000, (objects, 2))
    speed = rng.uniform(-4, 4, (objects, 2))
    size = rng.uniform((30, 80), (50, 130), (objects, 2))
    out = []
    for number in range(frames):
        corner = place + speed * number + rng.normal(0, 1, (objects, 2))
        out.append(np.concatenate([corner, corner + size], axis=1).astype(np.float32))
    return out


def cost_ms(objects: int, frames: int = 150, warm: int = 30) -> float:
    """CPU milliseconds a frame at this number of objects, after `warm` frames."""
    tracker, confidence, class_id = new_tracker(), np.full(objects, 0.9, np.float32), np.zeros(objects, np.int64)
    started = 0.0
    for number, boxes in enumerate(scene(objects, warm + frames)):
        if number == warm:
            started = time.process_time()
        tracked(tracker, boxes, confidence, class_id, number / 25)
    return (time.process_time() - started) * 1e3 / frames
