"""Building blocks of the OpenAPI document: parameters, problems, simple operations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from serving.bundle import ModelBundle
from serving.gateway import errors
from serving.gateway.limits import MAX_TIMEOUT_MS
from serving.gateway.parameters import ROI, parameters_of
from serving.tasks.base import Parameter

Schema = dict[str, Any]
INFER_ERRORS = (400, 404, 408, 413, 415, 422, 429, 500, 503, 504)
REQUEST_ID_HEADER = {"X-Request-ID": {"schema": {"type": "string"}, "description": "the caller's id, or a new one"}}
_RETRY_HEADER = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
_TYPES = {"int": "integer", "float": "number", "str": "string", "bool": "boolean"}


def schema_of(name: str, parameter: Parameter, scenarios: Iterable[str]) -> Schema:
    """JSON Schema of one request parameter."""
    schema: Schema = {"type": _TYPES[parameter.kind]}
    for word in ("minimum", "maximum", "default"):
        if getattr(parameter, word) is not None:
            schema[word] = getattr(parameter, word)
    if name == "roi":
        schema |= {"pattern": ROI, "format": "roi"}
    if name == "scenario":
        schema["enum"] = sorted({"default", *scenarios})
    return schema


def values_of(bundle: ModelBundle) -> dict[str, Schema]:
    """JSON Schemas of all request parameters of a model."""
    spec = bundle.spec
    return {name: schema_of(name, p, spec.scenarios) for name, p in parameters_of(spec).items()}


def query_of(bundle: ModelBundle) -> list[Schema]:
    """The same as query parameters."""
    help_of = {name: p.help for name, p in parameters_of(bundle.spec).items()}
    return [
        {"name": name, "in": "query", "required": False, "description": help_of[name], "schema": schema}
        for name, schema in values_of(bundle).items()
    ]


def common_headers() -> list[Schema]:
    """Request headers that every inference takes."""
    timeout = {"type": "integer", "minimum": 1, "maximum": MAX_TIMEOUT_MS}
    what = "the time this request may take; over it: 504"
    return [{"name": "X-Request-Timeout-Ms", "in": "header", "required": False, "description": what, "schema": timeout}]


def problems(statuses: Iterable[int]) -> Schema:
    """The error answers of an operation, with the codes that each status can carry."""
    found: Schema = {}
    for status in sorted(statuses):
        rows = {code: row for code, row in errors.TABLE.items() if row.status == status}
        retry = any(row.retry_after for row in rows.values())
        content = {errors.PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        headers = {**REQUEST_ID_HEADER, **(_RETRY_HEADER if retry else {})}
        found[str(status)] = {"description": " | ".join(rows), "headers": headers, "content": content}
    return found


def get(
    operation_id: str,
    summary: str,
    answer: Schema,
    *statuses: int,
    names: Sequence[str] | None = None,
    versions: Sequence[str] | None = None,
) -> Schema:
    """A path with one GET; `names` and `versions` are the values of {name} and {version} in the path."""
    operation: Schema = {"operationId": operation_id, "summary": summary}
    given = {"name": names, "version": versions}
    parameters = [_path(name, values) for name, values in given.items() if values is not None]
    if parameters:
        operation["parameters"] = parameters
    operation["responses"] = {"200": {"description": "ok", "content": answer}, **problems(statuses)}
    return {"get": operation}


def _path(name: str, values: Sequence[str]) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": list(values)}}


def json(schema: Schema) -> Schema:
    """Content of one JSON schema."""
    return {"application/json": {"schema": schema}}
