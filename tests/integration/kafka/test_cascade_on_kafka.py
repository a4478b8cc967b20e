"""A face detector of several networks as a Kafka worker: over a real broker it says what `lockstep run` says."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest

from serving.streams.models import OpenedModel, in_process
from tests.integration.kafka import test_sound_on_kafka as over
from tests.integration.kafka.test_workloads_on_kafka import FRAMES, SIDE, Row, clip, corner, through, wanted
from tests.unit.pipelines.cascade_support import STAGES, cascade, nets

ROW = Row("reds", "bytetrack")


@pytest.mark.needs("kafka")
def test_faces_of_a_cascade_over_a_real_broker_are_those_of_run(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    steps = deepcopy(STAGES)
    for step in steps:
        step["options"] = {"threshold": 0.5}

    def open_model(name: str) -> OpenedModel:
        thresholds = {"default": {"score_threshold": 0.5, "max_detections": 1}}
        return in_process(cascade(tmp_path, nets(), steps=steps, thresholds=thresholds))

    path = clip(tmp_path, pitch=False)
    expected = wanted(ROW, path, open_model, tmp_path)
    found, balance = through(ROW, path, open_model, *over._kafka(request))
    assert len(expected) == FRAMES and over.same(found, expected)
    assert balance.holds and balance.in_flight == 0 and balance.results == balance.accepted == FRAMES
    for document in found:
        (face,) = document["detections"]
        x, y = corner("red", document["pts_ns"] - found[0]["pts_ns"])
        x1, y1, x2, y2 = face["xyxy"]
        assert abs((x1 + x2 - SIDE) / 2 - x) < SIDE / 2 and abs((y1 + y2 - SIDE) / 2 - y) < SIDE / 2
        assert document["task"] == "face" and len(face["landmarks"]) == 5
    assert found[-1]["detections"][0]["track_id"] >= 1
