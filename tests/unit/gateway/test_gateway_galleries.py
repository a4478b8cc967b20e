"""/v1/galleries over a pipeline whose answers are told from a picture's first pixels: every route and refusal."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import orjson
import pytest
from gateway_kit import assert_problem
from starlette.testclient import TestClient

from serving.config import Settings
from serving.gallery import Galleries, GalleryReader, GalleryWriter
from serving.gateway.app import create_app
from serving.gateway.catalogue import Catalogue
from serving.ports import ServerRequest
from serving.testing.stub_bundles import make_bundle, stub_bundles, stub_canaries
from serving.testing.stub_server import StubServer
from serving.types import Array

CHAIN = "c" * 64
STEPS = [
    {"name": "faces", "do": "infer", "model": "detector"},
    {"name": "chip", "do": "crop", "of": "faces"},
    {"name": "look", "do": "infer", "of": "chip", "model": "embedder"},
    {"name": "who", "do": "match", "of": "look", "gallery": "people", "options": {"threshold": 0.9, "margin": 0.05}},
]


def picture(*people: int, small: bool = False) -> bytes:
    """A PNG whose first row says who is in it."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0, : len(people), 0] = people
    pixels[1, 0, 0] = 255 if small else 0
    return cv2.imencode(".png", pixels)[1].tobytes()


