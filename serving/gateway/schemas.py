"""/openapi.json, built from the catalogue: each model's own infer operation with exactly its parameters and answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from serving import __version__
from serving.bundle import ModelBundle
from serving.gateway import errors, schemas_answers, schemas_v2
from serving.gateway.bodies import MAX_IMAGES, RAW_TYPES
from serving.gateway.catalogue import Catalogue
from serving.gateway.limits import MAX_TIMEOUT_MS
from serving.gateway.parameters import ROI, parameters_of
from serving.tasks.base import Parameter

Schema = dict[str, Any]
_TYPES = {"int": "integer", "float": "number", "str": "string", "bool": "boolean"}
_INFER_ERRORS = (400, 404, 408, 413, 415, 422, 429, 500, 503, 504)


def openapi(catalogue: Catalogue) -> Schema:
    """The OpenAPI 3.1 document. `/v1/models/{name}/infer` stands as one path a model: parameters differ by task."""
    names = [bundle.name for bundle in catalogue]
    paths: dict[str, Schema] = {}
    for bundle in catalogue:
        if bundle.spec.preprocess is not None:
            paths[f"/v1/models/{bundle.name}/infer"] = {"post": _infer(bundle)}
    paths |= _model_paths(names)
    paths |= schemas_v2.paths(catalogue)
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
    spec = bundle.spec
    result = schemas_answers.result(bundle)
    parameters = parameters_of(spec)
    return {
        "operationId": f"infer_{bundle.name}",
        "summary": spec.description or f"{spec.task} of one picture, or of several",
        "tags": ["inference"],
        "parameters": [*(_query(name, p, spec.thresholds) for name, p in parameters.items()), *common_headers()],
        "requestBody": {"required": True, "content": _bodies(parameters, spec.thresholds)},
        "responses": {
            "200": {
                "description": "the result, or {results: [...]} for a batch",
                "headers": {**_REQUEST_ID_HEADER, **_SERVER_TIMING_HEADER},
                "content": {"application/json": {"schema": {"anyOf": [result, schemas_answers.batch(result)]}}},
            },
            **problems(_INFER_ERRORS),
        },
        "x-example": f"curl -T photo.jpg -X POST -H 'Content-Type: image/jpeg' $URL/v1/models/{bundle.name}/infer",
    }


def _bodies(parameters: Mapping[str, Parameter], scenarios: Iterable[str]) -> Schema:
    image = {"type": "string", "contentEncoding": "base64", "format": "base64-image", "minLength": 4}
    values: Schema = {
        "type": "object",
        "properties": {name: schema_of(name, p, scenarios) for name, p in parameters.items()},
        "additionalProperties": False,
    }
    one: Schema = {"properties": {"image": image, "parameters": values}, "required": ["image"]}
    images = {"type": "array", "items": image, "minItems": 1, "maxItems": MAX_IMAGES}
    many: Schema = {"properties": {"images": images, "parameters": values}, "required": ["images"]}
    forms: Schema = {"type": "object", "additionalProperties": False}
    file: Schema = {"type": "string", "format": "image-file"}
    return {
        **{kind: {"schema": {"type": "string", "format": "binary", "minLength": 1}} for kind in RAW_TYPES},
        "multipart/form-data": {
            "schema": {
                **forms,
                "properties": {"image": file, "parameters": values},
                "required": ["image"],
            },
            "encoding": {"parameters": {"contentType": "application/json"}, "image": {"contentType": "image/jpeg"}},
        },
        "application/json": {"schema": {"oneOf": [{**forms, **one}, {**forms, **many}]}},
    }


def schema_of(name: str, parameter: Parameter, scenarios: Iterable[str]) -> Schema:
    """JSON Schema of one request parameter."""
    schema: Schema = {"type": _TYPES[parameter.kind]}
    if parameter.minimum is not None:
        schema["minimum"] = parameter.minimum
    if parameter.maximum is not None:
        schema["maximum"] = parameter.maximum
    if parameter.default is not None:
        schema["default"] = parameter.default
    if name == "roi":
        schema |= {"pattern": ROI, "format": "roi"}
    if name == "scenario":
        schema["enum"] = sorted({"default", *scenarios})
    return schema


def _query(name: str, parameter: Parameter, scenarios: Iterable[str]) -> Schema:
    schema = schema_of(name, parameter, scenarios)
    return {"name": name, "in": "query", "required": False, "description": parameter.help, "schema": schema}


def common_headers() -> list[Schema]:
    """Request headers that every inference takes."""
    timeout = {"type": "integer", "minimum": 1, "maximum": MAX_TIMEOUT_MS}
    what = "the time this request may take; over it: 504"
    return [{"name": "X-Request-Timeout-Ms", "in": "header", "required": False, "description": what, "schema": timeout}]


_REQUEST_ID_HEADER = {"X-Request-ID": {"schema": {"type": "string"}, "description": "the caller's id, or a new one"}}
_SERVER_TIMING_HEADER = {"Server-Timing": {"schema": {"type": "string"}, "description": "milliseconds by stage"}}
_RETRY_HEADER = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}


def problems(statuses: Iterable[int]) -> Schema:
    """The error answers of an operation, with the codes that each status can carry."""
    found: Schema = {}
    for status in sorted(statuses):
        rows = {code: row for code, row in errors.TABLE.items() if row.status == status}
        headers = {**_REQUEST_ID_HEADER}
        if any(row.retry_after for row in rows.values()):
            headers |= _RETRY_HEADER
        content = {errors.PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        found[str(status)] = {"description": " | ".join(rows), "headers": headers, "content": content}
    return found


def get(operation_id: str, summary: str, answer: Schema, *statuses: int, names: list[str] | None = None) -> Schema:
    """A GET operation; `names` are the values of the path's {name}."""
    operation: Schema = {"operationId": operation_id, "summary": summary}
    if names is not None:
        operation["parameters"] = [name_parameter(names)]
    operation["responses"] = {"200": {"description": "ok", "content": answer}, **problems(statuses)}
    return {"get": operation}


def name_parameter(names: list[str]) -> Schema:
    """The path's {name}: one of the models."""
    return {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "enum": names}}


def _model_paths(names: list[str]) -> dict[str, Schema]:
    certificate = {
        "application/json": {"schema": {"type": "object"}},
        "text/html": {"schema": {"type": "string"}},
    }
    return {
        "/v1/models": get("models", "The models and their state", _json(schemas_answers.MODELS)),
        "/v1/models/{name}": get("model", "One model", _json(schemas_answers.MODEL), 404, names=names),
        "/v1/models/{name}/certificate": get(
            "certificate", "The proof that the model computes what its checkpoint did", certificate, 404, names=names
        ),
    }


def _process_paths() -> dict[str, Schema]:
    text = {"text/plain": {"schema": {"type": "string"}}}
    page = {"text/html": {"schema": {"type": "string"}}}
    ready = get("readyz", "Whether every required model answers", _json(schemas_answers.READY))
    ready["get"]["responses"]["503"] = {"description": "not ready", "content": _json(schemas_answers.READY)}
    return {
        "/healthz": get("healthz", "Whether the process runs", _json(schemas_answers.ALIVE)),
        "/readyz": ready,
        "/metrics": get("metrics", "Prometheus metrics of all workers", text),
        "/openapi.json": get("openapi", "This document", _json({"type": "object"})),
        "/docs": get("docs", "This document for people", page),
    }


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}
