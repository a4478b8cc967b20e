"""ByteTrack with real time: ids are stable, order is kept, and PTS decides how long a lost track lives."""

from __future__ import annotations

import numpy as np
import pytest

from serving.testing import tracker_bench
from serving.tracking.bytetrack import ByteTrack, TrackSettings
from serving.types import Detections

MS = 1_000_000


def boxes(*rows: tuple[float, float, int]) -> Detections:
    """(x, confidence, class) of boxes 40 wide and 80 high."""
    xyxy = np.array([[x, 50, x + 40, 130] for x, _, _ in rows], np.float32).reshape(-1, 4)
    scores = np.array([s for _, s, _ in rows], np.float32)
    return Detections(xyxy, scores, np.array([c for _, _, c in rows], np.int64))


def test_ids_are_stable_and_the_order_of_boxes_is_kept() -> None:
    tracker = ByteTrack()
    for n in range(20):
        pair = [(10 + 4 * n, 0.9, 0), (400 - 4 * n, 0.8, 0)]
        order = pair if n % 2 else pair[::-1]
        given = boxes(*order)
        found = tracker.update(given, n * 40 * MS)
        assert np.array_equal(found.xyxy, given.xyxy) and np.array_equal(found.confidence, given.confidence)
        assert found.tracker_id is not None
        if n >= 2:
            ids = found.tracker_id.tolist()
            assert (ids if n % 2 else ids[::-1]) == [1, 2] or (ids if n % 2 else ids[::-1]) == [2, 1]
            if n > 2:
                assert (ids if n % 2 else ids[::-1]) == last  # noqa: F821
            last = ids if n % 2 else ids[::-1]  # noqa: F841


@pytest.mark.parametrize(("gap_ms", "same"), [(600, True), (1600, False)])
@pytest.mark.parametrize("step_ms", [20, 100])
def test_a_lost_track_lives_by_time_and_not_by_frames(step_ms: int, gap_ms: int, same: bool) -> None:
    """At 50 and at 10 frames a second the same second of absence counts the same."""
    tracker = ByteTrack(TrackSettings(lost_s=1.0))
    now, first = 0, -1
    for _ in range(10):
        ids = tracker.update(boxes((100, 0.9, 0)), now).tracker_id
        now += step_ms * MS
        assert ids is not None
        first = int(ids[0])
    for _ in range(gap_ms // step_ms):
        tracker.update(boxes(), now)
        now += step_ms * MS
    again = -1
    for _ in range(4):
        ids = tracker.update(boxes((100, 0.9, 0)), now).tracker_id
        now += step_ms * MS
        assert ids is not None
        again = int(ids[0])
    assert first >= 1 and again >= 1 and (again == first) == same


def test_a_low_score_keeps_a_track_and_starts_none() -> None:
    tracker = ByteTrack()
    for n in range(5):
        tracker.update(boxes((100, 0.9, 0)), n * 40 * MS)
    found = tracker.update(boxes((101, 0.25, 0), (300, 0.25, 0)), 5 * 40 * MS)
    assert found.tracker_id is not None and found.tracker_id.tolist() == [1, -1]


def test_classes_are_tracked_apart_with_ids_of_their_own() -> None:
    tracker = ByteTrack()
    for n in range(5):
        found = tracker.update(boxes((100, 0.9, 0), (100, 0.9, 7)), n * 40 * MS)
    assert found.tracker_id is not None and sorted(found.tracker_id.tolist()) == [1, 2]


def test_time_never_goes_back() -> None:
    tracker = ByteTrack()
    tracker.update(boxes(), 5)
    with pytest.raises(ValueError, match="expected pts_ns over 5, got 5"):
        tracker.update(boxes(), 5)


def test_no_box_is_a_normal_answer() -> None:
    found = ByteTrack().update(Detections.empty(), 0)
    assert len(found) == 0 and found.tracker_id is not None


def test_the_cost_of_a_tracker_is_measured_on_tracks_it_holds() -> None:
    """No bound here: times belong to the bench, which must not measure a tracker that tracks nothing."""
    assert tracker_bench.cost_ms(ByteTrack(), 5, frames=20, warm=5) > 0

    class Idle:
        def update(self, detections: Detections, pts_ns: int) -> Detections:
            return detections

    with pytest.raises(RuntimeError, match="5 objects"):
        tracker_bench.cost_ms(Idle(), 5, frames=5, warm=1)
