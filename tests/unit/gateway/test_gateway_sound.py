"""POST /v1/models/{name}/infer of a model that hears: the forms of a body, what is refused, and what /docs says."""

from __future__ import annotations

import base64
from pathlib import Path

import jsonschema
import pytest
from gateway_kit import assert_problem
from starlette.testclient import TestClient

from serving.errors import ServingError
from serving.errors_audio import AudioInvalid, AudioTooLong, AudioUnsupported
from serving.gateway.catalogue import Catalogue
from serving.ports import ServerRequest
from serving.testing.stub_bundles import make_bundle
from serving.testing.stub_server import StubServer
from tests.unit.preprocess.test_sound import file_of, tone

INFER = "/v1/models/ears/infer"
SOUND = file_of(tone(0.1))


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    labels, outputs = ["speech", "music"], ["scores"]
    ears = make_bundle(tmp_path, "ears", "audio", sound={"window": 512}, labels=labels, outputs=outputs)
    return Catalogue({"ears": ears})


@pytest.mark.parametrize("kind", ["audio/wav", "audio/x-wav", "audio/flac", "application/octet-stream", None])
def test_the_bytes_of_a_file_go_on_as_they_came(client: TestClient, server: StubServer, kind: str | None) -> None:
    answer = client.post(INFER, content=SOUND, headers={"content-type": kind} if kind else {})
    assert answer.status_code == 200 and answer.json() == server.document("ears")
    (request,) = server.asked
    assert request.tensors[0].name == "audio" and request.tensors[0].array.tobytes() == SOUND


def test_form_and_json_name_the_sound_audio(client: TestClient, server: StubServer) -> None:
    form = client.post(f"{INFER}?score_threshold=0.7", files={"audio": ("a.wav", SOUND, "audio/wav")})
    text = base64.b64encode(SOUND).decode()
    one = client.post(INFER, json={"audio": text, "parameters": {"pcm": "16000x2"}})
    many = client.post(INFER, json={"audios": [text, text]})
    assert [form.status_code, one.status_code, many.status_code, len(many.json()["results"])] == [200, 200, 200, 2]
    assert {request.tensors[0].array.tobytes() for request in server.asked} == {SOUND}
    assert server.asked[0].parameters == {"score_threshold": "0.7"}
    assert server.asked[1].parameters == {"pcm": "16000x2"}


def test_what_is_no_sound_is_refused_before_the_server_is_asked(client: TestClient, server: StubServer) -> None:
    assert_problem(client.post(INFER, content=b""), 422, "audio_invalid")
    assert_problem(client.post(INFER, content=SOUND, headers={"content-type": "image/png"}), 415,
                   "media_type_unsupported")  # fmt: skip
    about = assert_problem(client.post(INFER, json={"image": "AAAA"}), 400, "body_invalid")["detail"]
    assert "'image (of a picture)'" in about and "audio" in about
    assert_problem(client.post(f"{INFER}?roi=1,2,3,4", content=SOUND), 422, "parameter_invalid")
    assert not server.asked


@pytest.mark.parametrize(
    ("error", "status"),
    [(AudioInvalid("cut off"), 422), (AudioUnsupported("4000 Hz"), 415), (AudioTooLong("9 h"), 413)],
)
def test_what_the_model_says_of_a_sound_has_its_status(
    client: TestClient, server: StubServer, error: ServingError, status: int
) -> None:
    def refuse(request: ServerRequest) -> None:
        raise error

    server.hook = refuse
    answer = client.post(INFER, content=SOUND, headers={"content-type": "audio/wav"})
    assert error.message in assert_problem(answer, status, error.code)["detail"]


def test_the_published_schema_of_the_answer_holds_for_it(client: TestClient, server: StubServer) -> None:
    post = client.get("/openapi.json").json()["paths"][INFER]["post"]
    assert {"audio/wav", "audio/flac", "multipart/form-data", "application/json"} < set(post["requestBody"]["content"])
    schema = post["responses"]["200"]["content"]["application/json"]["schema"]["anyOf"][0]
    jsonschema.validate(server.document("ears"), schema)
    assert "Content-Type: audio/wav" in post["x-example"]
    assert "roi" not in {parameter["name"] for parameter in post["parameters"]}
