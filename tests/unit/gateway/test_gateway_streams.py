"""The stream routes over a log and an index in memory: registration, states, results, mixed video."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from gateway_kit import assert_problem
from starlette.testclient import TestClient

from serving.errors import Unavailable
from serving.gateway import stream_table
from serving.gateway.stream_states import state_of
from serving.records import StreamMessage, decode_stream
from serving.testing.stub_streams import FRAME_NS, StubStreams

CAMERA = "rtsp://{CAMERA_1_USER}:{CAMERA_1_PASSWORD}@198.51.100.7/live"
LEAVES: dict[str, Any] = {"source_id": "leaves", "address": CAMERA, "pipelines": ["persons"]}


# -- the registry ------------------------------------------------------------------------------------------------------


def test_a_source_is_registered_listed_changed_and_taken_away(streams: TestClient, stub: StubStreams) -> None:
    made = streams.post("/v1/streams", json=LEAVES | {"mixed": True})
    assert made.status_code == 201 and made.headers["location"] == "/v1/streams/leaves"
    assert (made.json()["mixed"], made.json()["every"], made.json()["delay_ms"]) == (True, 1, 250)
    assert streams.post("/v1/streams", json=LEAVES | {"mixed": True}).status_code == 200, "the same again is no error"
    assert_problem(streams.post("/v1/streams", json=LEAVES), 409, "stream_exists")
    assert [row["source_id"] for row in streams.get("/v1/streams").json()["streams"]] == ["gate", "leaves"]
    changed = streams.patch("/v1/streams/leaves", json={"every": 3}).json()
    assert (changed["every"], changed["mixed"]) == (3, True), "what is not named stays"
    assert streams.delete("/v1/streams/leaves").status_code == 204
    assert_problem(streams.get("/v1/streams/leaves"), 404, "not_found")
    assert_problem(streams.delete("/v1/streams/leaves"), 404, "not_found")
    assert streams.post("/v1/streams", json=LEAVES).status_code == 201, "a name is free again"
    last = [r for part in stub.log.topic("streams") for r in part.records if r.key == b"leaves"][-1]
    written = decode_stream(last.key, last.value)
    assert written is not None and written.address == CAMERA, "ingest gets the names of the secrets"


def test_streams_made_anew_is_read_anew(streams: TestClient, stub: StubStreams) -> None:
    for name in ("leaves", "hall", "yard"):
        assert streams.post("/v1/streams", json=LEAVES | {"source_id": name}).status_code == 201
    stub.log.remake("streams")
    deadline = time.monotonic() + 10
    while (answer := streams.get("/v1/streams")).status_code != 200 or answer.json()["streams"]:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.05)
    assert streams.post("/v1/streams", json=LEAVES).status_code == 201
    assert streams.get("/v1/streams/leaves").status_code == 200


def test_secrets_are_never_answered(streams: TestClient) -> None:
    address = "rtsp://{CAMERA_1_USER}:{CAMERA_1_PASSWORD}@198.51.100.7/live?token={CAMERA_1_PASSWORD}"
    made = streams.post("/v1/streams", json=LEAVES | {"address": address})
    for answer in (made, streams.get("/v1/streams"), streams.get("/v1/streams/leaves")):
        assert answer.is_success and "PASSWORD" not in answer.text and "198.51.100.7" in answer.text


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd", "/etc/passwd", "../../etc/passwd", "concat:/etc/passwd|x", "subfile,,start,0,end,9,,:/x",
        "rtsp://169.254.169.254/latest", "rtsp://10.0.0.7/live", "rtsp://[::1]/live", "rtsp://0xa.7/live",
        "rtsp://167772167/live", "rtsp://[::ffff:10.0.0.1]/live", "gopher://198.51.100.7/x", "http://192.168.1.1/a.m3u8",
        "rtsp://admin:hunter2@198.51.100.7/live", "rtsp://198.51.100.7/live?password=hunter2", "rtsp://", "rtsp://[bad",
        "rtsp://198.51.100.7/user=admin&password=hunter2&channel=1", "http://198.51.100.7?token=hunter2",
        "rtsp://198.51.100.7/user=admin_password=hunter2_channel=1_stream=0.sdp?real_stream",
        "rtsp://{OTHER_SECRET}@198.51.100.7/", "", "rtsp://198.51.100.7:99999/live", "rtsp://a b/\n",
    ],
)  # fmt: skip
def test_s6_an_address_that_ingest_must_not_open_is_refused(streams: TestClient, address: str) -> None:
    for answer in (
        streams.post("/v1/streams", json=LEAVES | {"address": address}),
        streams.patch("/v1/streams/gate", json={"address": address}),
    ):
        body = assert_problem(answer, 422, "address_refused")
        assert "hunter2" not in json.dumps(body)
    assert [row["source_id"] for row in streams.get("/v1/streams").json()["streams"]] == ["gate"]


def test_a_file_in_an_allowed_folder_is_taken(streams: TestClient, stub: StubStreams, tmp_path: Path) -> None:
    inside = stub.clips / "a.mp4"
    inside.write_bytes(b"")
    assert streams.post("/v1/streams", json=LEAVES | {"address": str(inside)}).status_code == 201
    outside = tmp_path / "b.mp4"
    outside.write_bytes(b"")
    (stub.clips / "link.mp4").symlink_to(outside)
    for path in (outside, stub.clips / "link.mp4", stub.clips / ".." / ".." / "b.mp4"):
        answer = streams.post("/v1/streams", json=LEAVES | {"source_id": "other", "address": str(path)})
        assert_problem(answer, 422, "address_refused")


@pytest.mark.parametrize(
    "path", ["/user=admin&password={CAMERA_1_PASSWORD}&channel=1", "/user=admin_password={CAMERA_1_PASSWORD}_channel=1",
             "/user=admin_password=_channel=1_stream=0.sdp?x", "/user=admin&password=&channel=1", "/keys/1?a=b"],
)  # fmt: skip
def test_a_path_with_a_secret_by_name_is_taken_and_not_shown(streams: TestClient, path: str) -> None:
    made = streams.post("/v1/streams", json=LEAVES | {"address": f"rtsp://198.51.100.7{path}"})
    assert made.status_code == 201 and "CAMERA" not in made.text, made.text


@pytest.mark.parametrize("name", ["a/b", "x" * 300, "", ".hidden", "a b", "ä", "a\x00b"])
def test_a_name_that_is_none_is_refused(streams: TestClient, name: str) -> None:
    assert_problem(streams.post("/v1/streams", json=LEAVES | {"source_id": name}), 422, "parameter_invalid")


def test_a_name_with_a_slash_or_300_characters_in_a_path_is_refused(streams: TestClient) -> None:
    for method in ("GET", "PATCH", "DELETE", "POST", "PUT"):
        for path in ("a%2Fb", "gate%2fresults", "a%2Fb/results", "gate%2Ftargets", "gate%2Ftargets/1"):
            assert_problem(streams.request(method, f"/v1/streams/{path}"), 422, "parameter_invalid")
    assert_problem(streams.put("/v1/streams/gate"), 405, "method_not_allowed")
    assert_problem(streams.get("/v1/streams/" + "x" * 300), 422, "parameter_invalid")
    assert_problem(streams.get("/v1/streams/nobody"), 404, "not_found")
    assert_problem(streams.get("/v1/streams/nobody/results"), 404, "not_found")
    assert_problem(streams.get("/v1/streams/nobody/events"), 404, "not_found")


@pytest.mark.parametrize(
    "body", [{"every": 0}, {"every": "2"}, {"unknown": 1}, {"pipelines": []}, {"roi": "1,2"}, {"delay_ms": -1},
             {"pipelines": "persons"}, {"mixed": 1}, {"state": "removed"}, {"publish": "http://198.51.100.7/"}],
)  # fmt: skip
def test_a_setting_that_is_none_is_refused(streams: TestClient, body: dict[str, Any]) -> None:
    for answer in (streams.post("/v1/streams", json=LEAVES | body), streams.patch("/v1/streams/gate", json=body)):
        assert answer.status_code == 422 and answer.json()["code"] in ("parameter_invalid", "address_refused")


@pytest.mark.parametrize("value", ["1e20", "1e308", "18446744073709551615", "[" * 300 + "]" * 300])
@pytest.mark.parametrize("name", ["every", "pipelines", "roi", "address"])
def test_a_number_or_nesting_that_no_record_holds_is_named(streams: TestClient, name: str, value: str) -> None:
    settings = {key: json.dumps(given) for key, given in LEAVES.items()} | {name: value}
    body = "{" + ", ".join(f'"{key}": {given}' for key, given in settings.items()) + "}"
    for answer in (
        streams.post("/v1/streams", content=body),
        streams.patch("/v1/streams/gate", content=f'{{"{name}": {value}}}'),
    ):
        assert answer.status_code == 422 and answer.json()["detail"].startswith(name), answer.text


def test_an_unexpected_error_does_not_end_the_thread_that_follows(
    streams: TestClient, stub: StubStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(stream_table, "decode_stream", lambda *record: 1 / 0)
        stub.register(StreamMessage("leaves", CAMERA, ("persons",)))
        time.sleep(0.5)
    stub.register(StreamMessage("yard", CAMERA, ("persons",)))
    deadline = time.monotonic() + 10
    while "yard" not in streams.get("/v1/streams").text:
        assert time.monotonic() < deadline
        time.sleep(0.05)


# -- states ------------------------------------------------------------------------------------------------------------


def test_the_state_is_what_the_roles_say(streams: TestClient, stub: StubStreams) -> None:
    stub.index.put_state("worker", "gate", {"fps_analysed": 12, "analysed": 99})
    stub.index.put_state("mixer", "gate", {"epoch": 1, "shown": 90, "late": 1, "missing": 2, "mismatched": 0})
    balance = {"epoch": 1, "accepted": 100, "results": 95, "dropped": {"stale": 3}, "dead": {}, "in_flight": 2}
    stub.index.put_state("accountant", "gate", balance)
    answer = streams.get("/v1/streams/gate").json()
    state = answer["state"]
    assert (state["running"], state["epoch"], state["fps_in"], state["fps_analysed"]) == (True, 1, 25.0, 12)
    assert state["drops"] == {"stale": 3} and state["balance"] == {"accepted": 100, "results": 95, "in_flight": 2}
    assert state["alignment"] == {"aligned": True, "shown": 90, "late": 1, "missing": 2, "mismatched": 0}
    assert 0 <= state["last_result_age_s"] < 60
    assert answer["latest"]["persons"]["pts_ns"] == 9 * FRAME_NS
    (row,) = streams.get("/v1/streams").json()["streams"]
    assert row["state"]["drops"] == {"stale": 3}
    stub.index.put_state("mixer", "gate", {"epoch": 1, "shown": 90, "late": 1, "missing": 2, "mismatched": 1})
    assert streams.get("/v1/streams/gate").json()["state"]["alignment"]["aligned"] is False


def test_what_no_role_says_is_null() -> None:
    state = state_of({})
    assert state["running"] is False and state["epoch"] is None and state["fps_in"] is None
    assert state["alignment"]["aligned"] is None and state["drops"] == {}
    assert state_of({"ingest": {"fps_in": "x", "epoch": True, "connected": True}})["fps_in"] is None


def test_without_kafka_the_routes_say_so_and_the_models_go_on(client: TestClient) -> None:
    for answer in (client.get("/v1/streams"), client.post("/v1/streams", json=LEAVES), client.delete("/v1/streams/a")):
        assert_problem(answer, 503, "streams_off")
    assert client.get("/v1/models").is_success


def test_an_index_that_is_away_costs_states_and_results_only(streams: TestClient, stub: StubStreams) -> None:
    class Away:
        def __getattr__(self, name: str) -> Any:
            raise Unavailable("redis: away")

        def close(self) -> None: ...

    stub.services.index = Away()  # type: ignore[assignment]
    (row,) = streams.get("/v1/streams").json()["streams"]
    assert row["state"] is None
    assert_problem(streams.get("/v1/streams/gate/results"), 503, "index_unavailable")
    assert_problem(streams.get("/v1/streams/gate"), 503, "index_unavailable")
    assert streams.post("/v1/streams", json=LEAVES).status_code == 201


# -- results -----------------------------------------------------------------------------------------------------------


def test_results_of_a_range_are_half_open_and_in_the_order_of_their_pts(streams: TestClient) -> None:
    url = "/v1/streams/gate/results"
    got = streams.get(url, params={"from_pts_ns": 2 * FRAME_NS, "to_pts_ns": 5 * FRAME_NS}).json()
    assert got["epoch"] == 1 and got["next_from_pts_ns"] is None
    assert [document["pts_ns"] for document in got["results"]] == [2 * FRAME_NS, 3 * FRAME_NS, 4 * FRAME_NS]
    assert streams.get(url, params={"from_pts_ns": FRAME_NS, "to_pts_ns": FRAME_NS}).json()["results"] == []
    assert streams.get(url, params={"epoch": 7}).json()["results"] == []


def test_pages_join_without_a_gap_or_a_repeat(streams: TestClient) -> None:
    found, start = [], 0
    while start is not None:
        page = streams.get("/v1/streams/gate/results", params={"from_pts_ns": start, "limit": 3}).json()
        found += [document["pts_ns"] for document in page["results"]]
        start = page["next_from_pts_ns"]
    assert found == [n * FRAME_NS for n in range(10)]


def test_the_newest_epoch_is_the_default(streams: TestClient, stub: StubStreams) -> None:
    stub.recorded("gate", [(0, "persons")], epoch=2, indexed=True)
    assert streams.get("/v1/streams/gate/results").json()["epoch"] == 2
    assert len(streams.get("/v1/streams/gate/results", params={"epoch": 1}).json()["results"]) == 10


@pytest.mark.parametrize(
    "query", ["from_pts_ns=-1", "from_pts_ns=1.5", "to_pts_ns=9223372036854775808", "epoch=0", "limit=0", "limit=1001",
              "unknown=1", "epoch=1&epoch=2", "from_pts_ns=%D9%A1"],
)  # fmt: skip
def test_a_range_that_is_none_is_refused(streams: TestClient, query: str) -> None:
    assert_problem(streams.get(f"/v1/streams/gate/results?{query}"), 422, "parameter_invalid")


def test_a_query_is_bounded_before_it_is_read(streams: TestClient) -> None:
    for route in ("results", "events"):
        answer = streams.get(f"/v1/streams/gate/{route}?{'&'.join('a' * 1100)}")
        assert "at most 2048 bytes" in assert_problem(answer, 422, "parameter_invalid")["detail"]


# -- mixed video -------------------------------------------------------------------------------------------------------


def test_the_mixed_video_is_served_and_nothing_else(streams: TestClient, stub: StubStreams, tmp_path: Path) -> None:
    got = streams.get("/v1/streams/gate/hls/index.m3u8")
    assert got.text.startswith("#EXTM3U") and got.headers["content-type"] == "application/vnd.apple.mpegurl"
    (tmp_path / "secret").write_text("secret")
    (stub.mixed / "gate" / "segment-00001.m4s").symlink_to(tmp_path / "secret")
    (stub.mixed / "gate" / "other.txt").write_text("x")
    (stub.mixed / "link").symlink_to(tmp_path)
    (tmp_path / "index.m3u8").write_text("#EXTM3U")
    for path in (
        "gate/hls/segment-00001.m4s", "gate/hls/segment-00002.m4s", "gate/hls/other.txt", "link/hls/index.m3u8",
        "gate/hls/..%2f..%2fsecret", "gate/hls/%2e%2e", "nobody/hls/index.m3u8",
    ):  # fmt: skip
        assert streams.get(f"/v1/streams/{path}").status_code in (404, 422), path


def test_a_registered_source_may_be_read_by_its_own_process(streams: TestClient, stub: StubStreams) -> None:
    stub.register(StreamMessage("own", "rtsp://10.0.0.7/", ("persons",), supervised=False))
    deadline = 100
    while streams.get("/v1/streams/own").status_code != 200 and deadline:
        deadline -= 1
    assert streams.get("/v1/streams/own").json()["source_id"] == "own"
