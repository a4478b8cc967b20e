"""What boxes look like: their own pixels reach the embedder, once a frame, and the tracker gets the vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from serving.errors import ParameterInvalid, Unavailable
from serving.records import StreamMessage
from serving.roles.regions import SourceRegions
from serving.streams.appearance import Appearance
from serving.streams.sessions import TrackerSession
from serving.trackers import TRACKERS, check_reid, check_track
from serving.types import Detections, Embedding, InferRequest, InferResponse

BOXES = Detections(
    np.array([[0, 0, 10, 20], [15.5, -5, 30, 9.5], [90, 90, 99, 99], [2, 2, 8, 8]], np.float32),
    np.array([0.9, 0.8, 0.9, 0.2], np.float32),
    np.zeros(4, np.int64),
)


class Embedder:
    """Mean colour of each crop; remembers how it was asked."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[int, ...]]] = []
        self.away = False

    def __call__(self, requests: Sequence[InferRequest]) -> list[InferResponse]:
        crops = [r.frame for r in requests if r.frame is not None]
        self.calls.append([crop.shape for crop in crops])
        if self.away:
            raise Unavailable("away")
        vectors = [crop.reshape(-1, 3).mean(axis=0).astype(np.float32) for crop in crops]
        return [InferResponse(Embedding(v), None, {}) for v in vectors]


def picture() -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    rgb = np.zeros((60, 80, 3), np.uint8)
    rgb[:20, :10], rgb[:10, 15:30] = (200, 0, 0), (0, 100, 0)
    return rgb


def test_crops_are_clipped_and_sent_in_one_call() -> None:
    ask = Embedder()
    looks = Appearance(ask)(picture(), BOXES)
    assert ask.calls == [[(20, 10, 3), (10, 15, 3)]]  # the third lies outside, the fourth scores too low
    assert looks is not None and looks.tolist() == [[200, 0, 0], [0, 100, 0], [0, 0, 0], [0, 0, 0]]


def test_no_box_asks_nothing_and_a_model_that_is_away_gives_none() -> None:
    ask = Embedder()
    appearance = Appearance(ask)
    assert appearance(picture(), Detections.empty()) is None and ask.calls == []
    ask.away = True
    assert appearance(picture(), BOXES) is None and appearance.failures == 1


def test_the_tracker_sees_appearances_and_results_do_not_carry_them() -> None:
    seen = []

    class Watching:
        def update(self, detections: Detections, pts_ns: int) -> Detections:
            seen.append(detections.appearance)
            return detections

    session = TrackerSession(Watching(), looks=Appearance(Embedder()))
    found = session.update(BOXES, 0, picture())
    assert isinstance(found, Detections) and found.appearance is None and seen[0] is not None


def test_an_unknown_tracker_and_a_model_that_embeds_nothing_are_refused() -> None:
    check_track("--track", "deepsort")
    with pytest.raises(ParameterInvalid, match="bytetrack, ocsort, deepsort, got sort"):
        check_track("--track", "sort")
    with pytest.raises(ParameterInvalid, match="task embedding, got task detection"):
        check_reid("person_ssdlite", "detection")


def test_a_registered_source_compares_appearances_only_where_all_its_models_have_them() -> None:
    regions = SourceRegions(TRACKERS, lambda stream, path: True, frozenset({"person_ssdlite"}))
    for name, models in (("gate", ("person_track_reid",)), ("yard", ("person_track_reid", "person_ssdlite"))):
        regions.wish(name, StreamMessage(name, "udp://127.0.0.1:5000", models, track="deepsort"))
    assert regions["gate"].new_tracker is TRACKERS["deepsort"]
    with pytest.raises(ParameterInvalid, match="streams.track of yard: deepsort: expected --reid .*person_ssdlite"):
        regions["yard"]
    regions.wish("yard", StreamMessage("yard", "udp://127.0.0.1:5000", ("person_ssdlite",), track="bytetrack"))
    assert regions["yard"].new_tracker is TRACKERS["bytetrack"]
