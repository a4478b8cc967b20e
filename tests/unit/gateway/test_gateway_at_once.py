"""Several who change one source at once: none undoes in silence what another was told is done."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from gateway_kit import assert_problem
from starlette.testclient import TestClient

from serving.records import StreamMessage
from serving.records.streams import StreamState
from serving.testing.stub_streams import StubStreams

GATE = "/v1/streams/gate"
LEAVES = {"source_id": "leaves", "address": "rtsp://198.51.100.7/live", "pipelines": ["persons"]}


@pytest.fixture
def slow(stub: StubStreams, monkeypatch: pytest.MonkeyPatch) -> StubStreams:
    """A name server that takes its time, and a broker that does."""
    write = stub.services.table.write
    monkeypatch.setattr(stub.services, "check", lambda stream: time.sleep(0.4))
    monkeypatch.setattr(stub.services.table, "write", lambda record: (time.sleep(0.1), write(record))[1])
    return stub


def at_once(*calls: Callable[[], Any], apart_s: float = 0.0) -> list[Any]:
    with ThreadPoolExecutor(len(calls)) as pool:
        running = []
        for call in calls:
            running.append(pool.submit(call))
            time.sleep(apart_s)
        return [future.result() for future in running]


def test_one_name_is_given_once(streams: TestClient, slow: StubStreams) -> None:
    bodies = [LEAVES | {"every": n} for n in (1, 2, 1)]
    answers = at_once(*(lambda body=body: streams.post("/v1/streams", json=body) for body in bodies))
    assert sorted(answer.status_code for answer in answers) in ([200, 201, 409], [201, 409, 409])
    (made,) = [answer.json() for answer in answers if answer.status_code == 201]
    assert streams.get("/v1/streams/leaves").json()["every"] == made["every"]
    assert len(slow.services._locks) == 0, "nothing is kept of a source that nobody changes"


def test_changes_at_once_are_all_made(streams: TestClient, slow: StubStreams) -> None:
    answers = at_once(*(lambda body=body: streams.patch(GATE, json=body) for body in ({"every": 3}, {"delay_ms": 700})))
    assert [answer.status_code for answer in answers] == [200, 200]
    found = streams.get(GATE).json()
    assert (found["every"], found["delay_ms"]) == (3, 700)


def test_a_change_revives_no_source_that_was_taken_away(streams: TestClient, slow: StubStreams) -> None:
    patched, deleted = at_once(
        lambda: streams.patch(GATE, json={"every": 3}), lambda: streams.delete(GATE), apart_s=0.1
    )
    assert patched.status_code in (200, 404) and deleted.status_code == 204
    assert_problem(streams.get(GATE), 404, "not_found")


def test_what_another_process_did_during_the_check_counts(streams: TestClient, slow: StubStreams) -> None:
    known = StreamMessage("gate", "udp://127.0.0.1:5004", ("persons",), mixed=True)

    def elsewhere(stream: StreamMessage) -> Callable[[], None]:
        return lambda: slow.register(stream)

    changed, _ = at_once(
        lambda: streams.patch(GATE, json={"every": 3}), elsewhere(replace(known, delay_ms=700)), apart_s=0.1
    )
    assert (changed.json()["every"], changed.json()["delay_ms"]) == (3, 700)
    removed = replace(known, state=StreamState.REMOVED)
    gone, _ = at_once(lambda: streams.patch(GATE, json={"every": 4}), elsewhere(removed), apart_s=0.1)
    assert_problem(gone, 404, "not_found")
    other = replace(known, source_id="leaves")
    taken, _ = at_once(lambda: streams.post("/v1/streams", json=LEAVES), elsewhere(other), apart_s=0.1)
    assert_problem(taken, 409, "stream_exists")


def test_targets_given_at_once_get_numbers_of_their_own(streams: TestClient, slow: StubStreams) -> None:
    answers = at_once(*(lambda: streams.post(f"{GATE}/targets", json={"xyxy": [4, 4, 40, 30]}) for _ in range(3)))
    assert sorted(answer.json()["target_id"] for answer in answers) == [1, 2, 3]
    assert len(streams.get(f"{GATE}/targets").json()["targets"]) == 3
