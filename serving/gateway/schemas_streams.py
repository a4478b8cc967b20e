"""The stream routes in /openapi.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving.gateway import schemas_targets
from serving.gateway.operations import REQUEST_ID_HEADER, common_headers, json, problems
from serving.gateway.schemas_answers import BOOLEAN, INTEGER, TEXT, array, obj
from serving.gateway.stream_bodies import INT64_MOST, LIMIT_DEFAULT, LIMIT_MOST, SECONDS_MOST
from serving.ports_index import ROLES

Schema = dict[str, Any]
NAME: Schema = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"}
OR_NAME: Schema = {"type": "string", "pattern": "^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$"}
ERRORS = (404, 422, 429, 503, 504)
ADDRESS: Schema = {
    "type": "string",
    "format": "source-address",
    "minLength": 1,
    "maxLength": 2048,
    "description": "rtsp(s), rtmp(s), http(s), srt, udp, or a file in an allowed folder; secrets by name: {CAMERA_1}",
}
_FIELDS: dict[str, Schema] = {
    "address": ADDRESS,
    "pipelines": array(NAME) | {"minItems": 1, "maxItems": 64, "uniqueItems": True, "description": "models to analyse"},
    "every": {"type": "integer", "minimum": 1, "maximum": 1000, "description": "analyse each n-th frame"},
    "delay_ms": {"type": "integer", "minimum": 0, "maximum": 60_000, "description": "presentation delay, milliseconds"},
    "mixed": BOOLEAN | {"description": "draw the results into a video of its own (hls)"},
    "roi": {
        "type": "string",
        "pattern": "^([0-9]{1,5}(,[0-9]{1,5}){3})?$",
        "description": "x1,y1,x2,y2 in source pixels: only this part is analysed",
    },
    "max_fps": {"type": "integer", "minimum": 1, "maximum": 1000, "description": "a live source beyond it sheds"},
    "lease_s": {
        "type": ["integer", "null"],
        "minimum": 1,
        "maximum": 86_400,
        "description": "seconds without a picture after which a live source ends; null: never",
    },
    "track": OR_NAME | {"description": "a tracker such as bytetrack"},
    "mask": {
        "type": "string",
        "format": "mask-path",
        "maxLength": 1024,
        "description": "picture of the source's size; black is not analysed",
    },
    "scenario": OR_NAME | {"description": "named thresholds of the model"},
    "recording": BOOLEAN | {"description": "an MP4 of the mixed video beside the HLS"},
    "captions": BOOLEAN | {"description": "a banner, and a name at each box, in the mixed video"},
    "publish": {
        "type": "string",
        "format": "publish-address",
        "maxLength": 2048,
        "description": "rtsp or rtmp address that gets the mixed video as well",
    },
}
_NUMBER: Schema = {"type": ["number", "null"]}
_INTEGER: Schema = {"type": ["integer", "null"]}
_STATE = obj(
    {
        "running": BOOLEAN | {"description": "ingest has the source, and pictures"},
        "epoch": _INTEGER,
        "fps_in": _NUMBER,
        "fps_analysed": _NUMBER,
        "last_result_age_s": _NUMBER,
        "drops": {"type": "object", "additionalProperties": INTEGER, "description": "by reason"},
        "alignment": obj(
            {
                "aligned": {"type": ["boolean", "null"]},
                **dict.fromkeys(("shown", "late", "missing", "mismatched"), _INTEGER),
            }
        ),
        "balance": obj(dict.fromkeys(("accepted", "results", "in_flight"), _INTEGER)),
        "error": {"type": ["string", "null"]},
    }
)
_SHOWN = {"source_id": NAME, **_FIELDS, "address": TEXT, "publish": TEXT, "mask": TEXT}
STREAM = obj(_SHOWN)
_ROW = obj({**_SHOWN, "state": {"anyOf": [_STATE, {"type": "null"}]}})
_DOCUMENT: Schema = {"type": "object", "description": "docs/results.schema.json"}
_FULL = obj(
    {
        **_SHOWN,
        "state": _STATE,
        "roles": obj({role: {"type": "object"} for role in ROLES}, optional=ROLES, more=True),
        "latest": {"type": "object", "additionalProperties": _DOCUMENT, "description": "by pipeline"},
    }
)
_RESULTS = obj(
    {"source_id": NAME, "epoch": _INTEGER, "results": array(_DOCUMENT), "next_from_pts_ns": _INTEGER},
)
_FILES: Schema = {
    "application/vnd.apple.mpegurl": {"schema": TEXT},
    "video/mp4": {"schema": TEXT},
    "video/iso.segment": {"schema": TEXT},
    "application/json": {"schema": {"type": "object"}},
}
_LINKED = ("stream", "change_stream", "delete_stream", "stream_results", "stream_events")


def paths() -> dict[str, Schema]:
    """The paths of /v1/streams."""
    name = _parameter("source_id", "path", NAME, "name of the source", required=True)
    return {
        "/v1/streams": {"get": _list(), "post": _create()},
        "/v1/streams/{source_id}": {
            "get": _operation("stream", "One source: how it is read, and how it goes", json(_FULL), [name]),
            "patch": _change(name),
            "delete": _delete(name),
        },
        "/v1/streams/{source_id}/results": {"get": _results(name)},
        "/v1/streams/{source_id}/events": {"get": _events(name)},
        "/v1/streams/{source_id}/hls/{file}": {"get": _hls(name)},
        **schemas_targets.paths(name),
    }


def _operation(operation_id: str, summary: str, content: Schema, parameters: Sequence[Schema] = (),
               errors: Sequence[int] = ERRORS) -> Schema:  # fmt: skip
    return {
        "operationId": operation_id,
        "summary": summary,
        "parameters": [*parameters, *common_headers()],
        "responses": {"200": _answer("ok", content), **problems(errors)},
    }


def _answer(what: str, content: Schema) -> Schema:
    return {"description": what, "headers": REQUEST_ID_HEADER, "content": content}


def _parameter(name: str, where: str, schema: Schema, what: str, required: bool = False) -> Schema:
    return {"name": name, "in": where, "required": required, "description": what, "schema": schema}


def _list() -> Schema:
    return _operation("streams", "The registered sources and their states", json(obj({"streams": array(_ROW)})))


def _create() -> Schema:
    optional = tuple(name for name in _FIELDS if name not in ("address", "pipelines"))
    body = obj({"source_id": NAME, **_FIELDS}, optional=optional)
    found = _operation("create_stream", "Register a source; the same again is no error", json(STREAM), [], _BODY_ERRORS)
    given = {"source_id": "$response.body#/source_id"}
    links = {operation: {"operationId": operation, "parameters": given} for operation in _LINKED}
    created = _answer("registered", json(STREAM)) | {"links": links}
    created["headers"] = {**REQUEST_ID_HEADER, "Location": {"schema": TEXT, "description": "where it is"}}
    found["responses"]["201"] = created
    found["requestBody"] = {"required": True, "content": json(body)}
    found["x-example"] = (
        "curl -X POST -H 'Content-Type: application/json' http://127.0.0.1:8080/v1/streams"
        ' -d \'{"source_id": "gate", "address": "rtsp://camera.example.org/live", "pipelines": ["NAME"]}\''
    )
    return found


_BODY_ERRORS = (400, 408, 409, 413, 415, 422, 429, 503, 504)


def _change(name: Schema) -> Schema:
    body = obj(_FIELDS, optional=tuple(_FIELDS))
    errors = (400, 404, 408, 413, 415, 422, 429, 503, 504)
    found = _operation("change_stream", "Change some of a source's settings", json(STREAM), [name], errors)
    return found | {"requestBody": {"required": True, "content": json(body)}}


def _delete(name: Schema) -> Schema:
    found = _operation("delete_stream", "Take a source away; its results stay for their time", {}, [name])
    del found["responses"]["200"]
    found["responses"]["204"] = {"description": "taken away", "headers": REQUEST_ID_HEADER}
    return found


def _results(name: Schema) -> Schema:
    time: Schema = {"type": "integer", "minimum": 0, "maximum": INT64_MOST}
    limit = {"type": "integer", "minimum": 1, "maximum": LIMIT_MOST, "default": LIMIT_DEFAULT}
    epoch = {"type": "integer", "minimum": 1, "maximum": (1 << 31) - 1}
    parameters = [
        name,
        _parameter("from_pts_ns", "query", time, "first pts_ns; the next page begins at next_from_pts_ns"),
        _parameter("to_pts_ns", "query", time, "the range ends before it"),
        _parameter("epoch", "query", epoch, "the newest"),
        _parameter("limit", "query", limit, "about so many; results of one picture stay together"),
    ]
    return _operation("stream_results", "Results of a range of PTS, in its order", json(_RESULTS), parameters)


def _events(name: Schema) -> Schema:
    seconds = {"type": "integer", "minimum": 1, "maximum": SECONDS_MOST}
    last: Schema = {
        "type": "string",
        "pattern": "^[1-9][0-9]{0,8}/(0|[1-9][0-9]{0,17})/[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
    }
    parameters = [
        name,
        _parameter("seconds", "query", seconds, "ends after so long; without it, never"),
        _parameter("Last-Event-ID", "header", last, "goes on behind this event"),
    ]
    event = obj({"id": TEXT, "event": TEXT, "data": TEXT, "retry": INTEGER}, optional=("id", "event", "data", "retry"))
    content = {"text/event-stream": {"schema": event}}
    return _operation("stream_events", "Results as they are recorded: server-sent events", content, parameters)


def _hls(name: Schema) -> Schema:
    pattern = "^(index\\.m3u8|init-[0-9]{3,6}\\.mp4|segment-[0-9]{5,9}\\.(m4s|json))$"
    file = _parameter("file", "path", {"type": "string", "pattern": pattern}, "index.m3u8 and what it lists", True)
    return _operation(
        "stream_hls", "The mixed video as HLS, and a table of each segment's pictures", _FILES, [name, file]
    )
