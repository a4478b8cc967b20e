"""The routes of a stream's targets in /openapi.json."""

from __future__ import annotations

from typing import Any

from serving.gateway.operations import REQUEST_ID_HEADER, common_headers, json, problems
from serving.gateway.schemas_answers import TEXT, array, obj
from serving.gateway.stream_bodies import INT64_MOST
from serving.records.fields import MAX_EPOCH

Schema = dict[str, Any]
_PIXEL: Schema = {"type": "integer", "minimum": 0, "maximum": 1 << 16}
_FIELDS: dict[str, Schema] = {
    "xyxy": array(_PIXEL) | {"minItems": 4, "maxItems": 4, "description": "x1, y1, x2, y2 in source pixels"},
    "epoch": {"type": "integer", "minimum": 1, "maximum": MAX_EPOCH, "description": "the newest result's"},
    "pts_ns": {"type": "integer", "minimum": 0, "maximum": INT64_MOST,
               "description": "the box is that of the first picture at or behind it; the newest result's"},
}  # fmt: skip
_TARGET_ID: Schema = {"type": "integer", "minimum": 1}
_TARGET = {"target_id": _TARGET_ID, **_FIELDS}


def paths(name: Schema) -> dict[str, Schema]:
    """name: the parameter source_id."""
    body = obj(_FIELDS, optional=("epoch", "pts_ns"))
    created = {
        "description": "followed from the worker's next picture on",
        "headers": {**REQUEST_ID_HEADER, "Location": {"schema": TEXT, "description": "where it is"}},
        "content": json(obj({"source_id": TEXT, **_TARGET})),
    }
    found = {
        "description": "ok",
        "headers": REQUEST_ID_HEADER,
        "content": json(obj({"source_id": TEXT, "targets": array(obj(_TARGET))})),
    }
    gone = {"description": "followed no longer", "headers": REQUEST_ID_HEADER}
    target = {"name": "target_id", "in": "path", "required": True, "schema": _TARGET_ID, "description": "its number"}
    written = (400, 404, 408, 409, 413, 415, 422, 429, 503, 504)
    return {
        "/v1/streams/{source_id}/targets": {
            "get": _operation("targets", "The targets of a source", {"200": found}, [name], (404, 422, 429, 503, 504)),
            "post": _operation("create_target", "Follow what a box shows", {"201": created}, [name], written)
            | {"requestBody": {"required": True, "content": json(body)}},
        },
        "/v1/streams/{source_id}/targets/{target_id}": {
            "delete": _operation("delete_target", "Follow it no longer", {"204": gone}, [name, target],
                                 (404, 422, 429, 503, 504)),
        },
    }  # fmt: skip


def _operation(
    operation_id: str, summary: str, answers: Schema, parameters: list[Schema], errors: tuple[int, ...]
) -> Schema:
    return {
        "operationId": operation_id,
        "summary": summary,
        "parameters": [*parameters, *common_headers()],
        "responses": {**answers, **problems(errors)},
    }
