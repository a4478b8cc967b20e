"""KServe V2: metadata, readiness, infer as JSON and as binary tensor data."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from gateway_kit import assert_problem
from starlette.testclient import TestClient

from serving.config import Settings
from serving.errors import BodyInvalid, Unavailable
from serving.gateway.app import create_app
from serving.gateway.catalogue import Catalogue
from serving.gateway.v2_codec import decode
from serving.ports import ServerRequest
from serving.testing.stub_bundles import stub_canaries
from serving.testing.stub_server import PICTURE, StubServer
from serving.tuning import TUNING, Tuning

ADDER = "/v2/models/adder/infer"
X = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3.5, 4]}


def test_looking_around(client: TestClient) -> None:
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    for prefix in ("/v2/models/adder", "/v2/models/adder/versions/1"):
        assert client.get(prefix + "/ready").json() == {"name": "adder", "ready": True}
        assert client.get(prefix).json() == {
            "name": "adder",
            "versions": ["1"],
            "platform": "python",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
            "outputs": [
                {"name": "y", "datatype": "FP32", "shape": [-1, 4]},
                {"name": "result", "datatype": "UINT8", "shape": [-1, -1]},
            ],
        }
        config = client.get(prefix + "/config").json()
        assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}]
        assert config["max_batch_size"] == 8
    for path in ("/v2/models/nope", "/v2/models/adder/versions/2", "/v2/models/nope/ready"):
        assert assert_problem(client.get(path), 404, "not_found")["error"].startswith("not_found: ")


def test_a_model_that_is_down(client: TestClient, server: StubServer) -> None:
    def down(request: ServerRequest) -> None:
        if request.model_name == "adder":
            raise Unavailable("gone")

    server.canary_hook = down
    client.portal.call(client.app.state.context.readiness.check_all)  # type: ignore[union-attr, attr-defined]
    assert_problem(client.get("/v2/models/adder/ready"), 503, "unavailable")
    assert_problem(client.get("/v2/health/ready"), 503, "unavailable")
    assert client.get("/v2/models/digits/ready").status_code == 200
    assert client.post("/v2/models/adder/infer", json={"inputs": [X]}).status_code == 200  # others are not kept out


def test_json_in_json_out(client: TestClient, server: StubServer) -> None:
    answer = client.post(ADDER, json={"id": "my-7", "inputs": [X], "outputs": [{"name": "y"}]})
    assert answer.json() == {
        "model_name": "adder",
        "model_version": "1",
        "id": "my-7",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [2.0, 3.0, 4.5, 5.0]}],
    }
    assert server.asked[0].request_id == "my-7"
    nested = {**X, "shape": [2, 4], "data": [[1, 2, 3, 4], [5, 6, 7, 8]]}
    assert client.post(ADDER, json={"inputs": [nested]}).json()["outputs"][0]["shape"] == [2, 4]


def binary(document: dict[str, Any], *arrays: np.ndarray[Any, Any]) -> tuple[bytes, dict[str, str]]:
    header = json.dumps(document).encode()
    return b"".join([header, *(a.tobytes() for a in arrays)]), {"Inference-Header-Content-Length": str(len(header))}


def test_binary_both_ways(client: TestClient) -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    entry = {"name": "x", "datatype": "FP32", "shape": [2, 4], "parameters": {"binary_data_size": 32}}
    for extra in (
        {"parameters": {"binary_data_output": True}, "outputs": [{"name": "y"}]},
        {"outputs": [{"name": "y", "parameters": {"binary_data": True}}]},
    ):
        body, headers = binary({"inputs": [entry], **extra}, x)
        answer = client.post(ADDER, content=body, headers=headers)
        assert answer.status_code == 200 and answer.headers["content-type"] == "application/octet-stream"
        length = int(answer.headers["inference-header-content-length"])
        described = json.loads(answer.content[:length])["outputs"][0]
        assert described["parameters"] == {"binary_data_size": 32} and "data" not in described
        assert np.frombuffer(answer.content[length:], np.float32).reshape(2, 4).tolist() == (x + 1).tolist()
    body, headers = binary({"inputs": [entry], "outputs": [{"name": "y"}]}, x)
    assert client.post(ADDER, content=body, headers=headers).json()["outputs"][0]["data"] == (x + 1).ravel().tolist()


def test_a_picture_with_task_parameters(client: TestClient, server: StubServer) -> None:
    picture = np.frombuffer(PICTURE, np.uint8)[None]
    entry = {
        "name": "image",
        "datatype": "UINT8",
        "shape": list(picture.shape),
        "parameters": {"binary_data_size": picture.nbytes},
    }
    document = {
        "inputs": [entry],
        "parameters": {"top_k": 3, "score_threshold": 0.25},
        "outputs": [{"name": "class_id"}],
    }
    body, headers = binary(document, picture)
    answer = client.post("/v2/models/digits/infer", content=body, headers=headers)
    assert answer.json()["outputs"] == [{"name": "class_id", "datatype": "INT32", "shape": [1, 1], "data": [1]}]
    assert server.asked[0].parameters == {"top_k": 3, "score_threshold": "0.25"}
    assert server.asked[0].tensors[0].array.tobytes() == PICTURE


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({}, "inputs: expected a list"),
        ({"inputs": []}, "inputs: expected 1 to 64"),
        ({"inputs": [3]}, "inputs[0]: expected an object"),
        ({"inputs": [X], "more": 1}, "unknown key 'more'"),
        ({"inputs": [X], "id": 7}, "id: expected a text"),
        ({"inputs": [{**X, "name": ""}]}, "inputs[0].name"),
        ({"inputs": [{**X, "datatype": "BYTES"}]}, "inputs[0].datatype: expected one of"),
        ({"inputs": [{**X, "datatype": "FP16"}]}, "binary data only"),
        ({"inputs": [{**X, "shape": [1, 5]}]}, "needs 5 numbers, got 4"),
        ({"inputs": [{**X, "shape": [1, -4]}]}, "inputs[0].shape"),
        ({"inputs": [{**X, "shape": [1, True]}]}, "inputs[0].shape"),
        ({"inputs": [{**X, "shape": [2**31 - 1, 2**31 - 1]}]}, "numbers, got 4"),
        ({"inputs": [{**X, "shape": []}]}, "inputs[0].shape"),
        ({"inputs": [{**X, "data": ["a", "b", "c", "d"]}]}, "expected FP32 numbers"),
        ({"inputs": [{**X, "data": [[1, 2], [3]]}]}, "expected numbers"),
        ({"inputs": [{**X, "data": [1e300, 0, 0, 0]}]}, "too large for FP32"),
        ({"inputs": [{**X, "data": [True, True, False, False]}]}, "expected FP32 numbers"),
        ({"inputs": [{**X, "data": [1, 2, 3, "4"]}]}, "expected FP32 numbers"),
        ({"inputs": [{**X, "data": [1, 2, 3, None]}]}, "expected FP32 numbers"),
        ({"inputs": [{**X, "data": [1, 2, 3, [4]]}]}, "expected FP32 numbers"),
        ({"inputs": [{**X, "data": [[1, 2, 3, {"a": 4}]]}]}, "expected FP32 numbers"),
        ({"inputs": [{**X, "data": [[[1, 2, 3, 4]]]}]}, "flat or nested as the shape is"),
        ({"inputs": [{**X, "data": [[1, 2], [3, 4]]}]}, "shape [1, 4] needs 4 numbers"),
        ({"inputs": [{**X, "data": [[], []]}]}, "needs 4 numbers, got 0"),
        ({"inputs": [{**X, "datatype": "UINT8", "data": [1, 2, 3, 256]}]}, "UINT8 holds 0 to 255"),
        ({"inputs": [{**X, "datatype": "INT64", "data": [-1, 2, 3, 2**64 - 1]}]}, "INT64 holds -9223372036854775808"),
        ({"inputs": [{**X, "datatype": "INT32", "data": [1, 2, 3, 4.5]}]}, "expected INT32 numbers"),
        ({"inputs": [{**X, "datatype": "INT64", "data": [2**70, 2, 3, 4]}]}, "expected INT64 numbers"),
        ({"inputs": [{**X, "parameters": {"shared_memory_region": "a"}}]}, "unknown key 'shared_memory_region'"),
        ({"inputs": [{**X, "parameters": {"binary_data_size": 16}}]}, "got both"),
        ({"inputs": [X, X]}, "a name stands twice"),
        ({"inputs": [X], "outputs": [{"name": "y", "parameters": {"classification": 3}}]}, "unknown key 'classif"),
        ({"inputs": [X], "outputs": [{"name": "y"}, {"name": "y"}]}, "a name stands twice"),
        ({"inputs": [X], "outputs": [{"name": "z"}]}, "'z'"),
        ({"inputs": [{**X, "name": "w"}]}, "'w'"),
        ({"inputs": [{**X, "shape": [9, 4], "data": [0] * 36}]}, "batch size of 1 to 8"),
        ({"inputs": [X], "parameters": {"binary_data_output": 1}}, "expected true or false"),
    ],
)
def test_bad_requests_say_where(client: TestClient, document: dict[str, Any], says: str) -> None:
    body = assert_problem(client.post(ADDER, json=document), 400, "body_invalid")
    assert says in body["detail"] and body["error"] == f"body_invalid: {body['detail']}"


def test_a_long_text_among_numbers_costs_no_array_of_texts() -> None:
    entry = {"name": "image", "datatype": "UINT8", "shape": [1, 1001], "data": ["x" * 10_000, *["y"] * 1000]}
    body = json.dumps({"inputs": [entry]}).encode()
    tracemalloc.start()
    try:
        with pytest.raises(BodyInvalid, match="expected UINT8 numbers"):
            decode(body, None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000, "as wide as the longest, a thousand texts are 40 MB"


@pytest.mark.parametrize(
    "parameters",
    [
        {"sequence_id": 1},
        {"priority": 1},
        {"timeout": 0},
        {"timeout": 1.5},
        {"roi": "0,0,1,1"},
        {"timeout": True},
        {"top_k": 1},
    ],
)
def test_parameters_that_are_not_served(client: TestClient, parameters: dict[str, Any]) -> None:
    answer = client.post(ADDER, json={"inputs": [X], "parameters": parameters})
    assert_problem(answer, 422, "parameter_invalid")


@pytest.mark.parametrize("length", ["-1", "x", "99999", "1e3", "", "9" * 30])
def test_bad_header_lengths(client: TestClient, length: str) -> None:
    answer = client.post(ADDER, json={"inputs": [X]}, headers={"Inference-Header-Content-Length": length})
    assert_problem(answer, 400, "body_invalid")


def test_binary_sizes_have_to_add_up(client: TestClient) -> None:
    x = np.zeros((1, 4), np.float32)
    for size, tail in ((16, b"more"), (12, b""), (20, b"1234"), (16, None)):
        entry = {"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": size}}
        body, headers = binary({"inputs": [entry]}, x)
        body = body[:-8] if tail is None else body + tail
        assert_problem(client.post(ADDER, content=body, headers=headers), 400, "body_invalid")


def test_nothing_that_json_cannot_carry_goes_out_as_null(client: TestClient, server: StubServer) -> None:
    server.hook = lambda request: {n: np.array([[1, np.nan, 3, 4]], np.float32) for n in ("y", "result")}
    assert "binary_data" in assert_problem(client.post(ADDER, json={"inputs": [X]}), 422, "input_invalid")["hint"]
    answer = client.post(ADDER, json={"inputs": [X], "parameters": {"binary_data_output": True}})
    assert answer.status_code == 200


def test_the_timeout_parameter_is_a_deadline(client: TestClient, server: StubServer) -> None:
    server.model("adder").seconds = 2.0
    answer = client.post(ADDER, json={"inputs": [X], "parameters": {"timeout": 50_000}})
    assert_problem(answer, 504, "deadline_exceeded")


def test_compression_and_queries_are_refused(client: TestClient) -> None:
    answer = client.post(ADDER, json={"inputs": [X]}, headers={"content-encoding": "gzip"})
    assert_problem(answer, 415, "media_type_unsupported")
    assert_problem(client.post(ADDER + "?a=1", json={"inputs": [X]}), 422, "parameter_invalid")
    answer = client.post(ADDER, content=b"{}", headers={"content-type": "text/plain"})
    assert_problem(answer, 415, "media_type_unsupported")


def test_a_batch_is_bound_by_what_tune_chose(settings: Settings, server: StubServer, catalogue: Catalogue) -> None:
    """Triton is started with that bound; a client that believed the YAML's got its refusal."""
    Tuning(instances=1, threads=1, max_batch=2, cores=1).write(catalogue.get("adder").version_dir)
    (catalogue.get("digits").version_dir / TUNING).write_text("{")
    with TestClient(create_app(settings, server, catalogue, stub_canaries(catalogue.bundles))) as client:
        assert client.get("/v2/models/adder/config").json()["max_batch_size"] == 2
        assert client.get("/v1/models/adder").json()["batch"] == {"max": 2}
        assert client.get("/v1/models/digits").json()["batch"] == {"max": 8}, "a broken file takes no gateway down"
        two, three = ({**X, "shape": [n, 4], "data": [0] * 4 * n} for n in (2, 3))
        assert client.post(ADDER, json={"inputs": [two]}).status_code == 200
        body = assert_problem(client.post(ADDER, json={"inputs": [three]}), 400, "body_invalid")
    assert "one batch size of 1 to 2, got [3]" in body["detail"]
