"""The array ByteTrack gives the library's ids, box for box."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evaluation.metrics.tracking import read_mot
from serving.adapters.trackers import library_bytetrack
from serving.tracking.bytetrack import ByteTrack, TrackSettings
from serving.types import Detections
from tests.unit.tracking.track_scenes import MS, noised


@pytest.mark.parametrize("sequence", ["TUD-Campus", "TUD-Stadtmitte"])
@pytest.mark.parametrize("step_ms", [33, 40, 100])
def test_on_noised_truth(sequence: str, step_ms: int, tud: Callable[[str], Path]) -> None:
    truth = read_mot(tud(f"{sequence}/gt.txt"), truth=True)
    ours, theirs = ByteTrack(), library_bytetrack()
    told = 0
    for frame, boxes in noised(truth, seed=step_ms, drop=0.2):
        a, b = (t.update(boxes, frame * step_ms * MS).tracker_id for t in (ours, theirs))
        assert a is not None and b is not None and a.tolist() == b.tolist()
        told += int((a >= 0).sum())
    assert told > 200


@pytest.mark.parametrize("seed", range(6))
def test_on_random_walks_with_gaps_and_classes(seed: int) -> None:
    """Variable steps, gaps up to 2 s, boxes of two classes that overlap; ids agree up to their names."""
    rng = np.random.default_rng(seed)
    settings = TrackSettings(lost_s=0.7, confirm=3)
    ours, theirs = ByteTrack(settings), library_bytetrack(settings)
    place, speed = rng.uniform(0, 500, (25, 2)), rng.uniform(-6, 6, (25, 2))
    kinds = rng.integers(0, 2, 25)
    names: dict[int, int] = {}
    now, told = 0, 0
    for _ in range(120):
        now += int(rng.choice([20, 33, 40, 60, 500, 2000], p=[0.2, 0.3, 0.3, 0.15, 0.04, 0.01])) * MS
        place = place + speed
        seen = np.flatnonzero(rng.random(25) > 0.15)
        corner = place[seen] + rng.normal(0, 1, (len(seen), 2))
        xyxy = np.concatenate([corner, corner + np.array([40, 80])], axis=1).astype(np.float32)
        given = Detections(xyxy, rng.uniform(0.2, 1, len(seen)).astype(np.float32), kinds[seen])
        a, b = (t.update(given, now).tracker_id for t in (ours, theirs))
        assert a is not None and b is not None
        for mine, other in zip(a.tolist(), b.tolist(), strict=True):
            assert (mine < 0) == (other < 0)
            assert mine < 0 or names.setdefault(mine, other) == other
        told += int((a >= 0).sum())
    assert told > 500 and len(set(names.values())) == len(names)