def answer(request: ServerRequest, server: StubServer, chain: list[str]) -> Mapping[str, Array] | None:
    if request.model_name != "face_identify":
        return None
    assert request.parameters["embeddings"] is True
    pixels = cv2.imdecode(request.tensors[0].array[0], cv2.IMREAD_COLOR)[:, :, 0]
    rows = []
    for place, person in enumerate(int(p) for p in pixels[0] if p):
        vector = np.zeros(4)
        vector[person % 4], vector[(person + 1) % 4] = 1, 0.01 * (person // 4)
        problems = ["small"] if pixels[1, 0] else []
        rows.append({
            "xyxy": [place * 10.0, 0, place * 10 + 9.0, 9], "confidence": 0.9, "class_id": 0, "label": "unknown",
            "origin": "measured", "chip": {"good": not problems, "problems": problems},
            "look": {"embedding": vector.tolist(), "fingerprint": chain[0]},
        })  # fmt: skip
    document = {**server.document("digits"), "model": "face_identify", "task": "pipeline", "detections": rows}
    return {"result": np.frombuffer(orjson.dumps(document), np.uint8)[None]}


@pytest.fixture
def chain() -> list[str]:
    return [CHAIN]


@pytest.fixture
def client(tmp_path: Path, chain: list[str]) -> Iterator[TestClient]:
    bundle = make_bundle(tmp_path, "face_identify", "pipeline", steps=STEPS,
                         answer={"detections": "faces", "fields": ["who"]})  # fmt: skip
    catalogue = Catalogue({**stub_bundles(tmp_path), "face_identify": bundle})
    server = StubServer(catalogue.bundles)
    server.hook = lambda request: answer(request, server, chain)
    settings = Settings(galleries=tmp_path / "galleries")
    with TestClient(create_app(settings, server, catalogue, stub_canaries(catalogue.bundles))) as client:
        yield client


@pytest.fixture
def people(client: TestClient) -> str:
    made = client.post("/v1/galleries", json={"name": "people", "pipeline": "face_identify"})
    assert made.status_code == 201 and made.json()["subjects"] == 0 and made.json()["search"] == "exact"
    return "/v1/galleries/people"


def enrol(client: TestClient, people: str, subject: str, person: int, label: str = "", put: bool = False) -> Any:
    call = client.put if put else client.post
    query = f"?label={label}" if label else ""
    return call(f"{people}/subjects/{subject}{query}", content=picture(person), headers={"content-type": "image/png"})


def test_enrol_search_update_delete_list(client: TestClient, people: str) -> None:
    first = enrol(client, people, "anna", 1, "Anna%20A.")
    assert first.status_code == 201
    assert first.json() == {"gallery": "people", "subject": "anna", "label": "Anna A.", "samples": 1, "sample": 1}
    assert enrol(client, people, "anna", 5).json()["samples"] == 2
    assert enrol(client, people, "ben", 2).status_code == 201
    counted = 'lockstep_inference_stage_seconds_total{model="face_identify",stage="decode"} 0.0045'
    assert counted in client.get("/metrics").text
    found = client.post(f"{people}/search?top=2", content=picture(2, 1, 3)).json()["results"]
    assert [(row["status"], row["label"]) for row in found] == [
        ("known", "ben"), ("known", "Anna A."), ("unknown", "unknown"),
    ]  # fmt: skip
    assert found[2]["reason"] == "below_threshold" and found[0]["nearest"][0]["subject"] == "ben"
    assert found[0]["xyxy"] == [0, 0, 9, 9] and found[0]["problems"] == []
    by_vector = client.post(f"{people}/search", json={"embedding": [0, 0, 1, 0], "top": 1}).json()["results"]
    assert by_vector[0]["subject"] == "ben" and len(by_vector[0]["nearest"]) == 1
    assert client.patch(f"{people}/subjects/ben", json={"label": "Ben B."}).json()["label"] == "Ben B."
    assert enrol(client, people, "anna", 3, put=True).json()["samples"] == 1
    assert client.get(f"{people}/subjects/anna").json()["label"] == "anna", "replaced with everything"
    whole = client.get(people).json()
    assert [row["subject"] for row in whole["subjects_list"]] == ["ben", "anna"] or whole["subjects"] == 2
    assert client.get("/v1/galleries").json()["galleries"][0]["samples"] == 2
    assert client.delete(f"{people}/subjects/anna").status_code == 204
    assert_problem(client.get(f"{people}/subjects/anna"), 404, "not_found")
    assert client.delete(people).status_code == 204
    assert client.get("/v1/galleries").json() == {"galleries": []}
    assert_problem(client.get(people), 404, "not_found")


def test_near_duplicates_of_a_gallery(client: TestClient, people: str) -> None:
    assert client.get(f"{people}/duplicates").json()["groups"] == []
    for subject, person in (("anna", 1), ("ben", 2), ("anna_again", 5)):  # 5 is 1 moved a little
        assert enrol(client, people, subject, person, label=f"L-{subject}").status_code == 201
    told = client.get(f"{people}/duplicates").json()
    assert (told["gallery"], told["threshold"], told["samples"]) == ("people", 0.9, 3), "the pipeline's own threshold"
    (group,) = told["groups"]
    assert [row["subject"] for row in group["samples"]] == ["anna", "anna_again"]
    assert group["samples"][0] == {"subject": "anna", "label": "L-anna", "sample": 1}
    assert 0.99 < group["least"] == group["best"] <= 1
    assert client.get(f"{people}/duplicates?threshold=1").json()["groups"] == []
    for query in ("threshold=2", "threshold=x", "threshold=nan", "top=3"):
        assert_problem(client.get(f"{people}/duplicates?{query}"), 422, "parameter_invalid")
    assert_problem(client.get("/v1/galleries/nobody/duplicates"), 404, "not_found")


def test_a_picture_without_or_with_several_faces_is_not_enrolled(client: TestClient, people: str) -> None:
    for body, code in ((picture(), "nothing_to_enrol"), (picture(1, 2), "several_to_enrol"),
                       (picture(1, small=True), "quality_too_low")):  # fmt: skip
        problem = assert_problem(client.post(f"{people}/subjects/anna", content=body), 422, code)
        assert problem["hint"]
    assert client.get(people).json()["samples"] == 0
    assert "found 2: 0,0,9,9; 10,0,19,9" in client.post(f"{people}/subjects/a", content=picture(1, 2)).json()["detail"]


def test_an_empty_gallery_knows_nobody(client: TestClient, people: str) -> None:
    (row,) = client.post(f"{people}/search", content=picture(1)).json()["results"]
    assert (row["status"], row["reason"]) == ("unknown", "empty_gallery")
    assert client.post(f"{people}/search", content=picture()).json() == {"results": []}


def test_another_chain_of_models_is_refused(client: TestClient, people: str, chain: list[str]) -> None:
    enrol(client, people, "anna", 1)
    chain[0] = "d" * 64
    assert_problem(enrol(client, people, "anna", 1), 409, "gallery_mismatch")
    assert_problem(client.post(f"{people}/search", content=picture(1)), 409, "gallery_mismatch")


def test_a_threshold_by_a_false_accept_rate(client: TestClient, people: str) -> None:
    for person in range(1, 13):
        enrol(client, people, f"p{person}", person)
    assert_problem(client.patch(people, json={"far": 0.001}), 422, "parameter_invalid")
    found = client.patch(people, json={"far": 0.1}).json()
    assert found["far"] == 0.1 and found["measured"]["impostor_pairs"] == 66 and found["measured"]["far"] <= 0.1
    assert client.patch(people, json={"threshold": 0.5, "margin": 0.2}).json()["threshold"] == 0.5
    assert client.get(people).json()["far"] is None and client.get(people).json()["margin"] == 0.2


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/galleries", {"name": "Bad Name", "pipeline": "face_identify"}, 422, "parameter_invalid"),
        ("POST", "/v1/galleries", {"name": "../x", "pipeline": "face_identify"}, 422, "parameter_invalid"),
        ("POST", "/v1/galleries", {"name": "people", "pipeline": "face_identify"}, 409, "gallery_exists"),
        ("POST", "/v1/galleries", {"name": "other", "pipeline": "digits"}, 422, "parameter_invalid"),
        ("POST", "/v1/galleries", {"name": "other", "pipeline": "nobody"}, 404, "not_found"),
        ("POST", "/v1/galleries", {"name": "other"}, 400, "body_invalid"),
        ("POST", "/v1/galleries", {"name": "other", "pipeline": "face_identify", "x": 1}, 400, "body_invalid"),
        ("POST", "/v1/galleries", {"name": "o", "pipeline": "face_identify", "threshold": 7}, 422, "parameter_invalid"),
        ("POST", "/v1/galleries", {"name": "o", "pipeline": "face_identify", "margin": True}, 400, "body_invalid"),
        ("PATCH", "/v1/galleries/people", {}, 400, "body_invalid"),
        ("PATCH", "/v1/galleries/people", {"far": 0.1, "threshold": 0.5}, 400, "body_invalid"),
        ("PATCH", "/v1/galleries/people", {"far": 0}, 422, "parameter_invalid"),
        ("PATCH", "/v1/galleries/people", {"far": 1e-320}, 422, "parameter_invalid"),
        ("PATCH", "/v1/galleries/people", {"far": 1e-300}, 422, "parameter_invalid"),
        ("PATCH", "/v1/galleries/people/subjects/nobody", {"label": "x"}, 404, "not_found"),
        ("POST", "/v1/galleries/people/search", {"embedding": []}, 400, "body_invalid"),
        ("POST", "/v1/galleries/people/search", {"embedding": ["a"]}, 400, "body_invalid"),
        ("POST", "/v1/galleries/people/search", {"embedding": [1], "top": 900}, 422, "parameter_invalid"),
        ("DELETE", "/v1/galleries/nobody", None, 404, "not_found"),
        ("DELETE", "/v1/galleries/people/subjects/nobody", None, 404, "not_found"),
        ("PUT", "/v1/galleries", None, 405, "method_not_allowed"),
    ],
)
def test_what_is_refused(
    client: TestClient, people: str, method: str, path: str, body: Any, status: int, code: str
) -> None:
    assert_problem(client.request(method, path, json=body), status, code)


