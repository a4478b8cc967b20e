"""Targets of a source over REST: written into its record, bounded by the picture, kept when other settings change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from gateway_kit import assert_problem
from starlette.testclient import TestClient

from serving.records import StreamMessage, decode_stream, encode_stream
from serving.roles.ingest_fleet import _reads_alike
from serving.roles.names import Names
from serving.roles.registered import Registered
from serving.targets import Aim
from serving.testing.stub_streams import FRAME_NS, StubStreams

GATE = "/v1/streams/gate/targets"
BOX = [4, 4, 40, 30]  # of a picture of 64x48
NEWEST_NS = 9 * FRAME_NS


def test_a_target_is_given_listed_and_taken_away(streams: TestClient, stub: StubStreams) -> None:
    made = streams.post(GATE, json={"xyxy": BOX})
    assert made.status_code == 201, made.text
    assert made.json() == {"source_id": "gate", "target_id": 1, "xyxy": BOX, "epoch": 1, "pts_ns": NEWEST_NS}
    assert made.headers["location"] == f"{GATE}/1"
    exact = streams.post(GATE, json={"xyxy": BOX, "epoch": 1, "pts_ns": 3}).json()
    assert (exact["target_id"], exact["pts_ns"]) == (2, 3)
    assert streams.delete(f"{GATE}/1").status_code == 204
    assert [row["target_id"] for row in streams.get(GATE).json()["targets"]] == [2]
    assert_problem(streams.delete(f"{GATE}/1"), 404, "not_found")


def test_targets_outlive_other_settings(streams: TestClient) -> None:
    streams.post(GATE, json={"xyxy": BOX})
    assert streams.patch("/v1/streams/gate", json={"delay_ms": 500}).status_code in (200, 422)
    assert len(streams.get(GATE).json()["targets"]) == 1


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"xyxy": [4, 4, 65, 30]}, "target_invalid"),
        ({"xyxy": [4, 4, 40, 49]}, "target_invalid"),
        ({"xyxy": [4, 4, 40, 49], "epoch": 9}, "target_invalid"),
        ({"xyxy": [-1, 4, 40, 30]}, "target_invalid"),
        ({"xyxy": [40, 4, 4, 30]}, "target_invalid"),
        ({"xyxy": [4, 4, 40]}, "target_invalid"),
        ({"xyxy": [4, 4, 40.5, 30]}, "target_invalid"),
        ({"xyxy": [True, 4, 40, 30]}, "target_invalid"),
        ({}, "target_invalid"),
        ({"xyxy": BOX, "epoch": 0}, "parameter_invalid"),
        ({"xyxy": BOX, "pts_ns": -1}, "parameter_invalid"),
        ({"xyxy": BOX, "pts": 1}, "parameter_invalid"),
    ],
)
def test_what_cannot_be_followed_is_refused(streams: TestClient, body: dict[str, Any], code: str) -> None:
    assert_problem(streams.post(GATE, json=body), 422, code)
    assert streams.get(GATE).json()["targets"] == []


@pytest.mark.parametrize("name", ["xyxy", "epoch"])
def test_deep_nesting_is_no_box_and_no_number(streams: TestClient, name: str) -> None:
    body = f'{{"xyxy": {BOX}, "{name}": {"[" * 1000 + "]" * 1000}}}'
    answer = streams.post(GATE, content=body)
    assert_problem(answer, 422, "target_invalid" if name == "xyxy" else "parameter_invalid")


def test_an_unknown_source_is_not_found_and_one_without_a_picture_refused(
    streams: TestClient, stub: StubStreams
) -> None:
    assert_problem(streams.post("/v1/streams/nobody/targets", json={"xyxy": BOX}), 404, "not_found")
    stub.register(StreamMessage("young", "udp://127.0.0.1:5005", ("persons",)))
    assert_problem(streams.post("/v1/streams/young/targets", json={"xyxy": BOX}), 409, "target_refused")


def test_there_are_eight_at_most(streams: TestClient) -> None:
    assert [streams.post(GATE, json={"xyxy": BOX}).status_code for _ in range(9)] == [201] * 8 + [409]


def test_the_record_holds_them_and_a_worker_hears_of_them_without_forgetting(stub: StubStreams) -> None:
    """Registered names a source whose settings changed; one whose targets alone did is told apart."""
    stream = StreamMessage("gate", "udp://127.0.0.1:5004", ("persons",), mixed=True)
    aimed = replace(stream, targets=(Aim(1, (1, 2, 30, 40), 3, 5),))
    assert decode_stream(*encode_stream(aimed)) == aimed
    assert _reads_alike(stream, aimed), "ingest goes on reading"
    follower = Registered(stub.log, Names(""))
    follower.catch_up()
    follower.aimed()
    stub.register(aimed)
    assert follower.poll() == set() and follower.aimed() == {"gate"} and follower.aimed() == set()
    assert follower.get("gate") == aimed
    stub.register(replace(aimed, roi="0,0,9,9"))
    assert follower.poll() == {"gate"} and follower.aimed() == set()
    follower.close()
