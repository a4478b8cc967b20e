"""/v1/streams/{id}/targets: objects that a model which follows one object follows on this source.

A target is a box in one picture of an epoch. It is written into the source's record on `streams`; the worker that has
the source begins with it at its next picture.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from serving.errors import NotFound, ParameterInvalid
from serving.gateway.bodies import read_json
from serving.gateway.context import body_of, deadline_of
from serving.gateway.routes_streams import ONE, as_logged, json_response, registered, services_of, write
from serving.gateway.routing import add
from serving.gateway.stream_bodies import INT64_MOST, source_id_of
from serving.ports_index import Json, ResultIndex
from serving.records.fields import MAX_EPOCH
from serving.records.streams import target_document
from serving.targets import MOST_TARGETS, Aim, TargetInvalid, TargetRefused

TARGETS = f"{ONE}/targets"
_TAKEN = ("xyxy", "epoch", "pts_ns")


def register(app: FastAPI) -> None:
    """Put this file's routes into the app."""
    add(app, "POST", TARGETS, create)
    add(app, "GET", TARGETS, targets)
    add(app, "DELETE", f"{TARGETS}/{{target_id}}", delete)


async def create(request: Request) -> Response:
    """Follow what the box shows. Without epoch and pts_ns: from the newest result's picture on."""
    services, deadline = services_of(request), deadline_of(request)
    source_id = source_id_of(request.path_params["source_id"])
    services.table.check_up()
    body = read_json(await body_of(request, deadline))
    newest = await services.ask(deadline, lambda index: _newest(index, source_id))
    async with services.alone(deadline, source_id):
        stream = await as_logged(services, deadline, source_id)
        if newest is None:
            hint = "GET /v1/streams/{source_id} shows the newest result under `latest`"
            raise TargetRefused(f"{source_id}: no picture of it is known yet, so its size is not", hint=hint)
        aim = _aim(body, newest, max((known.target_id for known in stream.targets), default=0) + 1)
        kept = tuple(known for known in stream.targets if known.epoch >= int(newest["epoch"]))
        if len(kept) >= MOST_TARGETS:
            raise TargetRefused(f"{source_id}: has {MOST_TARGETS} targets, the most there may be", hint="DELETE one")
        await write(services, deadline, replace(stream, targets=(*kept, aim)))
    headers = {"location": f"/v1/streams/{source_id}/targets/{aim.target_id}"}
    return json_response({"source_id": source_id, **target_document(aim)}, 201, headers)


async def targets(request: Request) -> Response:
    """The targets of a source; their states are in its results."""
    services, deadline = services_of(request), deadline_of(request)
    source_id = source_id_of(request.path_params["source_id"])
    services.table.check_up()
    stream = await registered(services, deadline, source_id)
    return json_response({"source_id": source_id, "targets": [target_document(aim) for aim in stream.targets]})


async def delete(request: Request) -> Response:
    """Follow it no longer."""
    services, deadline = services_of(request), deadline_of(request)
    source_id, number = source_id_of(request.path_params["source_id"]), request.path_params["target_id"]
    services.table.check_up()
    async with services.alone(deadline, source_id):
        stream = await as_logged(services, deadline, source_id)
        kept = tuple(aim for aim in stream.targets if str(aim.target_id) != number)
        if len(kept) == len(stream.targets):
            hint = f"GET /v1/streams/{source_id}/targets"
            raise NotFound(f"{source_id}: there is no target {number[:20]!r}", hint=hint)
        await write(services, deadline, replace(stream, targets=kept))
    return Response(None, 204)


def _newest(index: ResultIndex, source_id: str) -> Json | None:
    """The newest result that tells the size of its picture."""
    found = [document for document in index.latest(source_id).documents.values() if document.get("image")]
    return max(found, key=lambda document: (document["epoch"], document["pts_ns"]), default=None)


def _aim(body: Mapping[str, Any], newest: Json, target_id: int) -> Aim:
    """Raises ParameterInvalid, TargetInvalid."""
    unknown = [name for name in body if name not in _TAKEN]
    if unknown:
        raise ParameterInvalid(f"unknown {unknown[0][:60]!r}; expected {', '.join(_TAKEN)}")
    box = [_whole(value) for value in body["xyxy"]] if isinstance(body.get("xyxy"), list) else []
    x1, y1, x2, y2 = box if len(box) == 4 else (None,) * 4
    if x1 is None or y1 is None or x2 is None or y2 is None:
        got = reprlib.repr(body.get("xyxy"))[:60]
        raise TargetInvalid(f"xyxy: expected [x1, y1, x2, y2], whole source pixels, got {got}")
    epoch = _number(body, "epoch", 1, MAX_EPOCH, int(newest["epoch"]))
    same = epoch == int(newest["epoch"])
    pts_ns = _number(body, "pts_ns", 0, INT64_MOST, int(newest["pts_ns"]) if same else 0)
    aim = Aim(target_id, (x1, y1, x2, y2), epoch, pts_ns)
    aim.check_inside(int(newest["image"]["width"]), int(newest["image"]["height"]))
    return aim


def _number(body: Mapping[str, Any], name: str, low: int, high: int, default: int) -> int:
    value = _whole(body[name]) if name in body else default
    if value is None or not low <= value <= high:
        raise ParameterInvalid(f"{name}: expected an integer from {low} to {high}, got {reprlib.repr(body[name])[:40]}")
    return value


def _whole(value: Any) -> int | None:
    """2.0 is an integer in JSON Schema (draft 2020-12); true is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or abs(value) > INT64_MOST:
        return None
    return int(value)
