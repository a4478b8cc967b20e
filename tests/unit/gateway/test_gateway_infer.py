"""POST /v1/models/{name}/infer: every form of a body, parameters, answers."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import numpy as np
import pytest
from gateway_kit import assert_problem
from starlette.testclient import TestClient

from serving.config import Settings
from serving.errors import ImageInvalid, ServingError, subclasses_by_code
from serving.gateway.errors import TABLE
from serving.ports import ServerRequest
from serving.testing.stub_server import PICTURE, StubServer

DIGITS, PERSONS = "/v1/models/digits/infer", "/v1/models/persons/infer"
PNG = {"content-type": "image/png"}


def sent(server: StubServer) -> ServerRequest:
    """The one request that reached the server."""
    assert len(server.asked) == 1
    return server.asked[0]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_raw_body_goes_on_as_it_came_and_the_result_comes_back_as_it_was(
    client: TestClient, server: StubServer
) -> None:
    answer = client.post(DIGITS, content=PICTURE, headers={**PNG, "x-request-id": "abc-1"})
    assert answer.status_code == 200
    assert answer.json() == server.document("digits")
    assert answer.headers["x-request-id"] == "abc-1"
    assert answer.headers["server-timing"].startswith(
        "decode;dur=1.500, preprocess;dur=0.250, infer;dur=2.000, postprocess;dur=0.125, server;dur="
    )
    request = sent(server)
    assert request.tensors[0].array.tobytes() == PICTURE
    assert request.tensors[0].array.shape == (1, len(PICTURE)) and request.tensors[0].array.dtype == np.uint8
    assert (request.outputs, request.model_version, request.request_id) == (("result",), "1", "abc-1")


@pytest.mark.parametrize("kind", ["image/jpeg", "image/webp", "application/octet-stream", "IMAGE/PNG; x=1", None])
def test_raw_body_types(client: TestClient, kind: str | None) -> None:
    assert client.post(DIGITS, content=PICTURE, headers={"content-type": kind} if kind else {}).status_code == 200


def test_query_parameters_are_checked_and_carried(client: TestClient, server: StubServer) -> None:
    query = "?score_threshold=0.25&max_detections=7&scenario=night&roi=1,2,30,40"
    assert client.post(PERSONS + query, content=PICTURE, headers=PNG).status_code == 200
    assert sent(server).parameters == {
        "score_threshold": "0.25",
        "max_detections": 7,
        "scenario": "night",
        "roi": "1,2,30,40",
    }


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("top_kk=3", "unknown parameter 'top_kk'; digits takes margin, roi, score_threshold, top_k"),
        ("max_detections=3", "unknown parameter 'max_detections'"),
        ("scenario=night", "unknown parameter 'scenario'"),
        ("score_threshold=-0.1", "score_threshold: expected 0.0 to 1.0, got -0.1"),
        ("score_threshold=nan", "score_threshold: expected float, got 'nan'"),
        ("score_threshold=", "score_threshold: expected float, got ''"),
        ("top_k=0", "top_k: expected 1 to 1000, got 0"),
        ("top_k=1_0", "top_k: expected int"),
        ("top_k=1.5", "top_k: expected int"),
        ("top_k=1&top_k=2", "top_k: given twice"),
        ("roi=1,2,3", "roi: expected x1,y1,x2,y2"),
        ("&".join(f"a{i}=1" for i in range(65)), "at most 64 parameters"),
    ],
)
def test_bad_parameters_name_what_is_wrong(client: TestClient, server: StubServer, query: str, says: str) -> None:
    body = assert_problem(client.post(f"{DIGITS}?{query}", content=PICTURE, headers=PNG), 422, "parameter_invalid")
    assert says in body["detail"]
    assert not server.asked


def test_an_unknown_scenario_lists_the_known_ones(client: TestClient) -> None:
    body = assert_problem(client.post(PERSONS + "?scenario=fog", content=PICTURE), 422, "parameter_invalid")
    assert "night" in body["detail"]


def test_json_with_base64(client: TestClient, server: StubServer) -> None:
    answer = client.post(DIGITS, json={"image": b64(PICTURE), "parameters": {"top_k": 3, "score_threshold": 0.5}})
    assert answer.status_code == 200 and answer.json()["model"] == "digits"
    assert sent(server).tensors[0].array.tobytes() == PICTURE
    assert sent(server).parameters == {"top_k": 3, "score_threshold": "0.5"}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "body_invalid"),
        (b"[]", "body_invalid"),
        (b"\xff\xfe", "body_invalid"),
        (b"{}", "body_invalid"),
        (b'{"image": 3}', "body_invalid"),
        (b'{"image": "%%%%"}', "body_invalid"),
        (b'{"image": "AAAA", "images": []}', "body_invalid"),
        (b'{"images": []}', "body_invalid"),
        (b'{"images": ["AAAA", 1]}', "body_invalid"),
        (b'{"image": "AAAA", "size": 1}', "body_invalid"),
        (b'{"image": ""}', "image_invalid"),
        (b'{"image": "AAAA", "parameters": []}', "parameter_invalid"),
        (b'{"image": "AAAA", "parameters": {"top_k": "5"}}', "parameter_invalid"),
        (b'{"image": "AAAA", "parameters": {"top_k": true}}', "parameter_invalid"),
        (b'{"image": "AAAA", "parameters": {"top_k": null}}', "parameter_invalid"),
        (b'{"image": "AAAA", "parameters": {"top_k": %s%s}}' % (b"[" * 1000, b"]" * 1000), "parameter_invalid"),
        (b'{"image": "AAAA", "parameters": {"what": 1}}', "parameter_invalid"),
    ],
)
def test_bad_json(client: TestClient, server: StubServer, body: bytes, code: str) -> None:
    status = {"body_invalid": 400}.get(code, 422)
    assert_problem(client.post(DIGITS, content=body, headers={"content-type": "application/json"}), status, code)
    assert not server.asked


def test_more_pictures_than_the_limit(client: TestClient) -> None:
    body = assert_problem(client.post(DIGITS, json={"images": ["AAAA"] * 33}), 400, "body_invalid")
    assert "at most 32" in body["detail"]


def test_the_body_wins_over_the_query(client: TestClient, server: StubServer) -> None:
    body = {"image": b64(PICTURE), "parameters": {"top_k": 3}}
    assert client.post(DIGITS + "?top_k=2&score_threshold=0.5", json=body).status_code == 200
    assert sent(server).parameters == {"top_k": 3, "score_threshold": "0.5"}


def test_multipart_one_file_with_parameters(client: TestClient, server: StubServer) -> None:
    form = {"parameters": (None, json.dumps({"top_k": 2}), "application/json")}
    answer = client.post(DIGITS, files={"image": ("a.png", PICTURE, "image/png"), **form})
    assert answer.status_code == 200 and "classes" in answer.json()
    assert sent(server).tensors[0].array.tobytes() == PICTURE
    assert sent(server).parameters == {"top_k": 2}


def test_multipart_several_files_answer_in_order(client: TestClient, server: StubServer) -> None:
    files = [("images", (f"{i}.png", PICTURE + bytes([i]), "image/png")) for i in range(5)]
    answer = client.post(DIGITS, files=files)
    assert answer.status_code == 200 and len(answer.json()["results"]) == 5
    assert [r.tensors[0].array.tobytes()[-1] for r in server.asked] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"--x--"),
        ("multipart/form-data; boundary=x", b"nothing"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=image\r\n\r\nabc"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=other\r\n\r\na\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\nno header end"),
        ("multipart/form-data; boundary=" + "b" * 300, b"--b--"),
        ("multipart/form-data; boundary=x", b"--x\r\nA: b\r\n\r\na\r\n" * 40 + b"--x--\r\n"),
    ],
)
def test_bad_multipart(client: TestClient, kind: str, body: bytes) -> None:
    assert_problem(client.post(DIGITS, content=body, headers={"content-type": kind}), 400, "body_invalid")


def test_a_batch_keeps_order_and_an_error_is_its_own(client: TestClient, server: StubServer) -> None:
    def refuse_the_second(request: ServerRequest) -> None:
        if request.tensors[0].array.tobytes() == b"bad":
            raise ImageInvalid("not a JPEG, PNG or WebP file")

    server.hook = refuse_the_second
    answer = client.post(DIGITS, json={"images": [b64(PICTURE), b64(b"bad"), b64(PICTURE)]})
    results = answer.json()["results"]
    assert answer.status_code == 200
    assert [r.get("code", "ok") for r in results] == ["ok", "image_invalid", "ok"]
    assert results[1]["request_id"] == answer.headers["x-request-id"]
    assert_problem(client.post(DIGITS, json={"images": [b64(b"bad")]}), 422, "image_invalid")


@pytest.mark.parametrize("kind", ["text/plain", "image/gif", "image/svg+xml", "application/xml", "nonsense", ""])
def test_other_content_types(client: TestClient, kind: str) -> None:
    answer = client.post(DIGITS, content=PICTURE, headers={"content-type": kind})
    assert_problem(answer, 415, "media_type_unsupported")


def test_content_encoding_is_refused(client: TestClient, server: StubServer) -> None:
    for coding in ("gzip", "identity, gzip", "br"):
        answer = client.post(DIGITS, content=PICTURE, headers={**PNG, "content-encoding": coding})
        assert_problem(answer, 415, "media_type_unsupported")
    assert not server.asked


def test_an_empty_body(client: TestClient) -> None:
    assert_problem(client.post(DIGITS, content=b"", headers=PNG), 422, "image_invalid")


def test_unknown_model_and_raw_model(client: TestClient) -> None:
    body = assert_problem(client.post("/v1/models/nope/infer", content=PICTURE), 404, "not_found")
    assert "digits" in body["detail"]
    body = assert_problem(client.post("/v1/models/adder/infer", content=PICTURE), 422, "input_invalid")
    assert "/v2/models/adder/infer" in body["hint"]


@pytest.mark.parametrize("document", [b"", b"{", b"[]", b'{"timings_ms": {"decode": "x"}}'])
def test_an_answer_that_is_no_result_is_our_failure(client: TestClient, server: StubServer, document: bytes) -> None:
    def answer(request: ServerRequest) -> Any:
        return {"result": np.frombuffer(document, np.uint8).reshape(1, -1)}

    server.hook = answer
    assert_problem(client.post(DIGITS, content=PICTURE), 500, "engine_failed")


def test_the_request_id_is_made_where_none_fits(client: TestClient) -> None:
    for given in ("", "x" * 200, "a b", "\u00e9"):
        answer = client.post(DIGITS, content=PICTURE, headers={"x-request-id": given.encode("latin-1")})
        assert len(answer.headers["x-request-id"]) == 16


def test_every_serving_error_has_its_status(client: TestClient, server: StubServer) -> None:
    for code, kind in subclasses_by_code(ServingError).items():

        def fail(request: ServerRequest, kind: Any = kind) -> None:
            raise kind("what went wrong")

        server.hook = fail
        answer = client.post(DIGITS, content=PICTURE)
        assert_problem(answer, TABLE[code].status, code)
        assert ("retry-after" in answer.headers) == (TABLE[code].status in (429, 503, 507))


def test_answers_under_another_certificate_are_counted(client: TestClient, server: StubServer) -> None:
    name = 'lockstep_certificate_mismatches_total{model="digits"}'
    right = server.document
    assert client.post(DIGITS, content=PICTURE, headers=PNG).status_code == 200
    assert f"{name} 0.0" in client.get("/metrics").text
    server.document = lambda model: {**right(model), "certificate_id": "000000000000"}  # type: ignore[method-assign]
    assert client.post(DIGITS, content=PICTURE, headers=PNG).json()["certificate_id"] == "000000000000"
    assert f"{name} 1.0" in client.get("/metrics").text


def test_a_result_is_counted_whatever_asked_for_it(client: TestClient, server: StubServer) -> None:
    right = server.document
    server.document = lambda model: {  # type: ignore[method-assign]
        **right(model), "certificate_id": "000000000000", "rules": {"counted": {"small": 3}},
    }  # fmt: skip
    image = {"name": "image", "datatype": "UINT8", "shape": [2, 3], "data": [0] * 6}
    wanted = {"outputs": [{"name": "class_id"}]}
    assert client.post(DIGITS, json={"images": [b64(PICTURE)] * 2}).status_code == 200
    assert client.post("/v2/models/digits/infer", json={"inputs": [image]}).status_code == 200
    assert client.post("/v2/models/digits/infer", json={"inputs": [image], **wanted}).status_code == 200
    told = client.get("/metrics").text
    assert 'lockstep_certificate_mismatches_total{model="digits"} 4.0' in told
    assert 'lockstep_rule_boxes_total{model="digits",rule="small"} 12.0' in told
    (seconds,) = re.findall(r'lockstep_inference_stage_seconds_total{model="digits",stage="infer"} (\S+)', told)
    assert float(seconds) == pytest.approx(4 * 0.002)


@pytest.mark.parametrize("settings", [Settings(max_in_flight=3)])
def test_a_batch_that_can_never_be_let_in_is_no_overload(client: TestClient, server: StubServer) -> None:
    body = assert_problem(client.post(DIGITS, json={"images": [b64(PICTURE)] * 4}), 400, "body_invalid")
    assert body["detail"] == "in_flight: expected at most 3 in one request, got 4"
    image = {"name": "image", "datatype": "UINT8", "shape": [4, 3], "data": [0] * 12}
    body = assert_problem(client.post("/v2/models/digits/infer", json={"inputs": [image]}), 400, "body_invalid")
    assert "one batch size of 1 to 3, got [4]" in body["detail"]
    assert client.get("/v2/models/digits/config").json()["max_batch_size"] == 3
    assert not server.asked and 'lockstep_shed_total{reason="in_flight"} 0.0' in client.get("/metrics").text
    assert client.post(DIGITS, json={"images": [b64(PICTURE)] * 3}).status_code == 200
