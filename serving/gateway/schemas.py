"""/openapi.json, built from the catalogue: each model's own infer operation with exactly its parameters and answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving import __version__
from serving.bundle import ModelBundle
from serving.gateway import schemas_answers, schemas_galleries, schemas_streams, schemas_v2
from serving.gateway.bodies import MAX_IMAGES, RAW_TYPES, SOUND_TYPES
from serving.gateway.catalogue import Catalogue
from serving.gateway.operations import (
    INFER_ERRORS,
    REQUEST_ID_HEADER,
    common_headers,
    get,
    json,
    problems,
    query_of,
    values_of,
)
from serving.gateway.schemas_answers import obj

Schema = dict[str, Any]
_SERVER_TIMING_HEADER = {"Server-Timing": {"schema": {"type": "string"}, "description": "milliseconds by stage"}}


def openapi(catalogue: Catalogue) -> Schema:
    """The OpenAPI 3.1 document. `/v1/models/{name}/infer` stands as one path a model: parameters differ by task."""
    names = [bundle.name for bundle in catalogue]
    pictures = [bundle for bundle in catalogue if bundle.spec.takes_files]
    paths: dict[str, Schema] = {f"/v1/models/{b.name}/infer": {"post": _infer(b)} for b in pictures}
    paths |= _model_paths(names)
    paths |= schemas_v2.paths(catalogue)
    paths |= schemas_galleries.paths([b for b in catalogue if any(s.do == "match" for s in b.spec.steps)])
    paths |= schemas_streams.paths()
    paths |= _process_paths()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Lockstep gateway",
            "version": __version__,
            "description": "Send a picture, get the model's answer. The raw body is the fast way; errors are"
            " problem+json with stable codes; X-Request-Timeout-Ms bounds the time, X-Request-ID comes back.",
        },
        "paths": paths,
        "components": {"schemas": {"Problem": schemas_answers.PROBLEM}},
    }


def _infer(bundle: ModelBundle) -> Schema:
    result = schemas_answers.result(bundle)
    what, kind, file = ("picture", "image/jpeg", "photo.jpg")
    if bundle.spec.sound is not None:
        what, kind, file = ("sound", "audio/wav", "talk.wav")
    return {
        "operationId": f"infer_{bundle.name}",
        "summary": bundle.spec.description or f"{bundle.spec.task} of one {what}, or of several",
        "parameters": [*query_of(bundle), *common_headers()],
        "requestBody": {"required": True, "content": _bodies(bundle)},
        "responses": {
            "200": {
                "description": "the result, or {results: [...]} for a batch",
                "headers": {**REQUEST_ID_HEADER, **_SERVER_TIMING_HEADER},
                "content": json({"anyOf": [result, schemas_answers.batch(result)]}),
            },
            **problems(INFER_ERRORS),
        },
        "x-example": f"curl -X POST -H 'Content-Type: {kind}' --data-binary @{file}"
        f" http://127.0.0.1:8080/v1/models/{bundle.name}/infer",
    }


def _bodies(bundle: ModelBundle) -> Schema:
    image = {"type": "string", "contentEncoding": "base64", "format": "base64-image", "minLength": 4}
    values = values_of(bundle)
    parameters = obj(values, optional=tuple(values))
    images = {"type": "array", "items": image, "minItems": 1, "maxItems": MAX_IMAGES}
    if bundle.spec.sound is not None:
        sound = obj({"audio": {**image, "format": "base64-sound"}, "parameters": parameters}, optional=("parameters",))
        body: Schema = {"schema": {"type": "string", "format": "sound-file", "minLength": 1}}
        part: Schema = {"type": "string", "format": "sound-file"}
        form = obj({"audio": part, "parameters": parameters}, optional=("parameters",))
        encoding = {"parameters": {"contentType": "application/json"}, "audio": {"contentType": "audio/wav"}}
        return {
            **dict.fromkeys(SOUND_TYPES, body),
            "multipart/form-data": {"schema": form, "encoding": encoding},
            "application/json": {"schema": sound},
        }
    one = obj({"image": image, "parameters": parameters}, optional=("parameters",))
    many = obj({"images": images, "parameters": parameters}, optional=("parameters",))
    file: Schema = {"type": "string", "format": "image-file"}
    form = obj({"image": file, "parameters": parameters}, optional=("parameters",))
    return {
        **{kind: {"schema": {"type": "string", "format": "image-file", "minLength": 1}} for kind in RAW_TYPES},
        "multipart/form-data": {
            "schema": form,
            "encoding": {"parameters": {"contentType": "application/json"}, "image": {"contentType": "image/jpeg"}},
        },
        "application/json": {"schema": {"oneOf": [one, many]}},
    }


def _model_paths(names: Sequence[str]) -> dict[str, Schema]:
    certificate = {**json({"type": "object"}), "text/html": {"schema": {"type": "string"}}}
    proof = "The proof that the model computes what its checkpoint did"
    models = get("models", "The models and their state", json(schemas_answers.MODELS))
    first = {"name": "$response.body#/models/0/name"}
    models["get"]["responses"]["200"]["links"] = {
        operation: {"operationId": operation, "parameters": first}
        for operation in ("model", "certificate", "v2_model", "v2_model_ready", "v2_model_config")
    }
    return {
        "/v1/models": models,
        "/v1/models/{name}": get("model", "One model", json(schemas_answers.MODEL), 404, names=names),
        "/v1/models/{name}/certificate": get("certificate", proof, certificate, 404, names=names),
    }


def _process_paths() -> dict[str, Schema]:
    text = {"text/plain": {"schema": {"type": "string"}}}
    page = {"text/html": {"schema": {"type": "string"}}}
    ready = get("readyz", "Whether every required model answers", json(schemas_answers.READY))
    ready["get"]["responses"]["503"] = {"description": "not ready", "content": json(schemas_answers.READY)}
    return {
        "/healthz": get("healthz", "Whether the process runs", json(schemas_answers.ALIVE)),
        "/readyz": ready,
        "/metrics": get("metrics", "Prometheus metrics of all workers", text),
        "/openapi.json": get("openapi", "This document", json({"type": "object"})),
        "/docs": get("docs", "This document for people", page),
    }
