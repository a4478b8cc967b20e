"""Several frames at once: one call a model, everybody's own outcome, sessions in order."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from serving.errors import DeadlineExceeded, EngineFailed, ParameterInvalid, ServingError, Unavailable
from serving.frames import Frame, Picture
from serving.preprocess.jpeg import JpegCodec
from serving.streams.worker import Pipeline, Region, Worker
from serving.types import Detections, ImageSize, InferRequest, InferResponse


def frame(source: str, seq: int, picture: Picture | None = None) -> Frame:
    picture = picture or Picture(array=np.full((8, 8, 3), seq, np.uint8))
    return Frame(source, 1, seq, seq * 1000, seq, Fraction(1, 1000), ("m",), 0, picture)


class Model:
    """Answers with a box at x = the pixels' level; what is scripted comes first."""

    def __init__(self, *script: Any) -> None:
        self.calls: list[int] = []
        self.parameters: list[dict[str, Any]] = []
        self._script = list(script)

    def __call__(self, requests: Sequence[InferRequest]) -> list[InferResponse | ServingError]:
        self.calls.append(len(requests))
        self.parameters += [dict(request.parameters) for request in requests]
        scripted = self._script.pop(0) if self._script else [None] * len(requests)
        return [found or self._box(r) for found, r in zip(scripted, requests, strict=True)]

    @staticmethod
    def _box(request: InferRequest) -> InferResponse:
        assert request.frame is not None
        x = float(request.frame[0, 0, 0])
        boxes = Detections(np.array([[x, 0, x + 1, 1]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64))
        return InferResponse(boxes, ImageSize(8, 8), {})


class Counting:
    """A tracker whose ids are 1, 2, 3 ... in the order of calls."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def update(self, detections: Detections, pts_ns: int) -> Detections:
        self.seen.append(pts_ns)
        ids = np.full(len(detections), len(self.seen), np.int64)
        return Detections(detections.xyxy, detections.confidence, detections.class_id, ids)


def worker(model: Model, **more: Any) -> Worker:
    tracker = more.pop("new_tracker", None)
    return Worker([Pipeline("m", 1, "detection", model, lambda r: {}, new_tracker=tracker)], **more)


def ids(postings: Any) -> list[int]:
    return [int(posting.outcome.result.result.tracker_id[0]) for posting in postings]


def test_one_call_for_all_and_each_its_own_answer() -> None:
    model = Model()
    answers = worker(model).analyse_many([frame("a", 1), frame("b", 7), frame("a", 2)])
    assert model.calls == [3]
    found = [(p[0].key.source_id, p[0].outcome.result.result.xyxy[0, 0]) for p in answers]  # type: ignore[index,union-attr]
    assert found == [("a", 1.0), ("b", 7.0), ("a", 2.0)]


def test_a_frame_that_fails_is_tried_alone_and_the_others_are_not_asked_again() -> None:
    model = Model([None, EngineFailed("x"), None], [EngineFailed("x")])
    answers = worker(model).analyse_many([frame("a", 1), frame("b", 7), frame("a", 2)])
    assert model.calls == [3, 1, 1]
    assert [p[0].outcome.attempt for p in answers] == [1, 3, 1]  # type: ignore[index,union-attr]


@pytest.mark.parametrize("away", [Unavailable("x"), DeadlineExceeded("x")])
def test_a_model_that_is_away_is_not_asked_three_times(away: ServingError) -> None:
    model = Model([away, away])
    answers = worker(model).analyse_many([frame("a", 1), frame("b", 7)])
    assert model.calls == [2]
    assert [p[0].outcome.reason for p in answers] == ["model_unavailable"] * 2  # type: ignore[index,union-attr]


def test_a_mask_of_another_size_and_a_broken_picture_are_their_sources_own() -> None:
    regions = {"a": Region(mask=np.ones((4, 4), np.bool_)), "c": Region(parameters={"scenario": "night"})}
    model, broken = Model(), Picture(encoded=b"\xff\xd8nonsense")
    frames = [frame("a", 1), frame("b", 7, broken), frame("c", 3)]
    first, second, third = Worker([Pipeline("m", 1, "detection", model, lambda r: {})], regions).analyse_many(frames)
    assert isinstance(first, ParameterInvalid) and isinstance(second, ValueError) and isinstance(third, list)
    assert model.parameters == [{"scenario": "night"}], "and a source's own parameters go along"
    assert isinstance(worker(Model(), transport=JpegCodec()).analyse_many([frames[1]])[0], ValueError)


def test_trackers_see_their_source_in_order_and_begin_anew_with_other_ids() -> None:
    made: list[Counting] = []

    def new() -> Counting:
        made.append(Counting())
        return made[-1]

    role = worker(Model(), new_tracker=new, first_id=lambda f: f.frame_seq * 1000 if f.frame_seq > 2 else 0)
    first = role.analyse_many([frame("a", 1), frame("b", 1), frame("a", 2)])
    assert [ids(p) for p in first] == [[1], [1], [2]] and made[0].seen == [1000, 2000]
    role.forget("a")
    again = role.analyse_many([frame("a", 3), frame("b", 2)])
    assert [ids(p) for p in again] == [[3001], [2]], "unique in the epoch, and the other source's tracker goes on"