def test_pictures_and_subjects_are_checked(client: TestClient, people: str) -> None:
    assert_problem(client.post(f"{people}/subjects/a%20b", content=picture(1)), 422, "parameter_invalid")
    assert_problem(client.post(f"{people}/subjects/anna?nonsense=1", content=picture(1)), 422, "parameter_invalid")
    assert_problem(client.post(f"{people}/search?top=0", content=picture(1)), 422, "parameter_invalid")
    assert_problem(client.post(f"{people}/subjects/anna", content=b""), 422, "image_invalid")
    text = {"content-type": "text/plain"}
    assert_problem(client.post(f"{people}/subjects/anna", content=b"x", headers=text), 415, "media_type_unsupported")
    enrol(client, people, "anna", 1)
    assert_problem(client.post(f"{people}/search", json={"embedding": [1, 2]}), 422, "parameter_invalid")
    assert_problem(client.post(f"{people}/search", json={"embedding": [0, 0, 0, 0]}), 422, "parameter_invalid")


@pytest.mark.parametrize("top", ["0", "51", "x", "-1", "%C2%B2", "1" * 400])
def test_a_wrong_top_is_refused_before_the_picture_is_paid_for(
    client: TestClient, people: str, top: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.gateway.routes_galleries.infer_picture", None)
    assert_problem(client.post(f"{people}/search?top={top}", content=picture(1)), 422, "parameter_invalid")


def test_the_openapi_document_has_the_routes(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert {"get", "post", "put", "patch", "delete"} == set(
        document["paths"]["/v1/galleries/{gallery}/subjects/{subject}"]
    )
    assert "/v1/models/face_identify/infer" in document["paths"]


def test_without_such_a_pipeline_there_are_no_galleries(tmp_path: Path) -> None:
    catalogue = Catalogue(stub_bundles(tmp_path))
    server = StubServer(catalogue.bundles)
    with TestClient(create_app(Settings(), server, catalogue, stub_canaries(catalogue.bundles))) as client:
        assert_problem(client.get("/v1/galleries"), 404, "not_found")
        assert "/v1/galleries" not in client.get("/openapi.json").json()["paths"]


def test_writers_that_wait_keep_their_time_and_hold_nobody_up(client: TestClient, people: str, tmp_path: Path) -> None:
    """As `enrol-folder` in another process: in a row each would wait 5 s, and readers behind them."""
    calls: tuple[tuple[str, str, Any], ...] = (
        ("PATCH", people, {"threshold": 0.5}), ("PATCH", f"{people}/subjects/anna", {"label": "x"}),
        ("DELETE", f"{people}/subjects/anna", None), ("DELETE", people, None),
    )  # fmt: skip
    enrol(client, people, "anna", 1)
    with GalleryWriter(GalleryReader(tmp_path / "galleries" / "people")), ThreadPoolExecutor(len(calls)) as pool:
        began, own = time.monotonic(), {"x-request-timeout-ms": "2000"}
        waiting = [pool.submit(client.request, method, path, json=body, headers=own) for method, path, body in calls]
        time.sleep(0.2)
        assert client.get(people).status_code == 200
        assert not all(call.done() for call in waiting), "who reads waits for none of them"
        answers = [call.result() for call in waiting]
        took_s = time.monotonic() - began
    for refused in answers:  # by the gallery, or by its own time while another one asked the gallery
        assert (refused.status_code, refused.json()["code"]) in {(503, "gallery_busy"), (504, "deadline_exceeded")}
    assert took_s < 4, took_s
    assert client.delete(f"{people}/subjects/anna").status_code == 204


def test_the_wait_for_a_turn_ends_with_the_deadline(
    client: TestClient, people: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: list[int] = []
    begun, end = threading.Event(), threading.Event()
    short = {"x-request-timeout-ms": "100"}

    def held(*_: Any) -> list[Any]:
        running.append(1 + len(running))
        begun.set()
        end.wait(10)
        running.clear()
        return []

    monkeypatch.setattr("serving.gateway.gallery_desk.near_duplicates", held)
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(client.get, f"{people}/duplicates") for _ in range(3)]
        assert begun.wait(10)
        assert_problem(client.get(f"{people}/duplicates", headers=short), 504, "deadline_exceeded")
        assert client.get(people).status_code == 200, "nobody else waits for it"
        assert running == [1], "the others would take all threads"
        end.set()
        assert [call.result().status_code for call in calls] == [200] * 3
    begun.clear()
    end.clear()
    monkeypatch.setattr(Galleries, "names", held)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.get, "/v1/galleries")
        assert begun.wait(10)
        assert_problem(client.get(people, headers=short), 504, "deadline_exceeded")
        end.set()
        assert call.result().json() == {"galleries": []}


def test_a_picture_comes_in_every_form_of_a_body(client: TestClient, people: str) -> None:
    enrol(client, people, "ben", 2)
    encoded = base64.b64encode(picture(2)).decode()
    subject, search = f"{people}/subjects/anna", f"{people}/search?top=1"
    assert client.post(subject, json={"image": base64.b64encode(picture(1)).decode()}).status_code == 201
    whole = client.post(search, content=picture(2)).json()
    assert whole["results"][0]["subject"] == "ben"
    assert client.post(search, json={"image": encoded, "parameters": {"roi": "0,0,8,8"}}).json() == whole
    assert client.post(search, files={"image": ("a.png", picture(2), "image/png")}).json() == whole
    vector, large = json.dumps({"embedding": [0, 0, 1, 0], "top": 1}), {"content-type": "Application/JSON; a=b"}
    assert client.post(search, content=vector, headers=large).json()["results"][0]["subject"] == "ben"
    for body in ({}, {"image": encoded, "embedding": [1]}, {"image": encoded, "top": 1}):
        assert_problem(client.post(search, json=body), 400, "body_invalid")
